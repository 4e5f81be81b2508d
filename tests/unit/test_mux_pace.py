"""The in-flight cap against a simulated path: a bottleneck with a queue, a round trip, lateness."""

from __future__ import annotations

import heapq
import random

import pytest

from inroad.core.pace import DELAY, INITIAL, LEAST, MOST, Pace

OFFSET = 1000.0
"""By so much the peer's clock is ahead."""


class Path:
    """A sender with endless data over a bottleneck of `rate` bytes/s and a round trip of `base` s.

    `late` returns how many seconds the peer is late to read, `late_back` how many the PONG is late, as on
    hosts without a free CPU. `bucket` bytes pass at once when the bottleneck, a token bucket, was idle
    before. PONGs wait in the queue of the path `back`, if there is one.
    """

    def __init__(self, rate: float, base: float, late=None, late_back=None, bucket: int = 0) -> None:
        self.rate, self.base, self.bucket = rate, base, bucket
        self.late, self.late_back = late or (lambda: 0.0), late_back or (lambda: 0.0)
        self.back: Path | None = None
        self.pace = Pace()
        self.sent = self.marked = 0
        self.free_at = 0.0  # when the bottleneck has passed on everything
        self.pace.mark(0, False, -1.0)  # the PING with which a link begins
        self.pace.answer(base - 1.0, base / 2 - 1.0 + OFFSET)
        self.last_read = self.last_pong = 0.0
        self.now = 0.0
        self.queue: list[float] = []  # seconds that a small request would have waited, per PONG
        self.delivered = 0.0

    def run(self, seconds: float) -> None:
        run([self], seconds)

    def send(self, now: float) -> list[float]:
        """Send what may go; returns when each PING is read."""
        pace, reads = self.pace, []
        while self.sent - pace.acked < pace.cap:
            size = min(pace.frame, pace.cap - self.sent + pace.acked)
            self.sent += size
            self.free_at = max(self.free_at, now - self.bucket / self.rate) + size / self.rate
            if self.sent - self.marked >= pace.interval:
                reads.append(self._mark(now))
        if not pace.outstanding:
            reads.append(self._mark(now))
        return reads

    def _mark(self, now: float) -> float:
        self.marked = self.sent
        self.pace.mark(self.sent, True, now)
        self.last_read = max(self.last_read, max(now, self.free_at) + self.base / 2 + self.late())
        return self.last_read

    def pong(self, now: float) -> float:
        """A PING is read: when its PONG is there."""
        queue = max(0.0, self.back.free_at - now) if self.back else 0.0
        self.last_pong = max(self.last_pong, now + queue + self.base / 2 + self.late_back())
        return self.last_pong


def run(paths: list[Path], seconds: float) -> None:
    """Let the paths send as their paces allow; afterwards `queue` and `delivered` tell how it went."""
    now = paths[0].now
    end, before = now + seconds, [path.pace.acked for path in paths]
    events: list[tuple[float, int, int, float]] = paths[0].__dict__.setdefault("events", [])
    for index, path in enumerate(paths):
        path.queue.clear()
        for read in path.send(now):
            heapq.heappush(events, (read, 0, index, 0.0))
    while now < end:
        now, kind, index, arrived = heapq.heappop(events)
        path = paths[index]
        if kind == 0:
            heapq.heappush(events, (path.pong(now), 1, index, now))
            continue
        path.pace.answer(now, arrived + OFFSET)
        path.queue.append(max(0.0, path.free_at - now))
        for read in path.send(now):
            heapq.heappush(events, (read, 0, index, 0.0))
    for path, acked in zip(paths, before, strict=True):
        path.delivered = (path.pace.acked - acked) / (now - path.now)
        path.now = now


MBIT = 125_000


@pytest.mark.parametrize("rate", [5 * MBIT, 20 * MBIT, 50 * MBIT, 1000 * MBIT, 10_000 * MBIT])
@pytest.mark.parametrize("bucket", [0, 32 * 1024])
@pytest.mark.parametrize("base", [0.0002, 0.02, 0.08])
def test_the_path_is_full_and_the_queue_short(rate: float, base: float, bucket: int) -> None:
    path = Path(rate, base, bucket=bucket)
    path.run(3.0)
    assert path.queue and not path.pace.starting
    path.run(5.0)
    assert path.delivered > 0.9 * min(rate, MOST / base)
    waits = sorted(path.queue)
    assert waits[len(waits) * 99 // 100] < max(1.6 * DELAY + 0.25 * base, 2 * LEAST / rate)


def test_the_start_fills_a_long_path_within_some_round_trips() -> None:
    path = Path(1000 * MBIT, 0.08)
    path.run(0.08 * 10)
    path.run(0.5)
    assert path.delivered > 0.8 * 1000 * MBIT


@pytest.mark.parametrize("where", ["late", "late_back"])
@pytest.mark.parametrize("lateness", [0.005, 0.03])
def test_late_answers_of_a_busy_host_do_not_pass_for_a_queue(lateness: float, where: str) -> None:
    dice = random.Random(1)
    path = Path(4000 * MBIT, 0.0002, **{where: lambda: dice.uniform(0.5, 1.5) * lateness})
    path.run(2.0)
    path.run(5.0)
    assert path.delivered > 0.65 * 4000 * MBIT


def test_a_busy_host_does_not_make_a_queue() -> None:
    dice = random.Random(1)
    path = Path(20 * MBIT, 0.0002, late=lambda: dice.expovariate(1 / 0.003))
    path.run(3.0)
    path.run(10.0)
    waits = sorted(path.queue)
    assert waits[len(waits) // 2] < 0.025


@pytest.mark.parametrize("rate", [20 * MBIT, 50 * MBIT])
@pytest.mark.parametrize("base", [0.0002, 0.02])
def test_two_busy_directions_do_not_push_each_other_up(rate: float, base: float) -> None:
    """Each PONG waits in the queue of the other direction."""
    up, down = Path(rate, base), Path(rate, base)
    up.back, down.back = down, up
    run([up, down], 3.0)
    run([up, down], 10.0)
    for path in (up, down):
        waits = sorted(path.queue)
        assert waits[len(waits) * 99 // 100] < 0.03
        assert path.delivered > 0.7 * rate


def test_a_quiet_minute_before_does_not_hold_the_cap_down() -> None:
    dice = random.Random(1)
    path = Path(4000 * MBIT, 0.0002)
    path.run(3.0)
    path.late = lambda: dice.uniform(0.5, 1.5) * 0.03
    path.run(2.0)
    path.run(3.0)
    assert path.delivered > 0.6 * 4000 * MBIT


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
        pace.answer(turn * 0.1 + 0.002, turn * 0.1 + 0.001)
    assert pace.starting and pace.cap == INITIAL
    assert pace.base == pytest.approx(0.002)
    assert pace.round == 100
