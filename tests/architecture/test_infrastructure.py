"""Infrastructure as code: deployed to moto in the order that the root template wires, each resource
that moto knows asked for by its API, the rest held against the template."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from app.telemetry.embedded_metrics import DIMENSION, NAMESPACE
from app.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "ops/deploy/cloudformation"
REGION = "eu-central-1"
ORDER = ("foundation", "network", "data", "load-balancer", "alarms", "service")


@cache
def loaded(name: str) -> dict[str, Any]:
    """A template, its short forms (`!Ref`) written out."""
    yaml = pytest.importorskip("yaml", reason="PyYAML: make ops-check")

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined,misc,unused-ignore]
        pass

    def long_form(loader: Any, tag: str, node: Any) -> Any:
        if isinstance(node, yaml.ScalarNode):
            value = loader.construct_scalar(node)
            if tag == "GetAtt":
                value = value.split(".", 1)
        elif isinstance(node, yaml.SequenceNode):
            value = loader.construct_sequence(node, deep=True)
        else:
            value = loader.construct_mapping(node, deep=True)
        return {"Ref" if tag == "Ref" else f"Fn::{tag}": value}

    Loader.add_multi_constructor("!", long_form)
    found: dict[str, Any] = yaml.load((TEMPLATES / f"{name}.yaml").read_text(), Loader)
    return found


def resources(name: str, type_: str | None = None) -> dict[str, Any]:
    return {
        key: value
        for key, value in loaded(name)["Resources"].items()
        if type_ is None or value["Type"] == type_
    }


def everything() -> list[tuple[str, str, dict[str, Any]]]:
    return [(name, key, value) for name in ORDER for key, value in resources(name).items()]


def test_cloudwatch_is_as_the_alerts_are_defined() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ops.deploy.cloudwatch", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_root_gives_each_stack_what_it_asks_for() -> None:
    for stack in resources("vitrine", "AWS::CloudFormation::Stack").values():
        name = Path(stack["Properties"]["TemplateURL"]).stem
        given = stack["Properties"]["Parameters"]
        asked = loaded(name)["Parameters"]
        assert set(given) <= set(asked), name
        needed = {key for key, value in asked.items() if "Default" not in value}
        assert needed <= set(given), f"{name}: {needed - set(given)}"
        for key, value in given.items():
            if "Fn::GetAtt" in value:
                other, output = value["Fn::GetAtt"]
                output = output.removeprefix("Outputs.")
            elif "Ref" in value:
                root = loaded("vitrine")["Parameters"][value["Ref"]]
                for bound in ("MinValue", "MaxValue", "AllowedValues"):
                    if name != "alarms" and key != "Environment":
                        assert root.get(bound) == asked[key].get(bound), f"{name}.{key}: {bound}"
                continue
            else:
                continue
            outputs = loaded(Path(_url(other)).stem)["Outputs"]
            assert output in outputs, f"{name}.{key}: {other} has no output {output}"


def _url(stack: str) -> str:
    return str(loaded("vitrine")["Resources"][stack]["Properties"]["TemplateURL"])


def test_every_number_and_choice_has_a_range() -> None:
    for name in ("vitrine", *ORDER[:4], "service"):
        for key, parameter in loaded(name)["Parameters"].items():
            if parameter["Type"] == "Number":
                bounded = {"MinValue", "MaxValue"} <= set(parameter) or "AllowedValues" in parameter
                assert bounded, f"{name}.{key}"


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_parameters_of_environments_are_within_their_ranges(environment: str) -> None:
    given = json.loads((TEMPLATES / "parameters" / f"{environment}.json").read_text())
    known = loaded("vitrine")["Parameters"]
    assert given["Environment"] == environment
    for name, value in given.items():
        assert _allowed(known[name], value), f"{name}: {value}"
    missing = {name for name, value in known.items() if "Default" not in value} - set(given)
    assert missing == {"Image"}  # deploy.sh gives it


def test_a_parameter_out_of_range_is_refused_by_the_template() -> None:
    known = loaded("vitrine")["Parameters"]
    wrong = {
        "Environment": "playground",
        "Image": "vitrine",
        "CertificateArn": "none",
        "NetworkNumber": "256",
        "NatGateways": "3",
        "DatabaseClass": "db.t2.micro",
        "BackupDays": "0",
        "ApiMinimum": "1",
        "PagerDutyEndpoint": "http://events",
        "QuietEmail": "nobody",
        "AdminCidr": "10.0.0.0",
        "DatabaseGigabytes": "8001",
        "RedisNode": "cache.t2.micro",
        "ApiWorkers": "0",
        "ApiMaximum": "201",
    }
    assert set(wrong) == set(known), "a parameter that may be anything"
    for name, value in wrong.items():
        assert not _allowed(known[name], value), name


def test_tasks_are_of_sizes_that_fargate_sells() -> None:
    """MiB that a task of so many units of processor may have: AWS' table "Task CPU and memory"."""
    sold = {
        "512": range(1024, 4097, 1024),
        "1024": range(2048, 8193, 1024),
        "2048": range(4096, 16385, 1024),
        "4096": range(8192, 30721, 1024),
    }
    service = loaded("service")
    for name, rule in service["Rules"].items():
        cpu = rule["RuleCondition"]["Fn::Equals"][1]
        ((memory, _),) = (one["Assert"]["Fn::Contains"] for one in rule["Assertions"])
        assert {int(mib) for mib in memory} <= set(sold[cpu]), name
        choices = service["Parameters"]["ApiMemory"]["AllowedValues"]
        assert {int(mib) for mib in memory} == set(sold[cpu]) & set(choices), name
    cpus = {rule["RuleCondition"]["Fn::Equals"][1] for rule in service["Rules"].values()}
    assert cpus == {str(cpu) for cpu in service["Parameters"]["ApiCpu"]["AllowedValues"]}
    for mib in service["Parameters"]["WorkerMemory"]["AllowedValues"]:
        assert mib in sold["2048"]
    for name in ("SchedulerTask", "MigrateTask"):
        task = service["Resources"][name]["Properties"]
        assert task["Memory"] in sold[str(task["Cpu"])], name


