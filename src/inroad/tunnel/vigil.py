"""Notices within a second that the peer of a link has fallen silent, while something is asked of it.

A node that goes away sends no reset, and a link only counts as dead after 20 s of silence: running flows get
that long. What is new need not wait for it. A peer that is heard again is asked again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from inroad.tunnel.api import Link

PATIENCE = 1.0
"""Seconds without a sign of life, a PING's answer included, after which the peer counts as mute."""


class Vigil:
    """Watches a link from a question (`asked`) to the next sign of life.

    `on_mute` and `on_back` are called when `mute` has changed. Flows that the peer has not answered when it
    goes mute are refused by then, as if the link had ended. It ends with the link, or by `close`.
    """

    def __init__(self, link: Link, on_mute: Callable[[], None], on_back: Callable[[], None]) -> None:
        self.mute = False
        self._link = link
        self._on_mute = on_mute
        self._on_back = on_back
        self._asked = 0.0
        self._since = 0.0  # silent since then
        self._timer: asyncio.TimerHandle | None = None

    def asked(self) -> None:
        """Something was sent that the peer has to answer some time; a sign of life is expected at once."""
        self._asked = time.monotonic()
        if self._timer is None:
            self._since = self._asked
            self._timer = asyncio.get_running_loop().call_later(PATIENCE / 2, self._look)

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        heard = self._link.heard()
        if heard > self._since:
            self._since = heard
            if self.mute:
                self.mute = False
                self._on_back()
            if heard > self._asked:  # not only after an earlier question
                self._timer = None
                return
        if not self.mute and time.monotonic() - self._since >= PATIENCE:
            self.mute = True
            self._on_mute()
            self._link.give_up_unopened(f"no answer for {PATIENCE:.0f} s")
        self._link.ping()
        self._timer = asyncio.get_running_loop().call_later(PATIENCE / 2, self._look)
