"""`vitrine migrate`, `vitrine merchant` and `vitrine doctor`, as an operator calls them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import psycopg
import pytest

from app.cli import main, vitrine
from app.cli.doctor import Verdict, examine
from app.domain.merchant import token_digest
from app.embedded import OWNER_ROLE
from app.postgres.migration import head

Run = Callable[..., click.testing.Result]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    database_url: str,
    owner_url: str,
    redis_url: str,
) -> Run:
    """Calls a command with this test's stores; the exit code must be the one given."""
    monkeypatch.setenv("VITRINE_DATABASE_URL", database_url)
    monkeypatch.setenv("VITRINE_DATABASE_OWNER_URL", owner_url)
    monkeypatch.setenv("VITRINE_REDIS_URL", redis_url)
    monkeypatch.setenv("VITRINE_HOME", str(tmp_path))

    def call(*arguments: str, code: int = 0) -> click.testing.Result:
        result = click.testing.CliRunner().invoke(vitrine, arguments)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return call


@pytest.fixture
def empty_url(servers: Any) -> Iterator[str]:
    name = servers.create_database(migrated=False)
    yield servers.url(OWNER_ROLE, name)
    servers.drop_database(name)


def test_migrating_from_nothing_and_back(
    run: Run, monkeypatch: pytest.MonkeyPatch, empty_url: str
) -> None:
    monkeypatch.setenv("VITRINE_DATABASE_OWNER_URL", empty_url)
    assert "never been migrated" in run("migrate", "current", code=1).output
    first = run("migrate").output
    assert "applied foundation: " in first
    assert f"the database is at {head()}" in first
    assert run("migrate", "up").output == f"the database is at {head()}\n"
    assert f"this version needs {head()}" in run("migrate", "current").output
    assert "as the code says" in run("migrate", "check").output
    assert "Aborted" in run("migrate", "down", "base", code=1).output  # nobody said yes
    assert run("migrate", "current").exit_code == 0
    assert "removed foundation: " in run("migrate", "down", "base", "--yes").output