def _allowed(parameter: Mapping[str, Any], value: str) -> bool:
    if "AllowedValues" in parameter and value not in map(str, parameter["AllowedValues"]):
        return False
    if "AllowedPattern" in parameter and not re.search(parameter["AllowedPattern"], value):
        return False
    if parameter["Type"] == "Number":
        return bool(parameter["MinValue"] <= float(value) <= parameter["MaxValue"])
    return True


# What a template says, where moto cannot


def test_the_database_survives_a_zone_and_a_mistake() -> None:
    (database,) = resources("data", "AWS::RDS::DBInstance").values()
    properties = database["Properties"]
    assert database["DeletionPolicy"] == "Snapshot"
    assert properties["StorageEncrypted"] is True
    assert properties["PubliclyAccessible"] is False
    parameters = loaded("data")["Parameters"]
    assert parameters["DatabaseMultiAz"]["Default"] == "true"
    assert parameters["Protect"]["Default"] == "true"
    assert parameters["BackupDays"]["MinValue"] >= 7
    (group,) = resources("data", "AWS::RDS::DBParameterGroup").values()
    assert group["Properties"]["Parameters"]["rds.force_ssl"] == "1"


def test_redis_fails_over_and_is_encrypted() -> None:
    (redis,) = resources("data", "AWS::ElastiCache::ReplicationGroup").values()
    for name in (
        *("AutomaticFailoverEnabled", "MultiAZEnabled"),
        *("AtRestEncryptionEnabled", "TransitEncryptionEnabled"),
    ):
        assert redis["Properties"][name] is True, name
    (group,) = resources("data", "AWS::ElastiCache::ParameterGroup").values()
    assert not group["Properties"]["Properties"]["maxmemory-policy"].startswith("allkeys")


