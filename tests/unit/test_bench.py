"""What the bench counts, and how."""

from __future__ import annotations

from typing import Any

import pytest

from ops.bench.memory import parsed
from ops.bench.open_loop import Ledger
from ops.bench.sizing import Assumed, sized, told


def test_a_stall_counts_for_every_request_that_was_meant_to_be_sent_in_it() -> None:
    """100 a second for ten seconds, answered at once; at second 5 nothing is sent or answered for
    a second. A driver that waits for answers would see one slow request."""
    ledger = Ledger(rate=100, total=1_000, begin=0.0)
    now = 0.0
    while not ledger.done:
        while (intended := ledger.take(now)) is not None:
            ledger.answered(intended, now)
        now = 6.0 if 5.0 <= now < 6.0 else (ledger.next_at or now)
    slow = [taken for taken in ledger.times if taken > 0.005]
    assert len(slow) == 99  # those of 5.01 to 5.99
    assert max(slow) == pytest.approx(0.99)
    assert sum(slow) / len(slow) == pytest.approx(0.5)
    figures = ledger.figures()
    assert figures["p50_ms"] == pytest.approx(0, abs=1)
    assert figures["p99_ms"] == pytest.approx(900, abs=11)
    assert figures["max_ms"] == pytest.approx(990, abs=1)


def test_nothing_is_sent_before_its_time_and_nothing_twice() -> None:
    ledger = Ledger(rate=10, total=3, begin=1.0)
    assert ledger.take(0.99) is None
    taken = [ledger.take(5.0) for _ in range(4)]
    assert taken == [1.0, pytest.approx(1.1), pytest.approx(1.2), None]
    assert ledger.next_at is None
    assert not ledger.done


def test_quantiles_are_of_what_was_measured() -> None:
    ledger = Ledger(rate=1, total=1_000, begin=0.0)
    for n in range(1_000):
        ledger.answered(0.0, (n + 1) / 1000)
    assert ledger.figures() == {"p50_ms": 500, "p99_ms": 990, "p999_ms": 999, "max_ms": 1000}


def test_memory_tells_what_is_shared() -> None:
    smaps = """\
7f00-7f10 r--s 00000000 fd:00 123    /home/x/artefacts/demo/similar/items.npy
Size:               4096 kB
Rss:                2048 kB
Pss:                1024 kB
Shared_Clean:       2048 kB
Private_Clean:         0 kB
Private_Dirty:         0 kB
VmFlags: rd sh mr
7f20-7f30 rw-p 00000000 00:00 0
Rss:                 512 kB
Pss:                 512 kB
Private_Clean:         0 kB
Private_Dirty:       512 kB
7f40-7f50 r-xp 00000000 fd:00 77     /usr/lib/libpython3.11.so.1.0
Rss:                 256 kB
Pss:                  64 kB
Private_Clean:        32 kB
"""
    found = parsed(smaps)
    assert found.each(1) == {
        "rss": 3, "pss": 2, "own": 1, "models": 2, "models_pss": 1, "catalogue": 0, "code": 0,
    }  # fmt: skip
    assert found.own == (512 + 32) * 1024
    assert (found + found).pss == 2 * found.pss


REPORT: dict[str, Any] = {
    "compare": {
        "pdp_similar": {"cpu_us": 200},
        "home_popular": {"cpu_us": 100},
        "tracking": {"cpu_us": 300},
    },
    "scale": [
        {"items": 10_000, "merchants": 1, "two": {"pss": 128}, "redis_mib": 16},
        {"items": 1_000_000, "merchants": 1, "two": {"pss": 1024}, "redis_mib": 512},
        {"items": 10_000, "merchants": 10, "two": {"pss": 1}, "redis_mib": 1},
    ],
    "traffic": {
        "pdp_similar": {"commands": 0, "to_redis": 0, "from_redis": 0},
        "home_popular": {"commands": 1, "to_redis": 100, "from_redis": 1_000},
        "tracking": {"commands": 2, "to_redis": 300, "from_redis": 10},
        "idle worker, a second": {"commands": 10, "to_redis": 0, "from_redis": 0},
    },
}
MIX = {"pdp_similar": 0.5, "home_popular": 0.5}


def test_sizing_follows_from_what_was_measured() -> None:
    assumed = Assumed(requests=86_400_000, peak=2, used=0.5, spare=2, events=0.1, items=50_000)
    found = sized(REPORT, MIX, assumed)
    assert found.rate == 2_000
    assert found.cpu_us == 150
    assert found.serving_cores == pytest.approx(0.6)  # 2,000 × 150 µs, at half a core
    assert found.tracking_cores == pytest.approx(0.12)
    assert found.workers == 2
    assert found.worker_gib == 1  # of the next larger catalogue, one merchant
    assert found.redis_commands == pytest.approx(0.5 * 2_000 + 2 * 200 + 2 * 10)
    assert found.redis_mib_out == pytest.approx((1_000_000 + 2_000) / 2**20)


def test_sizing_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="no measurement of home_for_you"):
        sized(REPORT, {"home_for_you": 1.0}, Assumed())
    with pytest.raises(ValueError, match=r"add up to 0\.5"):
        sized(REPORT, {"pdp_similar": 0.5}, Assumed())
    larger = sized({**REPORT, "traffic": {}}, MIX, Assumed(items=2_000_000))
    assert larger.memory_gib is None
    assert larger.redis_commands is None
    assert "not measured" in told(larger, REPORT, MIX, Assumed(items=2_000_000))
