# `terraform test`, with providers that make nothing.
mock_provider "aws" {
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] }
  }
  mock_data "aws_region" {
    defaults = { region = "eu-central-1" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_resource "aws_cloudformation_stack" {
    defaults = { outputs = { RollbackAlarms = "a,b" } }
  }
}
mock_provider "random" {}
variables {
  environment     = "staging"
  image           = "registry.example/vitrine:1.0.0"
  certificate_arn = "arn:aws:acm:eu-central-1:123456789012:certificate/x"
  quiet_email     = "ops@shop.example"
}
run "topology" {
  command = plan
  assert {
    condition     = aws_db_instance.this.multi_az && aws_db_instance.this.storage_encrypted
    error_message = "the database survives the loss of a zone, and is encrypted"
  }
  assert {
    condition     = length(aws_nat_gateway.this) == 2
    error_message = "a NAT gateway a zone"
  }
  assert {
    condition     = length(aws_sns_topic_subscription.page) == 0
    error_message = "without an endpoint of PagerDuty there is no subscription"
  }
  assert {
    condition     = aws_ecs_service.api.deployment_configuration[0].strategy == "BLUE_GREEN"
    error_message = "the API is deployed blue-green"
  }
}
run "out_of_range" {
  command = plan
  variables {
    environment        = "playground"
    image              = "vitrine"
    certificate_arn    = "none"
    quiet_email        = "nobody"
    pagerduty_endpoint = "http://events"
    admin_cidr         = "10.0.0.0"
    network_number     = 256
    nat_gateways       = 3
    database_class     = "db.t2.micro"
    database_gigabytes = 10
    backup_days        = 0
    archive_days       = 1
    redis_node         = "cache.t2.micro"
    redis_replicas     = 0
    api_workers        = 0
    api_minimum        = 1
    api_maximum        = 1
    requests_per_task  = 1
    worker_memory      = 30720
    worker_maximum     = 0
    log_days           = 1
    train_schedule     = "daily"
  }
  expect_failures = [
    var.environment, var.image, var.certificate_arn, var.quiet_email, var.pagerduty_endpoint,
    var.admin_cidr, var.network_number, var.nat_gateways, var.database_class,
    var.database_gigabytes, var.backup_days, var.archive_days, var.redis_node, var.redis_replicas,
    var.api_workers, var.api_minimum, var.api_maximum, var.requests_per_task, var.worker_memory,
    var.worker_maximum, var.log_days, var.train_schedule,
  ]
}
