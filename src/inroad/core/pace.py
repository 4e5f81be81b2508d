"""How much of a link may be in flight, so that no queue stands in front of a small request.

Beyond our own socket buffer nothing can be overtaken: API server, kubelet and container runtime hold
bytes in order. So a lane keeps no more on its way than the path needs: the rate at which bytes arrive
times the round trip without a queue, and DELAY on top. A PING after every few kilobytes measures both;
the rate as in draft-cheng-iccrg-delivery-rate-estimation, the states after BBR (Cardwell et al., ACM
Queue 14/5). What differs is how the round trip without a queue is found. Each EPOCH begins with a
probe: a round at less than the path holds, in which our own queue runs empty; the mean of its round
trips counts until the next one. The least of the last ten seconds, as in BBR, is no measure on a host
without a free CPU: there every PONG is late, and taken for a queue that lateness would cut the cap
again and again, down to nothing.

Time in seconds, sizes in bytes, rates in bytes per second.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

INITIAL = 128 * 1024
LEAST = 8 * 1024
MOST = 64 * 1024 * 1024
DELAY = 0.010
"""Queue that is allowed: keeps the path busy between two PONGs and lets the rate grow."""
EPOCH_ROUNDS = 16
EPOCH_TIME = 0.25
PROBE = 0.75
"""Share of what the path holds that is in flight during a probe."""
START_GAIN = 2.5
"""Multiple of what the path seems to hold that is in flight at the start; TCP doubles beneath us."""
RAMP = 0.5
"""Part of each arrived byte by which the cap may grow."""
GROWTH = 1.25
"""A round that is not faster than the best one by this factor found the path full ..."""
FULL_ROUNDS = 2
"""... when so many of them follow each other."""


class _Mark(NamedTuple):
    """A PING: after how many bytes and when it went, and what was known then."""

    sent: int
    sent_at: float
    acked: int
    acked_at: float
    acked_sent_at: float
    limited: bool
    round: int


class Pace:
    """The in-flight cap of one lane, and what follows from it."""

    __slots__ = (
        "_acked_at",
        "_acked_sent_at",
        "_best",
        "_best_before",
        "_epoch_at",
        "_full_rate",
        "_limited",
        "_marks",
        "_probe_count",
        "_probe_round",
        "_probe_sum",
        "_round_low",
        "_round_rate",
        "_rounds",
        "_stale",
        "_target",
        "acked",
        "base",
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
        self.base = math.inf
        """Round trip without a queue; infinite until measured."""
        self.round = 0
        self.starting = True
        self._marks: deque[_Mark] = deque()
        self._acked_at = self._acked_sent_at = 0.0
        self._best = self._best_before = 0.0
        self._full_rate = 0.0
        self._stale = 0
        self._rounds = 0
        self._epoch_at = -math.inf
        self._probe_round = -2
        self._probe_sum, self._probe_count = 0.0, 0
        self._target = 0.0
        self._round_rate = 0.0
        self._round_low = math.inf
        self._limited = False
        self._set_cap(INITIAL)

    @property
    def rate(self) -> float:
        """Rate at which the peer receives when it is we who have enough to send."""
        return max(self._best, self._best_before)

    @property
    def outstanding(self) -> int:
        """PINGs without an answer."""
        return len(self._marks)

    def mark(self, sent: int, limited: bool, now: float) -> None:
        """A PING follows `sent` bytes; `limited`: more was waiting to be sent."""
        if not self._marks:
            # After a pause: what came before tells nothing about the rate.
            self._acked_at = self._acked_sent_at = now
            self.acked = sent
        self._marks.append(
            _Mark(sent, now, self.acked, self._acked_at, self._acked_sent_at, limited, self.round)
        )

    def answer(self, now: float) -> None:
        """The PONG to the oldest PING came."""
        mark = self._marks.popleft()
        self.rtt = rtt = now - mark.sent_at
        if self.cap < self._target:
            self._set_cap(min(self._target, self.cap + RAMP * (mark.sent - self.acked)))
        self.acked = mark.sent
        self._acked_at = now
        self._acked_sent_at = mark.sent_at
        self._round_low = min(self._round_low, rtt)
        if self.starting:
            self.base = min(self.base, rtt)
        if mark.round == self._probe_round:
            self._probe_sum += rtt
            self._probe_count += 1
        elapsed = max(now - mark.acked_at, mark.sent_at - mark.acked_sent_at)
        if elapsed > 0 and mark.sent > mark.acked:
            rate = (mark.sent - mark.acked) / elapsed
            if mark.limited or rate > self.rate:
                self._round_rate = max(self._round_rate, rate)
                self._best = max(self._best, rate)
                if self.starting:
                    self._set_cap(max(self.cap, START_GAIN * self._best * self.base))
        self._limited = self._limited or mark.limited
        if mark.round == self.round:
            if self._limited:  # else nothing was learnt about what the path can carry
                self._end_round(now)
            self.round += 1
            self._begin_round()

    def _begin_round(self) -> None:
        self._round_rate = 0.0
        self._round_low = math.inf
        self._limited = False

    def _end_round(self, now: float) -> None:
        if self.starting:
            self._judge_start()
            return
        if self._probe_count and self.round <= self._probe_round + 1:
            self.base = self._probe_sum / self._probe_count
        self._rounds += 1
        slower = self._round_low > 2 * self._wanted()
        if slower or (self._rounds >= EPOCH_ROUNDS and now - self._epoch_at >= EPOCH_TIME):
            self._best_before = self._round_rate if slower else self._best
            self._begin_epoch(now)
        else:
            self._aim(self.rate * self._wanted())

    def _aim(self, target: float) -> None:
        """Shrink at once, grow with what arrives: a jump would be a burst, and the burst a queue."""
        self._target = target
        if target < self.cap:
            self._set_cap(target)

    def _wanted(self) -> float:
        """The round trip that the cap aims at."""
        return self.base * 1.125 + DELAY

    def _judge_start(self) -> None:
        if self._round_rate >= GROWTH * self._full_rate:
            self._full_rate = self._round_rate
            self._stale = 0
            return
        self._stale += 1
        if self._stale >= FULL_ROUNDS:
            self.starting = False
            self._aim(self.rate * self._wanted())

    def _begin_epoch(self, now: float) -> None:
        self._rounds, self._epoch_at = 0, now
        self._best = 0.0
        self._probe_round = self.round + 1
        self._probe_sum, self._probe_count = 0.0, 0
        self._aim(PROBE * self.rate * self.base)

    def _set_cap(self, cap: float) -> None:
        self.cap = int(min(max(cap, LEAST), MOST))
        self.interval = min(max(self.cap >> 3, 2 * 1024), 1024 * 1024)
        """Bytes between two PINGs."""
        self.frame = min(max(self.cap >> 2, 4 * 1024), 64 * 1024)
        """Payload of a bulk frame: what is begun has to be finished before anything overtakes."""
        self.burst = min(max(self.cap >> 3, 2 * 1024), 16 * 1024)
        """Bytes that a quiet flow may send in a round before it counts as bulk."""
