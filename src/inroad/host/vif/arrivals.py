"""Connections that come out of the listeners, and the flows that they belong to.

A flow's connection is known by where it comes from: `Key` is the peer's address and port and the number of
the listener. It is noted when the SYN is held, expected once the SYN may go on, and matched when accepted.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from struct import pack

import structlog

from inroad.host.vif.api import VifEvents

log = structlog.get_logger()

Key = tuple[str, int, int]

ACCEPT_LIMIT = 12.0
"""Seconds from the verdict until the connection must come out of the listener."""
ACCEPT_PAUSE = 0.1
BATCH = 64
_ABORT = pack("ii", 1, 0)
"""struct linger: on, 0 s, so that close() sends RST. Windows has shorts there, and reads the same."""


class Arrivals:
    """Accepts. `accepted` (with the flow) is called before the handler is, `abort` when nothing came."""

    def __init__(
        self, handler: VifEvents, *, accepted: Callable[[int], None], abort: Callable[[int], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self._tell_accepted = accepted
        self._tell_abort = abort
        self._listeners: Sequence[socket.socket] = ()
        self._held: dict[int, Key] = {}
        self._expected: dict[Key, int] = {}
        self._released: deque[tuple[float, Key, int]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._short = False

    def listen(self, listeners: Sequence[socket.socket]) -> None:
        """Begin to accept; the listeners are closed by `close`."""
        self._listeners = listeners
        for index, listener in enumerate(listeners):
            listener.setblocking(False)
            self._loop.add_reader(listener.fileno(), self._accept, index)

    def close(self) -> None:
        """Accept no more; idempotent."""
        self._closed = True
        for listener in self._listeners:
            if listener.fileno() >= 0:
                self._loop.remove_reader(listener.fileno())
                listener.close()
        if self._timer is not None:
            self._timer.cancel()

    def hold(self, flow: int, key: Key) -> None:
        """Note where the connection of a flow will come from, should it come."""
        self._held[flow] = key

    def judged(self, flow: int, *, connected: bool) -> bool:
        """End the wait of a held SYN; False: there is none any more."""
        key = self._held.pop(flow, None)
        if key is None:
            return False
        if connected:
            self._expected[key] = flow
            self._released.append((self._loop.time() + ACCEPT_LIMIT, key, flow))
            if self._timer is None:
                self._timer = self._loop.call_later(ACCEPT_LIMIT, self._expire)
        return True

    def cancel(self, flow: int) -> None:
        """Expect a flow no more, and tell the handler."""
        if self._held.pop(flow, None) is not None:
            self._handler.cancelled(flow)
            return
        for key, expected in self._expected.items():
            if expected == flow:
                del self._expected[key]
                self._handler.cancelled(flow)
                return

    def _accept(self, index: int) -> None:
        listener = self._listeners[index]
        for _ in range(BATCH):
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors: connections wait in the kernel until there are some
                if not self._short:
                    log.warning("connections wait for being accepted", error=error.strerror)
                self._short = True
                self._loop.remove_reader(listener.fileno())
                self._loop.call_later(ACCEPT_PAUSE, self._accept_again, index)
                return
            self._short = False
            flow = self._expected.pop((peer[0], peer[1], index), None)
            if flow is None:  # cancelled meanwhile
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
                sock.close()
                continue
            sock.setblocking(False)
            self._tell_accepted(flow)
            self._handler.accepted(flow, sock)

    def _accept_again(self, index: int) -> None:
        if not self._closed:
            self._loop.add_reader(self._listeners[index].fileno(), self._accept, index)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._released and self._released[0][0] <= now:
            _, key, flow = self._released.popleft()
            if self._expected.get(key) == flow:
                del self._expected[key]
                self._tell_abort(flow)
                self._handler.cancelled(flow)
        if self._released:
            self._timer = self._loop.call_later(self._released[0][0] - now, self._expire)
