"""Durations as `kubectl` prints them (apimachinery `util/duration`): `5s`, `3m12s`, `2d4h`, `3y`."""

from __future__ import annotations

from datetime import datetime

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400
_STEPS = (
    (2 * _MINUTE, 1, "s", 0, ""),
    (10 * _MINUTE, _MINUTE, "m", 1, "s"),
    (3 * _HOUR, _MINUTE, "m", 0, ""),
    (8 * _HOUR, _HOUR, "h", _MINUTE, "m"),
    (2 * _DAY, _HOUR, "h", 0, ""),
    (8 * _DAY, _DAY, "d", _HOUR, "h"),
    (2 * _YEAR, _DAY, "d", 0, ""),
    (8 * _YEAR, _YEAR, "y", _DAY, "d"),
)
"""Below how many seconds a duration is written in which two units."""


def human(seconds: float) -> str:
    """Return a duration in at most two units; the second one only while it says something."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    total = max(total, 0)
    for below, large, large_unit, small, small_unit in _STEPS:
        if total < below:
            rest = total % large // small if small else 0
            return f"{total // large}{large_unit}" + (f"{rest}{small_unit}" if rest else "")
    return f"{total // _YEAR}y"


def since(timestamp: str | None, now: float) -> str:
    """Return how long ago an object's timestamp was."""
    if not timestamp:
        return "<unknown>"
    return human(now - datetime.fromisoformat(timestamp).timestamp())
