"""Log lines and metrics."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.telemetry import logs
from app.telemetry.metrics import Metrics, prepare, render
from app.telemetry.output import Output


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[tuple[Output, Path]]:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    output = logs.configure("info", Output(descriptor))
    yield output, path
    output.close()
    os.close(descriptor)
    logs.configure("info")


def test_nothing_that_is_logged_can_forge_a_line(lines: tuple[Output, Path]) -> None:
    hostile = 'x"}\n{"level":"error","event":"forged"}\r\u2028\x00'
    logs.get("test").info("seen", agent=hostile, **{hostile: 1})
    logs.get("test").info("undecodable", agent="\udcff")
    written = lines[1].read_bytes()
    assert len(written.splitlines()) == 2
    first, second = (json.loads(line) for line in written.split(b"\n") if line)
    assert (first["event"], first["agent"], first["level"]) == ("seen", hostile, "info")
    assert second["agent"] == "\\udcff"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])


def test_secrets_are_blanked(lines: tuple[Output, Path]) -> None:
    class Secret(str):
        __slots__ = ()

        def __repr__(self) -> str:
            return "Secret"

    try:
        raise RuntimeError("cannot reach redis://default:hunter2@cache:6379/0")
    except RuntimeError:
        logs.get("test").exception("failed", token="hunter2", dsn=Secret("hunter2"))
    logging.getLogger("elsewhere").error("postgresql://u:%s@db", "hunter2")
    text = lines[1].read_text()
    assert "hunter2" not in text
    assert text.count("://default:…@cache") >= 1
    assert [json.loads(line)["level"] for line in text.splitlines()] == ["error", "error"]


def test_a_level_leaves_out_what_is_below(lines: tuple[Output, Path]) -> None:
    logs.configure("warning", lines[0])
    log = logs.get("test")
    log.info("quiet")
    log.warning("loud")
    assert [json.loads(line)["event"] for line in lines[1].read_text().splitlines()] == ["loud"]
    with pytest.raises(ValueError, match="log level"):
        logs.configure("loud")


def test_a_reader_that_stalls_stalls_nobody() -> None:
    reading, writing = os.pipe()
    output = Output(writing, limit=10)
    output.start()
    stalled = threading.Event()

    def fill() -> None:
        for _ in range(5_000):
            output.write(b"x" * 1000)
        stalled.set()

    threading.Thread(target=fill).start()
    assert stalled.wait(30)
    assert output.dropped > 0
    received = b""
    closing = threading.Thread(target=output.close)
    closing.start()
    while b"log_dropped" not in received:
        received += os.read(reading, 1 << 16)
    closing.join()
    os.close(writing)
    os.close(reading)


def test_metrics_follow_the_rules_of_their_names() -> None:
    metrics = Metrics()
    names = [each.name for each in metrics.catalogue]
    assert len(set(names)) == len(names)
    for each in metrics.catalogue:
        assert re.fullmatch(r"vitrine_[a-z][a-z_]*[a-z]", each.name), each
        assert (each.type == "counter") == each.name.endswith("_total"), each
        if each.type == "histogram":
            assert each.name.endswith(("_seconds", "_bytes")), each
        assert not {"item", "item_id", "user", "shopper", "path", "url"} & set(each.labels), each
        assert each.help.endswith("."), each
    exposed = {
        line.split()[2] for line in render(metrics).decode().splitlines() if "# TYPE" in line
    }
    assert set(names) <= exposed


WORKER = """
import sys
from pathlib import Path
from app.telemetry.metrics import Metrics, share
share(Path(sys.argv[1]), int(sys.argv[2]))
metrics = Metrics()
record = metrics.route("GET", "/x")
for _ in range(int(sys.argv[3])):
    record(200, 0.001)
metrics.ready.set(1)
metrics.catalogue_version.labels("demo", "Products").set(int(sys.argv[3]))
"""


def test_workers_are_added_up_and_a_replaced_one_carries_on(tmp_path: Path) -> None:
    prepare(tmp_path)

    def work(slot: int, requests: int) -> None:
        arguments = [str(tmp_path), str(slot), str(requests)]
        subprocess.run([sys.executable, "-c", WORKER, *arguments], check=True)

    def scrape(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", render(Metrics(), tmp_path).decode(), re.M)
        assert found, name
        return float(found[1])

    total = 'vitrine_http_requests_total{method="GET",route="/x",status="200"}'
    work(0, 3)
    work(1, 4)
    assert scrape(total) == 7
    assert scrape("vitrine_workers_ready") == 2
    assert scrape('vitrine_catalogue_version{merchant="demo",section="Products"}') == 3
    files = sorted(path.name for path in tmp_path.iterdir())
    work(1, 5)  # the worker of slot 1 died and was replaced
    assert scrape(total) == 12
    assert scrape('vitrine_http_request_duration_seconds_count{method="GET",route="/x"}') == 12
    assert scrape("vitrine_workers_ready") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    prepare(tmp_path)
    assert list(tmp_path.glob("*.db")) == []
