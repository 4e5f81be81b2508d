"""Attempts come often at first and seldom later."""

from __future__ import annotations

import itertools

from inroad.core.backoff import FIRST, next_pause


def attempts(seconds: float) -> list[float]:
    """Return when attempts are made during an absence."""
    found, now, pause = [], 0.0, FIRST
    while now < seconds:
        found.append(now)
        now += pause
        pause = next_pause(pause, now, longest=10.0)
    return found


def test_a_peer_that_comes_back_soon_waits_a_second_at_most():
    found = attempts(30)
    assert max(later - earlier for earlier, later in itertools.pairwise(found)) < 1.001


def test_a_peer_that_stays_away_is_left_alone():
    found = attempts(3_600)
    assert 9.999 < found[-1] - found[-2] < 10.001
    assert len(found) < 450
