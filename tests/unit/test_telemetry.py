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
from types import SimpleNamespace
from typing import Any

import pytest

from app.telemetry import logs
from app.telemetry.metrics import REQUEST_BUCKETS, Metrics
from app.telemetry.observers import EventObserver
from app.telemetry.output import Output
from app.telemetry.shared_metrics import render
from app.telemetry.tallies import Tallies, Tally
from vitrine_sdk import EventType


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


def test_a_line_that_cannot_be_made_holds_no_other_up(lines: tuple[Output, Path]) -> None:
    output, path = lines
    output.write_made(lambda of: b'{"event":"%d"}' % of, "no number")
    output.write_made(lambda of: b'{"event":"%d"}' % of, 7)
    first, second = (json.loads(line) for line in path.read_bytes().splitlines())
    assert (first["event"], first["error"]) == ("line_failed", "TypeError")
    assert second == {"event": "7"}


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


def test_what_is_tallied_reads_as_if_it_were_counted_at_once() -> None:
    plain, tallied = Metrics(), Metrics()
    bounds = REQUEST_BUCKETS
    record = tallied.route("GET", "/x")
    tally = tallied.tally(tallied.prepared_lists, "hit")
    seconds = [0.0, *bounds, *(bound * 1.01 for bound in bounds), 0.0007, 99.0]
    for number, taken in enumerate(seconds):
        record(200 if number % 3 else 503, taken)
        plain.http_requests.labels("GET", "/x", "200" if number % 3 else "503").inc()
        plain.http_seconds.labels("GET", "/x").observe(taken)
        tally.inc(number)
        plain.prepared_lists.labels("hit").inc(number)
        if number % 5 == 0:
            tallied.fold()

    def values(metrics: Metrics) -> dict[str, float]:
        lines = [line for line in render(metrics).decode().splitlines() if "_created" not in line]
        return {
            line.rpartition(" ")[0]: pytest.approx(float(line.rpartition(" ")[2]))
            for line in lines
            if line.startswith(("vitrine_http_req", "vitrine_prepared"))
        }

    assert len(values(plain)) > len(bounds)
    assert values(tallied) == values(plain)


def test_tallies_that_several_threads_fold_count_once() -> None:
    counted = []
    tallies = Tallies()
    tally = Tally(counted.append)
    tallies.add(tally)
    stopping = threading.Event()

    def fold() -> None:
        while not stopping.is_set():
            tallies.fold()

    threads = [threading.Thread(target=fold) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(50_000):
        tally.count += 1
    stopping.set()
    for thread in threads:
        thread.join()
    tallies.fold()
    assert sum(counted) == 50_000


def test_a_canonical_line_is_one_object_whatever_it_says(lines: tuple[Output, Path]) -> None:
    write = logs.canonical_writer(lines[0], "GET", '/x"}')
    hostile = 'x"}\n{"event":"forged"}'
    full = logs.CanonicalLine(hostile)
    full.merchant, full.pod, full.trace_id = "demo", "home", "ab" * 16
    full.degraded, full.fields = "history", {"items": 3}
    write(logs.CanonicalLine("a"), 404, 0.0012345)
    write(full, 200, 0.5)
    write(logs.CanonicalLine("\udcff"), 200, 0.5)
    first, second, third = map(json.loads, lines[1].read_text().splitlines())
    assert list(first) == [
        "event",
        "method",
        "route",
        "request_id",
        "status",
        "ms",
        "level",
        "time",
    ]
    assert (first["status"], first["ms"], first["route"]) == (404, 1.234, '/x"}')
    assert second["request_id"] == hostile
    assert {name: second[name] for name in ("merchant", "pod", "strategy", "fallback")} == {
        "merchant": "demo", "pod": "home", "strategy": None, "fallback": None,
    }  # fmt: skip
    assert (second["degraded"], second["items"]) == ("history", 3)
    assert second["trace_id"] == full.trace_id
    assert (third["request_id"], third["level"]) == ("\\udcff", "info")


WORKER = """
import sys
from pathlib import Path
from app.telemetry.metrics import Metrics
from app.telemetry.shared_metrics import share
share(Path(sys.argv[1]), int(sys.argv[2]))
metrics = Metrics()
record = metrics.route("GET", "/x")
for _ in range(int(sys.argv[3])):
    record(200, 0.001)
metrics.fold()
metrics.ready.set(1)
metrics.catalogue_version.labels("demo", "Products").set(int(sys.argv[3]))
"""


def test_workers_are_added_up_and_a_replaced_one_carries_on(tmp_path: Path) -> None:
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
    (tmp_path / "counter_2.db").touch()  # one more worker is making its file
    assert scrape(total) == 7
    (tmp_path / "counter_2.db").unlink()
    files = sorted(path.name for path in tmp_path.iterdir())
    work(1, 5)  # the worker of slot 1 died and was replaced
    assert scrape(total) == 12
    assert scrape('vitrine_http_request_duration_seconds_count{method="GET",route="/x"}') == 12
    assert scrape("vitrine_workers_ready") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == files


UNCOUNTED = """
import sys
from pathlib import Path
from app.telemetry.metrics import REQUEST_BUCKETS, Metrics
from app.telemetry.shared_metrics import share

share(Path(sys.argv[1]), 0)
counts, previews = Metrics(), Metrics(counted=False)
for _ in range(3):
    for metrics in (counts, previews):
        metrics.tally(metrics.recommendations, "demo", "home", "popular").inc()
        metrics.short_lists.labels("demo", "home").inc()
        metrics.timings(metrics.http_seconds, REQUEST_BUCKETS, "GET", "/x").observe(1.0)
        metrics.fold()
assert previews.registry.get_sample_value("vitrine_recommendation_short_lists_total") is None
"""


def test_what_is_not_to_be_counted_leaves_what_is_as_it_was(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", UNCOUNTED, str(tmp_path)], check=True)
    told = render(Metrics(), tmp_path).decode()
    for name in (
        'vitrine_recommendations_total{merchant="demo",pod="home",strategy="popular"}',
        'vitrine_recommendation_short_lists_total{merchant="demo",pod="home"}',
        'vitrine_http_request_duration_seconds_count{method="GET",route="/x"}',
    ):
        assert f"{name} 3.0" in told


@pytest.mark.parametrize("outcome", ["accepted", "duplicate", "rejected", "apart"])
def test_each_outcome_of_each_type_of_event_is_counted(outcome: str) -> None:
    metrics = Metrics()
    accepted: list[Any] = []
    observer = EventObserver(metrics, accepted=accepted.append)
    for type_ in EventType:
        for _ in range(2):
            observer.received(SimpleNamespace(type=type_), outcome)
    observer.untracked()
    value = metrics.registry.get_sample_value
    for type_ in EventType:
        labels = {"type": type_.name.lower(), "outcome": outcome}
        assert value("vitrine_events_total", labels) == 2.0
    assert value("vitrine_events_total", {"type": "unknown", "outcome": "unconsented"}) == 1.0
    assert len(accepted) == (2 * len(EventType) if outcome == "accepted" else 0)
