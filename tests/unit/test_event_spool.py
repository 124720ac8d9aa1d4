"""The event spool on a real disk: what was acknowledged is read again, once, whatever happens."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from app.domain.errors import Unavailable
from app.domain.event import Event, Line, Shopper
from app.domain.merchant import MerchantId
from app.files.event_spool import MAGIC, EventSpool
from vitrine_sdk import EventType


def event(number: int) -> Event:
    return Event(
        merchant=MerchantId("shop"),
        type=EventType.CLICK,
        action="recommendation_result_click",
        time=1_700_000_000.5 + number,
        received=1_700_000_001.0 + number,
        shopper=Shopper("client", None, 7),
        fingerprint=number.to_bytes(16),
        lines=(Line(item_id=str(number), price=1.5),),
        payload={"n": number, "nested": {"a": [1, None, "ü"]}},
    )


def drain(spool: EventSpool) -> list[Event]:
    found: list[Event] = []
    while events := spool.read():
        found += events
        spool.taken()
    return found


def opened(folder: Path, **options: int) -> EventSpool:
    spool = EventSpool(folder, **options)
    spool.open()
    return spool


def fill(spool: EventSpool, kept: list[Event]) -> None:
    """Appends until it is refused."""
    for n in range(1000):
        spool.append([event(n)])
        kept.append(event(n))


def test_events_come_back_as_they_were_in_order_and_once(tmp_path: Path) -> None:
    spool = opened(tmp_path, segment_bytes=2000)
    written = [event(n) for n in range(2500)]
    for start in range(0, 2500, 100):
        spool.append(written[start : start + 100])
    assert len(list(tmp_path.rglob("*.events"))) > 5
    assert spool.bytes == sum(p.stat().st_size for p in tmp_path.rglob("*.events"))
    assert drain(spool) == written
    assert spool.bytes == 0
    assert list(tmp_path.rglob("*.events")) == []
    spool.append([event(1)])
    assert drain(spool) == [event(1)]
    spool.close()


def test_what_was_read_but_not_taken_is_read_again(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([event(n) for n in range(1500)])
    first = spool.read()
    assert spool.read() == first
    spool.taken()
    assert spool.read() == [event(n) for n in range(1000, 1500)]
    spool.close()
    # Another process begins the segment anew: fingerprints make that harmless.
    assert len(drain(opened(tmp_path))) == 1500


def test_a_full_spool_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=5000)
    kept: list[Event] = []
    with pytest.raises(Unavailable, match="full"):
        fill(spool, kept)
    assert len(kept) > 5
    assert drain(spool) == kept
    spool.append([event(0)])
    spool.close()


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 40])
def test_a_torn_tail_is_dropped(tmp_path: Path, cut: int) -> None:
    spool = opened(tmp_path)
    spool.append([event(n) for n in range(3)])
    spool.close()
    (segment,) = tmp_path.rglob("*.events")
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-cut])
    assert drain(opened(tmp_path)) == [event(0), event(1)]
    assert list(tmp_path.rglob("*.damaged")) == []


def test_blocks_of_zeros_at_the_end_are_a_torn_tail(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([event(0)])
    spool.close()
    (segment,) = tmp_path.rglob("*.events")
    segment.write_bytes(segment.read_bytes() + bytes(4096))
    assert drain(opened(tmp_path)) == [event(0)]
    assert list(tmp_path.rglob("*.damaged")) == []


def test_a_damaged_segment_is_read_as_far_as_it_goes_and_kept(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([event(n) for n in range(3)])
    spool.close()
    (segment,) = tmp_path.rglob("*.events")
    data = bytearray(segment.read_bytes())
    data[len(MAGIC) + (len(data) - len(MAGIC)) // 2] ^= 0xFF
    segment.write_bytes(data)
    reopened = opened(tmp_path)
    assert drain(reopened) == [event(0)]
    (damaged,) = tmp_path.rglob("*.damaged")
    assert damaged.read_bytes() == data
    # Events go on beside it.
    reopened.append([event(9)])
    assert drain(reopened) == [event(9)]


CHILD = """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from tests.unit.test_event_spool import event, opened
    spool = opened(Path(sys.argv[1]), segment_bytes=3000)
    for n in range(100_000):
        spool.append([event(n)])
        print(n, flush=True)
"""


def child(folder: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(folder), str(root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
    )


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    process = child(tmp_path)
    assert process.stdout is not None
    for _ in range(50):
        process.stdout.readline()
    # While its process lives, nobody takes its slot.
    other = opened(tmp_path)
    assert other.read() == ()
    process.kill()
    acknowledged = 50 + len(process.stdout.read().split())
    process.wait()
    process.stdout.close()
    found = drain(other)
    assert found == [event(n) for n in range(len(found))]
    assert acknowledged <= len(found) <= acknowledged + 1  # the last may not have been told
    assert list(tmp_path.rglob("*.events")) == []


def test_a_disk_that_is_full_refuses_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on file size stands for the disk: the write fails in the middle, as there."""
    spool = opened(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    kept: list[Event] = []
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
        with pytest.raises(Unavailable, match="cannot be stored"):
            fill(spool, kept)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert len(kept) > 5
    spool.append([event(5000)])  # the disk has room again
    assert drain(spool) == [*kept, event(5000)]


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool")
    spool.append([event(0)])
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
    (segment,) = tmp_path.rglob("*.events")
    assert segment.stat().st_mode & 0o777 == 0o600
    spool.close()
