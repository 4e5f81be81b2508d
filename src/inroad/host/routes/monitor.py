"""Hears of changes to the host's links, addresses, routes and rules, as the kernel tells them.

One callback for any number of changes: a VPN that comes up makes dozens in a row.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from inroad.core.host_config import ROUTE_TABLE
from inroad.host.routes.rtnetlink import (
    GROUPS,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    messages,
    parse_shape,
)
from inroad.polling import rearm

COALESCE = 0.05
"""Seconds after the first change until they are told of."""
_AF_NETLINK = 16
_RECEIVE = 1 << 18


class Monitor:
    """Calls `on_ours` when somebody else touched our table or any rule, `on_others` for everything else.

    `own_port` is the port of the netlink socket whose changes are not told of: our own.
    """

    def __init__(self, own_port: int, on_ours: Callable[[], None], on_others: Callable[[], None]) -> None:
        self._own_port = own_port
        self._calls = {True: on_ours, False: on_others}
        self._due: dict[bool, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(_AF_NETLINK, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.setblocking(False)
        self._socket.bind((0, GROUPS))
        self._loop.add_reader(self._socket, self._readable)

    def close(self) -> None:
        """Stop hearing; idempotent."""
        for timer in self._due.values():
            timer.cancel()
        self._due.clear()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE)
        except OSError as error:
            if error.errno == errno.ENOBUFS:  # the kernel dropped some: anything may have changed
                rearm(self._loop, self._socket, self._readable)
                self._tell(ours=True)
                self._tell(ours=False)
            return
        for kind, _, port, body in messages(data, ports=True):
            if port == self._own_port:
                continue
            if kind in (RTM_NEWRULE, RTM_DELRULE):
                self._tell(ours=True)
                self._tell(ours=False)
            elif kind in (RTM_NEWROUTE, RTM_DELROUTE):
                self._tell(ours=parse_shape(body)[0] == ROUTE_TABLE)
            else:
                self._tell(ours=False)

    def _tell(self, *, ours: bool) -> None:
        if ours not in self._due:
            self._due[ours] = self._loop.call_later(COALESCE, self._call, ours)

    def _call(self, ours: bool) -> None:
        del self._due[ours]
        self._calls[ours]()


class Cooldown:
    """Calls `action` when asked to, at once, but not twice within `pause` seconds; the last ask counts."""

    def __init__(self, action: Callable[[], None], pause: float) -> None:
        self._action = action
        self._pause = pause
        self._next = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> None:
        """Ask."""
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._timer = loop.call_at(max(loop.time(), self._next), self._act)

    def close(self) -> None:
        """Forget what was asked for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _act(self) -> None:
        self._timer = None
        self._next = asyncio.get_running_loop().time() + self._pause
        self._action()