def test_migrating_needs_the_owner(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITRINE_DATABASE_OWNER_URL")
    assert "set VITRINE_DATABASE_OWNER_URL" in run("migrate", code=1).output
    monkeypatch.setenv("VITRINE_DATABASE_OWNER_URL", "postgresql://o:s3cret@127.0.0.1:1/x")
    output = run("migrate", code=1).output
    assert "does not answer" in output
    assert "s3cret" not in output
    assert "nowhere" in run("migrate", "up", "nowhere", code=1).output or output


def test_a_merchant_its_key_and_its_tokens(run: Run, admin_url: str) -> None:
    made = dict(
        line.split("\t", 1) for line in run("merchant", "create", "shop").output.splitlines()
    )
    ingest = run("merchant", "token", "shop", "ingest", "--days", "1").output
    secret = ingest.splitlines()[0].split("\t")[1]
    token_id = ingest.splitlines()[1].split("\t")[1]
    with psycopg.connect(admin_url) as connection:
        rows = connection.execute("SELECT digest FROM token").fetchall()
    assert {row[0] for row in rows} == {token_digest(made["token"]), token_digest(secret)}

    listed = run("merchant", "list", "shop").output
    assert made["key"] in listed
    assert "administrator\tvalid\t" in listed
    assert f"{token_id}\tingest\tvalid until " in listed
    assert secret not in listed
    assert made["token"] not in listed
    assert run("merchant", "list").output == "shop\tshop\n"

    rotated = run("merchant", "rotate", "shop", token_id).output.splitlines()
    assert rotated[0].split("\t")[1] != secret
    assert rotated[1].endswith("\tingest")
    key = run("merchant", "key", "shop", "--origin", "https://shop.example").output
    run("merchant", "revoke", "shop", key.strip().split("\t")[1])
    assert run("merchant", "list", "shop").output.count("\trevoked ") == 2


def test_wrong_input_is_named(run: Run) -> None:
    run("merchant", "create", "shop")
    assert "id: must be" in run("merchant", "create", "A shop", code=1).output
    assert "already" in run("merchant", "create", "shop", code=1).output
    assert "no merchant 'nobody'" in run("merchant", "list", "nobody", code=1).output
    assert "no merchant 'nobody'" in run("merchant", "key", "nobody", code=1).output
    assert "allowed_origins" in run("merchant", "key", "shop", "--origin", "x", code=1).output
    assert "'king'" in run("merchant", "token", "shop", "king", code=2).output
    assert "no token 'tok_x'" in run("merchant", "revoke", "shop", "tok_x", code=1).output
    assert "no key 'key_x'" in run("merchant", "revoke", "shop", "key_x", code=1).output


def _verdicts() -> dict[str, tuple[Verdict, str]]:
    return {
        finding.check: (finding.verdict, f"{finding.detail} {finding.mend}")
        for finding in examine()
    }


def test_the_doctor_is_content_with_a_healthy_installation(run: Run) -> None:
    run("merchant", "create", "shop")
    lines = [json.loads(line) for line in run("doctor", "--json").output.splitlines()]
    assert {line["verdict"] for line in lines} <= {"ok", "warning"}
    checks = {line["check"]: line for line in lines}
    for check in (
        "settings", "disk (home)", "strategies", "PostgreSQL", "role", "migrations", "owner",
        "clock (PostgreSQL)", "connections", "Redis", "clock (Redis)", "artefacts",
    ):  # fmt: skip
        assert checks[check]["verdict"] == "ok", checks[check]
    assert checks["artefacts"]["detail"].startswith("0 published, of 1 merchants")


def test_the_doctor_finds_what_is_wrong_and_says_what_to_do(
    run: Run, monkeypatch: pytest.MonkeyPatch, empty_url: str, admin_url: str, database_url: str
) -> None:
    monkeypatch.setenv("VITRINE_DATABASE_URL", empty_url)  # not migrated
    found = _verdicts()
    assert found["migrations"] == (
        Verdict.FAILURE,
        f"the database is at no revision, this version needs {head()} vitrine migrate up",
    )

    monkeypatch.setenv("VITRINE_DATABASE_URL", admin_url)  # above row-level security
    verdict, text = _verdicts()["role"]
    assert verdict is Verdict.FAILURE
    assert "connect as vitrine_app" in text

    monkeypatch.setenv("VITRINE_DATABASE_URL", database_url)
    monkeypatch.setenv("VITRINE_DATABASE_POOL", "100000")
    assert _verdicts()["connections"][0] is Verdict.WARNING
    monkeypatch.setenv("VITRINE_REDIS_CLUSTER", "true")
    assert _verdicts()["Redis"][0] is Verdict.FAILURE
    monkeypatch.delenv("VITRINE_REDIS_CLUSTER")

    monkeypatch.setenv("VITRINE_DATABASE_URL", "postgresql://a:s3cret@127.0.0.1:1/x")
    monkeypatch.setenv("VITRINE_REDIS_URL", "redis://:s3cret@127.0.0.1:1")
    output = run("doctor", code=1).output
    assert "FAILURE  PostgreSQL: cannot be used" in output
    assert "FAILURE  Redis: cannot be used" in output
    assert "s3cret" not in output

    monkeypatch.setenv("VITRINE_PORT", "x")
    output = run("doctor", code=1).output
    assert "FAILURE  settings: VITRINE_PORT: " in output


@pytest.mark.parametrize("command", ["serve", "worker", "doctor"])
@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("VITRINE_ARTEFACTS_URL", "nowhere://models", "nowhere:// cannot be used here"),
        ("VITRINE_EVENT_ARCHIVE_URL", "nowhere://days", "nowhere:// cannot be used here"),
        ("VITRINE_EVENT_SPOOL", "/dev/null/spool", "/dev/null is no folder"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "'zipkin' is none of otlp, console, none"),
        ("OTEL_TRACES_SAMPLER_ARG", "2", "'2' is no share between 0 and 1"),
        ("VITRINE_WORKERS", "0", ">= 1"),
        ("VITRINE_LOG_LEVELS", "info", "there is no such setting"),
    ],
)
def test_a_setting_that_cannot_be_stops_the_start_with_a_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    variable: str,
    value: str,
    reason: str,
) -> None:
    monkeypatch.setenv("VITRINE_DATABASE_URL", "postgresql://a@127.0.0.1:1/x")
    monkeypatch.setenv("VITRINE_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr("sys.argv", ["vitrine", command])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == (1 if command == "doctor" else 2)
    (line,) = (one for one in (said.out + said.err).splitlines() if variable in one)
    assert reason in line
    assert "Traceback" not in said.err


def test_the_doctor_opens_every_published_artefact(run: Run, admin_url: str) -> None:
    run("merchant", "create", "shop")
    with psycopg.connect(admin_url) as connection:
        connection.execute("""
            INSERT INTO model_version
                (merchant_id, configuration_id, section, number, state, location, manifest)
            VALUES ('shop', 'popular', 'Products', 1, 'published', 'shop/popular/1',
                    '{"sha256": "00"}')
        """)
    output = run("doctor", code=1).output
    assert "FAILURE  artefacts: shop: artefact shop/popular/1 is missing" in output
    assert "vitrine models rollback shop popular" in output
