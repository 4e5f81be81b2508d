"""The in-flight cap against a simulated path: a bottleneck with a queue, a round trip, lateness."""

from __future__ import annotations

import heapq
import random

import pytest

from inroad.core.pace import DELAY, INITIAL, LEAST, MOST, Pace


class Path:
    """A sender with endless data over a bottleneck of `rate` bytes/s and a round trip of `base` s.

    `late` returns how many seconds a PONG is late, as on a host without a free CPU.
    """

    def __init__(self, rate: float, base: float, late=lambda: 0.0) -> None:
        self.rate, self.base, self.late = rate, base, late
        self.pace = Pace()
        self.now = 0.0
        self.sent = self.marked = 0
        self.free_at = 0.0  # when the bottleneck has passed on everything
        self.pongs: list[float] = []
        self.pace.mark(0, False, -1.0)  # the PING with which a link begins
        self.pace.answer(base - 1.0)
        self.last_pong = 0.0
        self.queue: list[float] = []  # seconds that a small request would have waited, per PONG
        self.delivered = 0

    def run(self, seconds: float) -> None:
        """Send as the pace allows until then; afterwards `queue` and `delivered` tell how it went."""
        end = self.now + seconds
        self.queue.clear()
        before, start = self.pace.acked, self.now
        while self.now < end:
            self._send()
            self.now = heapq.heappop(self.pongs)
            self.pace.answer(self.now)
            self.queue.append(max(0.0, self.free_at - self.now))
        self.delivered = (self.pace.acked - before) / (self.now - start)

    def _send(self) -> None:
        pace = self.pace
        while self.sent - pace.acked < pace.cap:
            size = min(pace.frame, pace.cap - self.sent + pace.acked)
            self.sent += size
            self.free_at = max(self.free_at, self.now) + size / self.rate
            if self.sent - self.marked >= pace.interval:
                self._mark()
        if not pace.outstanding:
            self._mark()

    def _mark(self) -> None:
        self.marked = self.sent
        self.pace.mark(self.sent, True, self.now)
        self.last_pong = max(self.last_pong, self.free_at + self.base + self.late())
        heapq.heappush(self.pongs, self.last_pong)


MBIT = 125_000


@pytest.mark.parametrize("rate", [5 * MBIT, 20 * MBIT, 50 * MBIT, 1000 * MBIT, 10_000 * MBIT])
@pytest.mark.parametrize("base", [0.0002, 0.02, 0.08])
def test_the_path_is_full_and_the_queue_short(rate: float, base: float) -> None:
    path = Path(rate, base)
    path.run(3.0)
    assert path.queue and not path.pace.starting
    path.run(5.0)
    assert path.delivered > 0.93 * min(rate, MOST / base)
    waits = sorted(path.queue)
    assert waits[len(waits) * 99 // 100] < max(1.2 * DELAY + 0.25 * base, 2 * LEAST / rate)


def test_the_start_fills_a_long_path_within_some_round_trips() -> None:
    path = Path(1000 * MBIT, 0.08)
    path.run(0.08 * 10)
    path.run(0.5)
    assert path.delivered > 0.85 * 1000 * MBIT


@pytest.mark.parametrize("lateness", [0.005, 0.03])
def test_late_answers_of_a_busy_host_do_not_pass_for_a_queue(lateness: float) -> None:
    dice = random.Random(1)
    path = Path(4000 * MBIT, 0.0002, late=lambda: dice.uniform(0.5, 1.5) * lateness)
    path.run(2.0)
    path.run(5.0)
    assert path.delivered > 0.7 * 4000 * MBIT


def test_a_quiet_minute_before_does_not_hold_the_cap_down() -> None:
    dice = random.Random(1)
    path = Path(4000 * MBIT, 0.0002)
    path.run(3.0)
    path.late = lambda: dice.uniform(0.5, 1.5) * 0.03
    path.run(2.0)
    path.run(3.0)
    assert path.delivered > 0.7 * 4000 * MBIT


@pytest.mark.parametrize(("before", "after"), [(100, 10), (10, 100), (20, 1000)])
def test_a_path_that_changes_is_followed(before: int, after: int) -> None:
    path = Path(before * MBIT, 0.02)
    path.run(4.0)
    path.rate = after * MBIT
    path.run(2.0)
    path.run(4.0)
    assert path.delivered > 0.9 * after * MBIT
    waits = sorted(path.queue)
    assert waits[len(waits) // 2] < 0.02


def test_a_little_traffic_teaches_nothing() -> None:
    pace = Pace()
    for turn in range(100):
        pace.mark(turn * 1000, False, turn * 0.1)
        pace.answer(turn * 0.1 + 0.002)
    assert pace.starting and pace.cap == INITIAL
    assert pace.base == pytest.approx(0.002)
    assert pace.round == 100
