"""Admission, by a clock of the test's own: a simulated event loop, and what it lets in."""

from __future__ import annotations

import itertools
from collections import deque

import pytest

from app.http.admission import HOLD, TICK, Admission

COST = 0.0005  # seconds of an answer
REFUSAL = 0.00002


class Loop:
    """An event loop that takes all that has arrived, one after the other, and then looks again."""

    def __init__(self, target: float) -> None:
        self.now = 0.0
        self.spent = 0.0
        self.admission = Admission(target, clock=lambda: self.now, spent=lambda: self.spent)
        self.due = TICK
        self.queue: deque[float] = deque()
        self.arrived = 0.0
        self.waits: list[float] = []
        self.refused = 0
        self.cost = COST
        self.slower = 1.0  # neighbours take their part of the processor

    def run(self, seconds: float, rate: float) -> None:
        end = self.now + seconds
        while self.now < end:
            while self.arrived < self.now:
                self.queue.append(self.arrived)
                self.arrived += 1 / rate
            if self.due <= self.now:
                self.admission.waited(self.now - self.due)
                self.due = self.now + TICK
            if not self.queue:
                self.now = min(self.due, self.arrived + 1e-9)
                continue
            for _ in range(len(self.queue)):  # one round of the loop
                came = self.queue.popleft()
                self.admission.requests += 1
                if self.admission.share and self.admission.refuses():
                    self._work(REFUSAL)
                    self.refused += 1
                else:
                    self._work(self.cost)
                    self.waits.append(self.now - came)

    def _work(self, seconds: float) -> None:
        self.spent += seconds
        self.now += seconds * self.slower


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def test_half_of_capacity_is_all_let_in() -> None:
    loop = Loop(0.02)
    loop.run(20, 0.5 / COST)
    assert loop.refused == 0
    assert p99(loop.waits) < 0.01


@pytest.mark.parametrize("times", [1.5, 3.0])
def test_beyond_capacity_goodput_stays_and_the_admitted_are_quick(times: float) -> None:
    loop = Loop(0.02)
    rate = times / COST
    loop.run(25, rate)  # it takes a while to be sure, and to work off what came meanwhile
    loop.waits.clear()
    loop.run(30, rate)
    # What is left of each second when all the others have been refused.
    possible = (1 - rate * REFUSAL) / (COST - REFUSAL)
    assert len(loop.waits) / 30 > 0.9 * possible
    assert p99(loop.waits) < 0.02


def test_without_it_the_queue_grows_without_end() -> None:
    loop = Loop(1e9)
    loop.run(35, 1.5 / COST)
    assert p99(loop.waits) > 5


def test_it_lets_everybody_in_again() -> None:
    loop = Loop(0.02)
    loop.run(10, 2 / COST)
    assert loop.admission.overloaded() is not None
    loop.run(10, 0.3 / COST)
    assert loop.admission.share == 0
    assert loop.admission.overloaded() is None


def test_single_delays_refuse_nobody() -> None:
    admission = Admission(0.02, clock=lambda: 0.0, spent=lambda: 0.0)
    for number in range(1000):
        admission.waited(0.2 if number % 3 == 0 else 0.001)
    assert admission.share == 0


def test_work_of_its_own_refuses_nobody() -> None:
    """A process that is busy, but not with requests."""
    spent = itertools.count(0.0, 0.15)
    admission = Admission(0.02, clock=lambda: 0.0, spent=lambda: next(spent))
    for _ in range(100):
        admission.requests += 2
        admission.waited(0.15)
    assert admission.share == 0
    for _ in range(100):
        admission.requests += 100
        if admission.share:
            assert [admission.refuses() for _ in range(100)].count(True) <= 99
        admission.waited(0.15)
    assert admission.share > 0.5


def test_what_is_let_in_takes_a_part_of_the_target() -> None:
    """Answers become four times as dear: as many fewer are let in."""
    loop = Loop(0.05)
    found = []
    for cost in (COST, 4 * COST):
        loop.cost = cost
        loop.run(25, 3 / COST)  # it takes a while to be sure
        loop.waits.clear()
        loop.run(5, 3 / COST)
        assert max(loop.waits) < 0.05
        found.append(len(loop.waits) / 5)
    possible = [(1 - 3 / COST * REFUSAL) / (cost - REFUSAL) for cost in (COST, 4 * COST)]
    assert found == pytest.approx(possible, rel=0.1)


def test_what_is_not_measured_counts_too() -> None:
    """Work that comes in the rounds between two measurements: it was let in all the same."""
    spent = [0.0]
    admission = Admission(0.05, clock=lambda: 0.0, spent=lambda: spent[0])
    let_in = 0
    for _ in range(200):
        admission.requests += 20
        let_in = sum(not (admission.share and admission.refuses()) for _ in range(20))
        spent[0] += 0.004 * let_in
        admission.waited(0.06)  # of the loop's rounds, two were measured
    assert let_in == 2 or let_in == 3, "as many as take a fifth of the target"


def test_a_key_has_a_rate_of_its_own() -> None:
    now = [100.0]
    admission = Admission(0, key_rate=2, clock=lambda: now[0], spent=lambda: 0.0)
    calls = [admission.key_waits("/recommendations/v1/pods/p?s=1&key=a&i=2") for _ in range(3)]
    assert calls == [0, 0, 0.5]
    assert admission.key_waits("/recommendations/v1/pods/p?key=b") == 0
    assert admission.key_waits("/recommendations/v1/pods/p?monkey=a") == 0
    now[0] += 0.5
    assert admission.key_waits("/behavior?key=a") == 0
    assert admission.key_waits("/behavior?key=a") == 0.5


def test_the_more_connections_the_longer_one_is_held_back() -> None:
    admission = Admission(clock=lambda: 0.0, spent=lambda: 0.0)
    admission.connections = 32
    assert admission.refused_unparsed() == pytest.approx(32 * HOLD)
    admission.connections = 1_000_000
    assert admission.refused_unparsed() == 1.0
