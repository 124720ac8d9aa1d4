"""Every validation of ops/ that this machine can run: `make ops-check`, or `python -m ops.check`.

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
WORKFLOWS = sorted(str(path) for path in (ROOT / ".github/workflows").glob("*.yml"))
TEMPLATES = sorted(str(path) for path in (ROOT / "ops/deploy/cloudformation").glob("*.yaml"))
TESTS = (
    "tests/architecture/test_alerts.py",
    "tests/architecture/test_metrics_catalogue.py",
    "tests/architecture/test_pipelines.py",
    "tests/architecture/test_infrastructure.py",
    "tests/integration/test_dashboards.py",
    "tests/integration/test_incident.py",
    "tests/integration/test_restore.py",
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
        otherwise="its wheel downloads a binary when it is built; install it by hand",
    ),
    Check("Dockerfile: hadolint", ("hadolint", "ops/deploy/Dockerfile"), "hadolint"),
    Check(
        "shell scripts: shellcheck",
        ("shellcheck", "ops/deploy/deploy.sh", "ops/deploy/rollback.sh"),
        "shellcheck",
        otherwise="apt-get install shellcheck",
    ),
    Check("CloudFormation: cfn-lint", ("cfn-lint", *TEMPLATES), "cfn-lint"),
    Check(
        "CloudFormation: checkov",
        ("checkov", "--quiet", "--compact", "-d", "ops/deploy/cloudformation"),
        "checkov",
        otherwise="its pins contradict ours: pip install it elsewhere and put it on the PATH",
    ),
    Check(
        "Terraform: format",
        ("terraform", "fmt", "-check", "-diff", "ops/deploy/terraform"),
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
        "the image builds",
        ("docker", "build", "--file", "ops/deploy/Dockerfile", "--tag", "vitrine:check", "."),
        "docker",
        needs=("docker", "info"),
        otherwise="a container engine",
    ),
    Check("tests of operations", (PYTHON, "-m", "pytest", "-q", *TESTS)),
)


def main() -> int:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    found = skipped = 0
    for check in CHECKS:
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
    print(f"{len(CHECKS) - found - skipped} ok, {found} with findings, {skipped} skipped")
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
    raise SystemExit(main())
