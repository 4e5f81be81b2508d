"""How long to wait between two attempts to get a link back.

A restarted traffic-manager takes seconds to be there again, so the first attempts come close together;
one that stays away is not to be bothered.
"""

from __future__ import annotations

FIRST = 0.2
SOON, SOON_FOR = 1.0, 30.0
"""The longest pause during the first seconds of an absence."""


def next_pause(pause: float, away: float, longest: float) -> float:
    """Return the pause after `pause` when the peer has been away for `away` seconds; all in seconds."""
    return min(2 * pause, SOON if away < SOON_FOR else longest)
