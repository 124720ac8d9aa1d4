"""Deploy, roll back and smoke, with a stand-in for the AWS CLI and for the service."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ops.deploy import smoke

ROOT = Path(__file__).resolve().parents[2]
NEW, OLD = "registry.example/vitrine:2", "registry.example/vitrine:1"

# Writes down how it is called, and answers from files beside itself.
AWS = """#!/usr/bin/env python3
import json, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if "describe-stacks" in sys.argv or "get-parameter" in sys.argv:
    answer = here / ("running" if "describe-stacks" in sys.argv else "previous")
    if not answer.exists():
        sys.exit(255)
    print(answer.read_text())
"""


class Cloud:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = folder / "aws"
        command.write_text(AWS)
        command.chmod(command.stat().st_mode | stat.S_IXUSR)

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "ops/deploy" / script, *arguments],
            env={
                **os.environ,
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "VITRINE_TEMPLATES_BUCKET": "templates",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def verbs(self) -> list[str]:
        return [call[1] for call in self.calls()]


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


def test_a_deployment_packages_deploys_and_remembers_what_ran_before(cloud: Cloud) -> None:
    (cloud.folder / "running").write_text(OLD)
    done = cloud.run("deploy.sh", "staging", NEW)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == ["package", "describe-stacks", "deploy", "put-parameter"]
    package, _, deploy, remembered = cloud.calls()
    assert package[package.index("--s3-bucket") + 1] == "templates"
    assert "vitrine-staging" in deploy
    assert {f"Image={NEW}", "Environment=staging"} <= set(deploy)
    assert "--no-execute-changeset" not in deploy
    assert remembered[remembered.index("--value") + 1] == OLD


def test_the_first_one_has_nothing_to_remember(cloud: Cloud) -> None:
    assert cloud.run("deploy.sh", "production", NEW).returncode == 0
    assert cloud.verbs() == ["package", "describe-stacks", "deploy"]


def test_a_plan_changes_nothing(cloud: Cloud) -> None:
    (cloud.folder / "running").write_text(OLD)
    assert cloud.run("deploy.sh", "staging", NEW, "--plan").returncode == 0
    assert cloud.verbs() == ["package", "describe-stacks", "deploy"]
    assert "--no-execute-changeset" in cloud.calls()[-1]


def test_a_rollback_deploys_the_image_before(cloud: Cloud) -> None:
    (cloud.folder / "running").write_text(NEW)
    (cloud.folder / "previous").write_text(OLD)
    done = cloud.run("rollback.sh", "staging")
    assert done.returncode == 0, done.stderr
    assert OLD in done.stdout
    assert cloud.verbs() == [
        *("get-parameter", "package", "describe-stacks", "deploy", "put-parameter"),
    ]
    assert f"Image={OLD}" in cloud.calls()[3]


def test_without_an_image_before_it_says_so(cloud: Cloud) -> None:
    (cloud.folder / "previous").write_text("none")
    done = cloud.run("rollback.sh", "staging")
    assert done.returncode == 1
    assert "there is no image before the one that runs" in done.stderr
    assert cloud.verbs() == ["get-parameter"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [([], "environment: staging or production"), (["staging"], "image: REGISTRY")],
)
def test_what_is_missing_is_named(cloud: Cloud, arguments: list[str], reason: str) -> None:
    done = cloud.run("deploy.sh", *arguments)
    assert done.returncode != 0
    assert reason in done.stderr
    assert not (cloud.folder / "calls").exists()


ANSWERS = {
    "/health/ready": (200, b'{"ready": true}'),
    "/health/live": (200, b'{"alive": true}'),
    "/openapi.json": (200, b'{"openapi": "3.1.0"}'),
    "/metrics": (200, b"vitrine_workers_ready 2.0"),
    "/recommendations/v1/pods/home": (200, b'{"response": {"results": [{}]}}'),
}
Served = Callable[[dict[str, tuple[int, bytes]]], str]


@pytest.fixture
def served() -> Iterator[Served]:
    """Serves answers by path; the address."""
    servers = []

    def serve(answers: dict[str, tuple[int, bytes]]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # http.server's name
                status, body = answers.get(self.path.partition("?")[0], (404, b""))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_smoke_is_content_with_a_service_that_answers(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert smoke.main(served(ANSWERS), "key", "home") == 0
    assert capsys.readouterr().out.count("ok 200") == 4


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/health/live", (200, b'{"alive": false}')),
        ("/openapi.json", (500, b"")),
        ("/metrics", (200, b"nothing")),
        ("/recommendations/v1/pods/home", (200, b'{"response": {"results": []}}')),
    ],
)
def test_smoke_finds_what_is_wrong(
    served: Served, capsys: pytest.CaptureFixture[str], path: str, answer: tuple[int, bytes]
) -> None:
    assert smoke.main(served({**ANSWERS, path: answer}), "key", "home") == 1
    assert f"WRONG {answer[0]} {path}" in capsys.readouterr().out


def test_smoke_does_not_wait_for_ever(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "PATIENCE", 0.0)
    assert smoke.main(served({"/health/ready": (503, b"{}")})) == 1
    assert "not ready" in capsys.readouterr().err


def test_smoke_says_how_it_is_called() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "ops/deploy/smoke.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "smoke.py URL" in done.stderr
