"""Calls something a moment after it was asked for, however often it was asked for meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

QUIET, LONGEST = 0.01, 1.0
"""Seconds: it runs when nobody has asked for `QUIET`, and at the latest `LONGEST` after the first asked."""


class Debounce:
    """Calling it asks for `action`; the last ask is never lost."""

    def __init__(self, action: Callable[[], None], quiet: float = QUIET, longest: float = LONGEST) -> None:
        self._action = action
        self._quiet = quiet
        self._longest = longest
        self._timer: asyncio.TimerHandle | None = None
        self._first = self._last = 0.0

    def __call__(self) -> None:
        """Ask; costs next to nothing while a call is due already."""
        loop = asyncio.get_running_loop()
        self._last = loop.time()
        if self._timer is None:
            self._first = self._last
            self._timer = loop.call_later(self._quiet, self._due)

    def close(self) -> None:
        """Forget what was asked for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        loop = asyncio.get_running_loop()
        at = min(self._last + self._quiet, self._first + self._longest)
        if at > loop.time():
            self._timer = loop.call_at(at, self._due)
            return
        self._timer = None
        self._action()
