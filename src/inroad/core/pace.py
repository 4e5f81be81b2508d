"""How much of a link may be in flight, so that no queue stands in front of a small request.

Beyond our own socket buffer nothing can be overtaken: API server, kubelet and container runtime hold
bytes in order. So a lane keeps no more on its way than the path needs: the rate at which bytes arrive
times the round trip without a queue of ours, and DELAY on top. A PING after every few kilobytes measures
both; a PONG says when its PING arrived, on the peer's clock, so that the way there and the way back can
be told apart. The states are those of BBR (Cardwell et al., ACM Queue 14/5), its filters are not:

* The way there without a queue: each EPOCH begins with a probe, a round at 0.6 of what the path holds,
  in which our own queue runs empty; the mean of the probe counts (the lesser of the last two). The
  least of the last ten seconds, as in BBR, is no measure on a host without a free CPU, where everything
  is late: taken for a queue, that lateness would cut the cap again and again, down to nothing.
* The way back counts as it is. What is queued there is the peer's, and if it counted as ours two busy
  directions would push each other up.
* The rate, by the peer's clock, is a mean over RATE_TIME, and the greatest of the last RATE_MEMORY
  counts. The greatest of all single samples, as in BBR, is three times the truth behind a token bucket,
  which passes bursts.

Time in seconds, sizes in bytes, rates in bytes per second.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

INITIAL = 256 * 1024
LEAST = 8 * 1024
MOST = 64 * 1024 * 1024
DELAY = 0.010
"""Queue that is allowed: keeps the path busy between two PONGs and lets the rate grow."""
SLACK = 0.125
"""The same as part of the round trip: what a long path needs to grow by a like share in each."""
RATE_TIME = 0.05
RATE_MEMORY = 1.0
EPOCH_ROUNDS = 16
EPOCH_TIME = 0.25
PROBE = 0.6
"""Part of what the path holds that is in flight during a probe."""
PAUSE = 0.1
"""Part of a round trip: when all PINGs are answered, a longer wait than this counts as a pause. On a
path without a queue they all are after each burst."""
RAMP = 1.0
"""Part of each arrived byte by which the cap may grow."""
START_GAIN = 2.5
"""Multiple of what the path seems to hold that is in flight at the start; TCP doubles beneath us."""
GROWTH = 1.25
"""A round that is not faster than the best one by this factor found the path full ..."""
FULL_ROUNDS = 2
"""... when so many of them follow each other."""


class _Mark(NamedTuple):
    """A PING: after how many bytes and when it went, and what was known then."""

    sent: int
    sent_at: float
    acked: int
    acked_arrived: float
    acked_sent_at: float
    limited: bool
    round: int


class _Mean:
    """A mean of what came since it was last reset; keeps its value until something new comes."""

    __slots__ = ("_count", "_sum", "value")

    def __init__(self) -> None:
        self.value = math.inf
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._sum, self._count = 0.0, 0

    def add(self, value: float) -> None:
        """Take one more."""
        self._sum += value
        self._count += 1
        self.value = self._sum / self._count


class Pace:
    """The in-flight cap of one lane, and what follows from it."""

    __slots__ = (
        "_acked_arrived",
        "_acked_sent_at",
        "_answered_at",
        "_back",
        "_back_least",
        "_back_least_before",
        "_best",
        "_epoch_at",
        "_full_rate",
        "_limited",
        "_marks",
        "_probe",
        "_probe_before",
        "_probe_round",
        "_rates",
        "_round_acked",
        "_round_arrived",
        "_round_rate",
        "_rounds",
        "_sample_size",
        "_sample_time",
        "_stale",
        "_target",
        "_there",
        "acked",
        "burst",
        "cap",
        "frame",
        "interval",
        "round",
        "rtt",
        "starting",
    )

    def __init__(self) -> None:
        self.acked = 0
        self.rtt = 0.0
        self.round = 0
        self.starting = True
        self._marks: deque[_Mark] = deque()
        self._acked_arrived, self._acked_sent_at = math.inf, 0.0
        self._answered_at = -math.inf
        self._there = math.inf  # least way there, while starting
        self._back = _Mean()
        self._back_least = self._back_least_before = math.inf
        self._probe, self._probe_before = _Mean(), math.inf
        self._probe_round = -2
        self._best = self._full_rate = self._round_rate = 0.0
        self._rates: deque[tuple[float, float]] = deque()
        self._sample_size, self._sample_time = 0, 0.0
        self._round_acked, self._round_arrived = 0, math.inf
        self._limited = False
        self._stale = 0
        self._rounds = 0
        self._epoch_at = -math.inf
        self._target = 0.0
        self._set_cap(INITIAL)

    @property
    def rate(self) -> float:
        """Rate at which the peer receives when it is we who have enough to send."""
        return self._best if self.starting else max(rate for _, rate in self._rates)

    @property
    def base(self) -> float:
        """Round trip without a queue of ours, with the peer's as it is; infinite until measured.

        There and back are each off by the difference of the two clocks; their sum is not.
        """
        return self._way_there() + self._back.value

    @property
    def least(self) -> float:
        """Round trip without any queue, as far as there was a moment without."""
        return self._way_there() + min(self._back_least, self._back_least_before)

    def _way_there(self) -> float:
        return min(self._there, self._probe.value, self._probe_before)

    @property
    def outstanding(self) -> int:
        """PINGs without an answer."""
        return len(self._marks)

    def mark(self, sent: int, limited: bool, now: float) -> None:
        """A PING follows `sent` bytes; `limited`: more was waiting to be sent."""
        if not self._marks and now - self._answered_at > PAUSE * self.rtt:
            # What came before the pause tells nothing about the rate.
            self._acked_arrived, self._acked_sent_at = math.inf, now
            self.acked = sent
        self._marks.append(
            _Mark(sent, now, self.acked, self._acked_arrived, self._acked_sent_at, limited, self.round)
        )

    def answer(self, now: float, arrived: float) -> None:
        """The PONG to the oldest PING came, which had `arrived` on the peer's clock."""
        mark = self._marks.popleft()
        self.rtt = now - mark.sent_at
        self._back.add(now - arrived)
        self._back_least = min(self._back_least, now - arrived)
        if mark.round == self._probe_round:
            self._probe.add(arrived - mark.sent_at)
        if self.cap < self._target:
            self._set_cap(min(self._target, self.cap + RAMP * (mark.sent - self.acked)))
        if self.starting:
            self._there = min(self._there, arrived - mark.sent_at)
            self._measure_start(mark, arrived)
        self.acked = mark.sent
        self._answered_at = now
        self._acked_arrived = arrived
        self._acked_sent_at = mark.sent_at
        self._limited = self._limited or mark.limited
        if mark.round == self.round:
            if self._limited:  # else nothing was learnt about what the path can carry
                self._measure(mark.sent, arrived)
                self._end_round(now)
            self._round_acked, self._round_arrived = mark.sent, arrived
            self.round += 1
            self._round_rate = 0.0
            self._limited = False
            self._back.reset()

    def _measure_start(self, mark: _Mark, arrived: float) -> None:
        """Single samples of the rate, so that the cap keeps up with TCP's slow start beneath us.

        As in draft-cheng-iccrg-delivery-rate-estimation: what arrived while the PING was on its way.
        """
        elapsed = max(arrived - mark.acked_arrived, mark.sent_at - mark.acked_sent_at)
        if elapsed > 0 and mark.sent > mark.acked:
            rate = (mark.sent - mark.acked) / elapsed
            self._round_rate = max(self._round_rate, rate)
            self._best = max(self._best, rate)
            self._set_cap(max(self.cap, START_GAIN * self._best * self.least))
        if mark.limited and self.rtt < self.least + DELAY / 2:  # no queue: twice as much in each round trip
            self._set_cap(self.cap + mark.sent - self.acked)

    def _measure(self, acked: int, arrived: float) -> None:
        """Add the round that ends to the present sample of the rate."""
        if self._round_arrived == math.inf:
            return
        self._sample_size += acked - self._round_acked
        self._sample_time += arrived - self._round_arrived
        if self._sample_time >= RATE_TIME:
            self._rates.append((arrived, self._sample_size / self._sample_time))
            self._sample_size, self._sample_time = 0, 0.0
            while self._rates[0][0] < arrived - RATE_MEMORY and len(self._rates) > 2:
                self._rates.popleft()

    def _end_round(self, now: float) -> None:
        if self.starting:
            self._judge_start(now)
            return
        self._rounds += 1
        if self._rounds >= EPOCH_ROUNDS and now - self._epoch_at >= EPOCH_TIME:
            self._begin_epoch(now)
        else:
            self._aim(self.rate * (self.base + SLACK * self.least + DELAY))

    def _judge_start(self, now: float) -> None:
        if self._round_rate >= GROWTH * self._full_rate:
            self._full_rate = self._round_rate
            self._stale = 0
            return
        self._stale += 1
        if self._stale >= FULL_ROUNDS:
            self._rates.append((self._acked_arrived, self._best))
            self.starting = False
            self._begin_epoch(now)

    def _begin_epoch(self, now: float) -> None:
        self._aim(PROBE * self.rate * self.least)
        self._rounds, self._epoch_at = 0, now
        self._probe_before = min(self._there, self._probe.value)
        self._there = math.inf
        self._back_least_before, self._back_least = self._back_least, math.inf
        self._probe.reset()
        self._probe_round = self.round + 1

    def _aim(self, target: float) -> None:
        """Shrink at once, grow with what arrives: a jump would be a burst, and the burst a queue."""
        self._target = target
        if target < self.cap:
            self._set_cap(target)

    def _set_cap(self, cap: float) -> None:
        self.cap = int(min(max(cap, LEAST), MOST))
        self.interval = min(max(self.cap >> 3, 2 * 1024), 1024 * 1024)
        """Bytes between two PINGs."""
        self.frame = min(max(self.cap >> 2, 4 * 1024), 64 * 1024)
        """Payload of a bulk frame: what is begun has to be finished before anything overtakes."""
        self.burst = min(max(self.cap >> 3, 2 * 1024), 16 * 1024)
        """Bytes that a quiet flow may send in a round before it counts as bulk."""
