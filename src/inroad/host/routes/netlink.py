"""The NETLINK_ROUTE socket: requests in, acknowledgements and dumps out.

The kernel handles a request inside `send`, so a blocking socket never waits for longer than it works.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

from inroad.host.routes.rtnetlink import (
    AF_INET,
    AF_INET6,
    DUMP_INTERRUPTED,
    NLMSG_DONE,
    NLMSG_ERROR,
    RTM_GETROUTE,
    RTM_GETRULE,
    Key,
    Route,
    Rule,
    Shape,
    dump_request,
    messages,
    numbered,
    parse_route,
    parse_rule,
    parse_shape,
    refusal,
    removes,
)

_AF_NETLINK = 16  # not in `socket` elsewhere, where this file is only type-checked
_SOL_NETLINK, _EXT_ACK, _STRICT_CHK = 270, 11, 12
_NOTHING_THERE = (errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT)
"""A dump's errors that mean: no such table (yet), or a kernel without that address family."""
_GONE = (errno.ESRCH, errno.ENOENT, errno.ENODEV)
_DUMP_ATTEMPTS = 10
_RECEIVE = 1 << 18
_BATCH = 200
"""Requests to one send: their acknowledgements (36 bytes and more each) must fit the receive buffer."""


class NetlinkError(OSError):
    """The kernel refused a request; `done` are the positions of those in the batch that it did."""

    def __init__(self, code: int, detail: str, done: Sequence[int] = ()) -> None:
        super().__init__(code, detail or os.strerror(code))
        self.done = done


class Netlink:
    """A NETLINK_ROUTE socket. Not for concurrent use; every call runs to its end."""

    def __init__(self) -> None:
        self._socket = socket.socket(_AF_NETLINK, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _STRICT_CHK, 1)  # since Linux 4.20: dumps are filtered
        self._socket.settimeout(10.0)
        self._socket.bind((0, 0))
        self._sequence = 0
        self.port: int = self._socket.getsockname()[0]
        """The kernel names it in what it tells others of our changes."""

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._socket.close()

    def request(self, requests: Sequence[bytes]) -> None:
        """Have the kernel do all requests, in order; removing what is not there counts as done.

        Raises `NetlinkError` for the first one refused; some of those after it may have been done.
        """
        done: list[int] = []
        for start in range(0, len(requests), _BATCH):
            batch = requests[start : start + _BATCH]
            refused = self._send_batch(batch)
            done += [start + index for index in range(len(batch)) if index not in refused]
            if refused:
                raise NetlinkError(*refused[min(refused)], done)

    def routes(self, table: int = 0) -> list[Route]:
        """Return the unicast and throw routes of both families, of one table or (0) of all."""
        bodies = [
            body
            for family in (AF_INET, AF_INET6)
            for body in self._dump(dump_request(RTM_GETROUTE, family, table))
        ]
        routes = (parse_route(body) for body in bodies)
        return [route for route in routes if route is not None and table in (0, route.table)]

    def shapes(self, table: int) -> dict[Key, Shape]:
        """Return one table's routes of both families as a diff sees them."""
        found = {}
        for family in (AF_INET, AF_INET6):
            for body in self._dump(dump_request(RTM_GETROUTE, family, table)):
                there, key, value = parse_shape(body)
                if there == table:
                    found[key] = value
        return found

    def rules(self) -> list[Rule]:
        """Return the rules of both families, in the order in which the kernel asks them."""
        return [
            parse_rule(body)
            for family in (AF_INET, AF_INET6)
            for body in self._dump(dump_request(RTM_GETRULE, family))
        ]

    def _send_batch(self, batch: Sequence[bytes]) -> dict[int, tuple[int, str]]:
        """Return (errno, detail) by position for the requests that were refused."""
        first, last = self._sequence + 1, self._sequence + len(batch)
        self._sequence = last
        self._socket.send(numbered(batch, first))
        refused: dict[int, tuple[int, str]] = {}
        while True:
            for kind, _, number, body in messages(self._socket.recv(_RECEIVE)):
                if kind != NLMSG_ERROR or number < first:
                    continue
                code, detail = refusal(body)
                if code and not (removes(batch[number - first]) and code in _GONE):
                    refused[number - first] = code, detail
                if number == last:
                    return refused

    def _dump(self, request: bytes) -> list[bytes]:
        """Return the bodies of a dump; one during which something changed is taken again."""
        for _ in range(_DUMP_ATTEMPTS):
            self._sequence += 1
            self._socket.send(numbered([request], self._sequence))
            bodies, interrupted = self._receive_dump()
            if not interrupted:
                break
        return bodies

    def _receive_dump(self) -> tuple[list[bytes], bool]:
        bodies: list[bytes] = []
        interrupted = False
        while True:
            for kind, flags, number, body in messages(self._socket.recv(_RECEIVE)):
                if number != self._sequence:
                    continue
                interrupted |= bool(flags & DUMP_INTERRUPTED)
                if kind not in (NLMSG_ERROR, NLMSG_DONE):
                    bodies.append(body)
                    continue
                code, detail = refusal(body)
                if code and code not in _NOTHING_THERE:
                    raise NetlinkError(code, detail)
                return bodies, interrupted