def test_acknowledged_events_are_kept() -> None:
    (spool,) = resources("data", "AWS::EFS::FileSystem").values()
    assert (spool["DeletionPolicy"], spool["Properties"]["Encrypted"]) == ("Retain", True)
    task = resources("service")["ApiTask"]["Properties"]
    (vitrine,) = (c for c in task["ContainerDefinitions"] if c["Name"] == "vitrine")
    assert {"Name": "VITRINE_EVENT_SPOOL", "Value": "/spool"} in vitrine["Environment"]
    assert {m["SourceVolume"]: m["ContainerPath"] for m in vitrine["MountPoints"]}[
        "spool"
    ] == "/spool"


def test_a_bad_deployment_is_taken_back() -> None:
    deployment = resources("service")["Api"]["Properties"]["DeploymentConfiguration"]
    assert deployment["Strategy"] == "BLUE_GREEN"
    assert deployment["Alarms"]["Rollback"] is True
    assert deployment["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
    rolling = loaded("alarms")["Outputs"]["RollbackAlarms"]["Value"]["Fn::Join"][1]
    assert {one["Ref"] for one in rolling} >= {"VitrineDown", "VitrineAvailabilityBudgetBurnsFast"}


def test_roles_are_given_no_more_than_they_need() -> None:
    for name, key, resource in everything():
        if resource["Type"] not in ("AWS::IAM::Role", "AWS::IAM::Policy"):
            continue
        properties = resource["Properties"]
        documents = [one["PolicyDocument"] for one in properties.get("Policies", ())]
        documents += [properties["PolicyDocument"]] if "PolicyDocument" in properties else []
        for statement in (s for document in documents for s in document["Statement"]):
            actions = statement["Action"]
            for action in [actions] if isinstance(actions, str) else actions:
                assert "*" not in action, f"{name}.{key}: {action}"
            assert statement["Resource"] != "*", f"{name}.{key}"
    worker = json.dumps(resources("service")["WorkerRole"])
    assert "s3:PutObject" in worker
    assert "s3:PutObject" not in json.dumps(resources("service")["ApiRole"])


def test_containers_are_not_root_and_change_nothing_of_their_image() -> None:
    for task in resources("service", "AWS::ECS::TaskDefinition").values():
        for container in task["Properties"]["ContainerDefinitions"]:
            assert ":latest" not in str(container["Image"])
            if container["Name"] == "vitrine":
                assert container["User"] == "10001:10001"
                assert container["ReadonlyRootFilesystem"] is True
            names = {one["Name"] for one in container.get("Environment", ())}
            assert not {n for n in names if n.endswith(("DATABASE_URL", "REDIS_URL"))}, "a secret"


def test_each_task_ships_the_metrics_that_alarms_and_scaling_ask_for() -> None:
    for name in ("ApiTask", "WorkerTask", "SchedulerTask"):
        (vitrine,) = resources("service")[name]["Properties"]["ContainerDefinitions"]
        assert {
            "Name": "VITRINE_EMBEDDED_METRICS",
            "Value": {"Fn::Sub": "vitrine-${Environment}"},
        } in vitrine["Environment"], name
        assert vitrine["LogConfiguration"]["LogDriver"] == "awslogs"
    cluster = loaded("vitrine")["Resources"]["Alarms"]["Properties"]["Parameters"]["ClusterName"]
    assert cluster == {"Fn::Sub": "vitrine-${Environment}"}
    scaling = resources("service")["ScaleByJobs"]["Properties"]
    metric = scaling["TargetTrackingScalingPolicyConfiguration"]["CustomizedMetricSpecification"]
    assert metric["Namespace"] == NAMESPACE
    assert [one["Name"] for one in metric["Dimensions"]] == [DIMENSION]
    assert metric["MetricName"] in {one.name for one in Metrics().catalogue}


def test_tasks_are_given_settings_that_there_are() -> None:
    import msgspec

    from app.settings import Settings

    known = {f"VITRINE_{field.name.upper()}" for field in msgspec.structs.fields(Settings)}
    for task in resources("service", "AWS::ECS::TaskDefinition").values():
        for container in task["Properties"]["ContainerDefinitions"]:
            for part in ("Environment", "Secrets"):
                names = {one["Name"] for one in container.get(part, ())}
                names = {name for name in names if name.startswith("VITRINE_")}
                assert names <= known, names - known


def test_scaling_goes_both_ways_by_cost_and_latency() -> None:
    policies = resources("service", "AWS::ApplicationAutoScaling::ScalingPolicy")
    kinds = {
        value["Properties"]
        .get("TargetTrackingScalingPolicyConfiguration", {})
        .get("PredefinedMetricSpecification", {})
        .get("PredefinedMetricType")
        for value in policies.values()
    }
    assert {"ECSServiceAverageCPUUtilization", "ALBRequestCountPerTarget"} <= kinds
    alarm = resources("service")["LatencyHigh"]["Properties"]
    assert alarm["AlarmActions"] == [{"Ref": "ScaleByLatency"}]


def test_alarms_lead_to_somebody() -> None:
    found = resources("alarms", "AWS::CloudWatch::Alarm")
    assert len(found) >= 12
    for name, alarm in found.items():
        properties = alarm["Properties"]
        assert properties["AlarmActions"] == properties["OKActions"], name
        assert "ops/runbooks/" in properties["AlarmDescription"], name


def test_buckets_are_closed_and_keep_versions() -> None:
    for bucket in resources("foundation", "AWS::S3::Bucket").values():
        properties = bucket["Properties"]
        assert properties["VersioningConfiguration"]["Status"] == "Enabled"
        assert all(properties["PublicAccessBlockConfiguration"].values())
        assert bucket["DeletionPolicy"] == "Retain"
    for policy in resources("foundation", "AWS::S3::BucketPolicy").values():
        (statement,) = policy["Properties"]["PolicyDocument"]["Statement"]
        assert statement["Effect"] == "Deny"
        assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


# Deployed to moto


@pytest.fixture(scope="module")
def deployed() -> Iterator[dict[str, Any]]:
    """Outputs and resources of every stack, by its name in the root template."""
    moto = pytest.importorskip("moto", reason="moto: make ops-check")
    boto3 = pytest.importorskip("boto3", reason="boto3: make ops-check")
    environment = pytest.MonkeyPatch()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        environment.setenv(name, "testing")
    environment.setenv("AWS_DEFAULT_REGION", REGION)
    with moto.mock_aws(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # moto warns of what it skips: SKIPPED_BY_MOTO
        yield _deploy(boto3)
    environment.undo()


def _deploy(boto3: Any) -> dict[str, Any]:
    cloudformation = boto3.client("cloudformation", region_name=REGION)
    root = loaded("vitrine")
    certificate = boto3.client("acm", region_name=REGION).request_certificate(
        DomainName="shop.example.com"
    )
    given = json.loads((TEMPLATES / "parameters/production.json").read_text())
    given |= {
        "Image": "registry.example/vitrine:1.0.0",
        "CertificateArn": certificate["CertificateArn"],
    }
    given["PagerDutyEndpoint"] = "https://events.pagerduty.com/integration/x/enqueue"
    outputs: dict[str, dict[str, str]] = {}
    found: dict[str, Any] = {}

    def value(asked: Any) -> str:
        if "Ref" in asked:
            default = root["Parameters"][asked["Ref"]].get("Default", "")
            return str(given.get(asked["Ref"], default))
        if "Fn::Sub" in asked:
            return str(asked["Fn::Sub"]).replace("${Environment}", "production")
        stack, output = asked["Fn::GetAtt"]
        return outputs[stack][output.removeprefix("Outputs.")]

    for stack, resource in resources("vitrine", "AWS::CloudFormation::Stack").items():
        name = Path(resource["Properties"]["TemplateURL"]).stem
        parameters = resource["Properties"]["Parameters"]
        cloudformation.create_stack(
            StackName=name,
            TemplateBody=_for_moto((TEMPLATES / f"{name}.yaml").read_text()),
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value(asked)}
                for key, asked in parameters.items()
            ],
        )
        (described,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
        assert described["StackStatus"] == "CREATE_COMPLETE", described
        outputs[stack] = {
            **_standing_in(boto3, name),
            **{one["OutputKey"]: one["OutputValue"] for one in described.get("Outputs", ())},
        }
        found[name] = {
            one["LogicalResourceId"]: one
            for one in cloudformation.describe_stack_resources(StackName=name)["StackResources"]
            if "LogicalResourceId" in one  # moto lists what it skipped, without a name
        }
    return {"outputs": outputs, "resources": found, "boto3": boto3}


def _for_moto(text: str) -> str:
    """Without what makes moto stumble, each asserted above from the template itself: it cannot
    refer to a parameter group."""
    return text.replace(
        "DBParameterGroupName: !Ref DatabaseParameters", "DBParameterGroupName: default.postgres18"
    )


def _standing_in(boto3: Any, name: str) -> dict[str, str]:
    """Outputs of what moto's CloudFormation skips: secrets are made by their API, as others look
    into them; the rest is a name."""
    template = loaded(name)
    secrets = boto3.client("secretsmanager", region_name=REGION)
    made = {}
    for key, output in template.get("Outputs", {}).items():
        resource = template["Resources"].get(output["Value"].get("Ref"), {})
        if resource.get("Type") == "AWS::SecretsManager::Secret":
            body = json.dumps({"password": "p" * 40, "token": "t" * 40})
            secret = secrets.create_secret(Name=f"{name}/{key}", SecretString=body)
            made[key] = secret["ARN"]
        else:
            made[key] = f"{name}-{key}".lower()
    return made


SKIPPED_BY_MOTO = {
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::CloudWatch::Alarm",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::ElastiCache::ParameterGroup",
    "AWS::ElastiCache::ReplicationGroup",
    "AWS::ElastiCache::SubnetGroup",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SecretsManager::Secret",
    "AWS::WAFv2::IPSet",
    "AWS::WAFv2::WebACL",
    "AWS::WAFv2::WebACLAssociation",
}


def test_moto_makes_all_but_what_it_is_known_to_skip(deployed: dict[str, Any]) -> None:
    skipped = {
        resource["Type"]
        for name, key, resource in everything()
        if key not in deployed["resources"][name]
    }
    assert skipped == SKIPPED_BY_MOTO


def ids(deployed: dict[str, Any], type_: str) -> list[str]:
    found = [
        one["PhysicalResourceId"]
        for stack in deployed["resources"].values()
        for one in stack.values()
        if one["ResourceType"] == type_
    ]
    assert found, type_
    return found


def test_the_network_is_there(deployed: dict[str, Any]) -> None:
    ec2 = deployed["boto3"].client("ec2", region_name=REGION)
    (vpc,) = ec2.describe_vpcs(VpcIds=ids(deployed, "AWS::EC2::VPC"))["Vpcs"]
    assert vpc["CidrBlock"] == "10.40.0.0/16"
    subnets = ec2.describe_subnets(SubnetIds=ids(deployed, "AWS::EC2::Subnet"))["Subnets"]
    assert len({one["CidrBlock"] for one in subnets}) == 4
    assert len({one["AvailabilityZone"] for one in subnets}) == 2
    nats = ec2.describe_nat_gateways(NatGatewayIds=ids(deployed, "AWS::EC2::NatGateway"))
    assert len(nats["NatGateways"]) == 2
    assert len(ec2.describe_addresses(PublicIps=ids(deployed, "AWS::EC2::EIP"))["Addresses"]) == 2
    gateways = ec2.describe_internet_gateways(
        InternetGatewayIds=ids(deployed, "AWS::EC2::InternetGateway")
    )["InternetGateways"]
    assert gateways[0]["Attachments"][0]["VpcId"] == vpc["VpcId"]
    tables = ec2.describe_route_tables(RouteTableIds=ids(deployed, "AWS::EC2::RouteTable"))
    ways = [
        (route.get("GatewayId", ""), route.get("NatGatewayId", ""), len(table["Associations"]))
        for table in tables["RouteTables"]
        for route in table["Routes"]
        if route.get("DestinationCidrBlock") == "0.0.0.0/0"
    ]
    assert len(ways) == 3
    assert sum(gateway.startswith("igw-") for gateway, _, _ in ways) == 1
    assert len({nat for _, nat, _ in ways if nat}) == 2  # a zone's loss is not the other's
    (endpoint,) = ec2.describe_vpc_endpoints(VpcEndpointIds=ids(deployed, "AWS::EC2::VPCEndpoint"))[
        "VpcEndpoints"
    ]
    assert endpoint["ServiceName"].endswith(".s3")
    (flow,) = ec2.describe_flow_logs(FlowLogIds=ids(deployed, "AWS::EC2::FlowLog"))["FlowLogs"]
    assert flow["TrafficType"] == "REJECT"
    groups = ec2.describe_security_groups(GroupIds=ids(deployed, "AWS::EC2::SecurityGroup"))
    open_ = {
        (rule["FromPort"], entry["CidrIp"])
        for group in groups["SecurityGroups"]
        for rule in group["IpPermissions"]
        for entry in rule["IpRanges"]
    }
    assert open_ == {(443, "0.0.0.0/0"), (80, "0.0.0.0/0")}


def test_keys_buckets_and_topics_are_there(deployed: dict[str, Any]) -> None:
    boto3 = deployed["boto3"]
    kms = boto3.client("kms", region_name=REGION)
    (key,) = ids(deployed, "AWS::KMS::Key")
    assert kms.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"] is True
    assert "alias/vitrine-production" in {a["AliasName"] for a in kms.list_aliases()["Aliases"]}
    s3 = boto3.client("s3", region_name=REGION)
    for bucket in ids(deployed, "AWS::S3::Bucket"):
        (rule,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"][
            "Rules"
        ]
        assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    topics = boto3.client("sns", region_name=REGION)
    names = {arn.rpartition(":")[2] for arn in ids(deployed, "AWS::SNS::Topic")}
    assert names == {"vitrine-production-page", "vitrine-production-ticket"}
    for arn in ids(deployed, "AWS::SNS::Topic"):
        assert topics.get_topic_attributes(TopicArn=arn)["Attributes"]["KmsMasterKeyId"]
    groups = boto3.client("logs", region_name=REGION).describe_log_groups()["logGroups"]
    assert {group["logGroupName"] for group in groups} >= set(ids(deployed, "AWS::Logs::LogGroup"))
    assert all(group["retentionInDays"] for group in groups)


def test_stores_are_there(deployed: dict[str, Any]) -> None:
    boto3 = deployed["boto3"]
    rds = boto3.client("rds", region_name=REGION)
    (database,) = rds.describe_db_instances(DBInstanceIdentifier="vitrine-production")[
        "DBInstances"
    ]
    assert database["Engine"] == "postgres"
    assert database["DBInstanceClass"] == "db.m7g.xlarge"
    assert str(database["MultiAZ"]).lower() == "true"
    assert str(database["StorageEncrypted"]).lower() == "true"
    assert database["BackupRetentionPeriod"] == 35
    assert rds.describe_db_subnet_groups()["DBSubnetGroups"]
    groups = rds.describe_db_parameter_groups()["DBParameterGroups"]
    assert "postgres18" in {group["DBParameterGroupFamily"] for group in groups}
    efs = boto3.client("efs", region_name=REGION)
    (spool,) = efs.describe_file_systems()["FileSystems"]
    assert spool["FileSystemId"] == ids(deployed, "AWS::EFS::FileSystem")[0]
    assert spool["Encrypted"] is True
    targets = efs.describe_mount_targets(FileSystemId=spool["FileSystemId"])["MountTargets"]
    assert {one["MountTargetId"] for one in targets} == set(ids(deployed, "AWS::EFS::MountTarget"))
    (access,) = efs.describe_access_points(FileSystemId=spool["FileSystemId"])["AccessPoints"]
    assert access["PosixUser"]["Uid"] == 10001


def test_the_load_balancer_is_there(deployed: dict[str, Any]) -> None:
    elb = deployed["boto3"].client("elbv2", region_name=REGION)
    (arn,) = ids(deployed, "AWS::ElasticLoadBalancingV2::LoadBalancer")
    (balancer,) = elb.describe_load_balancers(LoadBalancerArns=[arn])["LoadBalancers"]
    assert (balancer["Scheme"], balancer["Type"]) == ("internet-facing", "application")
    listeners = {
        one["Port"]: one for one in elb.describe_listeners(LoadBalancerArn=arn)["Listeners"]
    }
    assert set(listeners) == {80, 443}
    assert listeners[443]["SslPolicy"].startswith("ELBSecurityPolicy-TLS13")
    assert listeners[80]["DefaultActions"][0]["Type"] == "redirect"
    groups = elb.describe_target_groups(
        TargetGroupArns=ids(deployed, "AWS::ElasticLoadBalancingV2::TargetGroup")
    )["TargetGroups"]
    assert {group["HealthCheckPath"] for group in groups} == {"/health/ready"}
    rules = elb.describe_rules(RuleArns=ids(deployed, "AWS::ElasticLoadBalancingV2::ListenerRule"))[
        "Rules"
    ]
    by_priority = {rule["Priority"]: rule for rule in rules}
    assert by_priority["5"]["Conditions"][0]["PathPatternConfig"]["Values"][0] == "/metrics"
    weights = by_priority["20"]["Actions"][0]["ForwardConfig"]["TargetGroups"]
    assert sorted(one["Weight"] for one in weights) == [0, 100]


def test_services_are_there(deployed: dict[str, Any]) -> None:
    boto3 = deployed["boto3"]
    ecs = boto3.client("ecs", region_name=REGION)
    (cluster,) = ids(deployed, "AWS::ECS::Cluster")
    services = ecs.describe_services(cluster=cluster, services=ids(deployed, "AWS::ECS::Service"))
    counts = {one["serviceName"]: one["desiredCount"] for one in services["services"]}
    assert counts == {
        "vitrine-production-api": 4,
        "vitrine-production-worker": 1,
        "vitrine-production-scheduler": 1,
    }
    commands = {}
    for arn in ids(deployed, "AWS::ECS::TaskDefinition"):
        task = ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
        (vitrine,) = (c for c in task["containerDefinitions"] if c["name"] == "vitrine")
        assert vitrine["image"] == "registry.example/vitrine:1.0.0"
        commands[task["family"].rpartition("-")[2]] = vitrine["command"][0]
    assert commands == {
        "api": "serve",
        "worker": "worker",
        "scheduler": "worker",
        "migrate": "migrate",
    }
    iam = boto3.client("iam", region_name=REGION)
    for name in ids(deployed, "AWS::IAM::Role"):
        assert iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
    (role,) = (name for name in ids(deployed, "AWS::IAM::Role") if "ExecutionRole" in name)
    assert iam.list_role_policies(RoleName=role)["PolicyNames"] == ["secrets"]


def test_cloudwatch_takes_each_alarm_and_the_dashboard(deployed: dict[str, Any]) -> None:
    cloudwatch = deployed["boto3"].client("cloudwatch", region_name=REGION)
    (dashboard,) = ids(deployed, "AWS::CloudWatch::Dashboard")
    body = json.loads(cloudwatch.get_dashboard(DashboardName=dashboard)["DashboardBody"])
    alarms = resources("alarms", "AWS::CloudWatch::Alarm")
    assert len(body["widgets"]) == len(alarms)

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            if "Ref" in value:
                return f"arn:aws:sns:{REGION}:123456789012:{value['Ref']}"
            if "Fn::Sub" in value:
                return value["Fn::Sub"].replace("${Environment}", "production")
            return {key: resolved(one) for key, one in value.items()}
        return [resolved(one) for one in value] if isinstance(value, list) else value

    for alarm in alarms.values():
        cloudwatch.put_metric_alarm(**resolved(alarm["Properties"]))
    names = {
        alarm["AlarmName"] for alarm in cloudwatch.describe_alarms(MaxRecords=100)["MetricAlarms"]
    }
    assert names == {f"vitrine-production-{name}" for name in alarms}
