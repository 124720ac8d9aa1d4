"""What the bench counts, and how."""

from __future__ import annotations

import pytest

from ops.bench.memory import parsed
from ops.bench.open_loop import Ledger


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
