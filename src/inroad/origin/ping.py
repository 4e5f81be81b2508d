"""ICMP echo for a client: really pings, with an unprivileged ping socket, and passes on real answers only.

A datagram of the flow is a sequence number (u16) and the payload, both ways. The kernel chooses the
identifier and checks the answers' (Linux, net/ipv4/ping.c); it lets only groups in
`net.ipv4.ping_group_range` open such sockets, which in most containers is nobody until it is set.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time

from inroad.core.dial_policy import Address
from inroad.origin.association import Association
from inroad.origin.hops import mark
from inroad.tunnel.api import Flow, Refusal

IDLE = 60.0
"""Seconds after which an echo sequence that its client forgot is over."""
HEADER = struct.Struct("!BBHHH")
_NOT_PERMITTED = (errno.EACCES, errno.EPERM, errno.EPROTONOSUPPORT)
# ICMPv6 is not in the socket module everywhere.
_KINDS = {4: (socket.AF_INET, socket.IPPROTO_ICMP, 8, 0), 6: (socket.AF_INET6, 58, 128, 129)}

NOT_PERMITTED = "this pod may not ping: its group is outside net.ipv4.ping_group_range"


class NotPermitted(Exception):
    """The kernel gives this process no ping socket; says what to change."""


def open_ping(address: Address) -> socket.socket:
    """Return a ping socket connected to the address. Raises `NotPermitted`, or OSError (no route)."""
    family, protocol, _, _ = _KINDS[address.version]
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM, protocol)
    except OSError as error:
        if error.errno in _NOT_PERMITTED:
            raise NotPermitted(NOT_PERMITTED) from error
        raise
    sock.setblocking(False)
    mark(sock, family)
    try:
        sock.connect((str(address), 0))
    except OSError:
        sock.close()
        raise
    return sock


class Ping(Association):
    """One client's echo sequence to one address; owns its socket."""

    __slots__ = ("_reply", "_request")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, flow: Flow, address: Address
    ) -> None:
        _, _, self._request, self._reply = _KINDS[address.version]
        super().__init__(loop, sock, flow, IDLE)
        self._begin()

    def flow_datagram(self, data: memoryview) -> None:
        """Ping. The kernel fills in identifier and checksum."""
        if len(data) < 2:
            return
        self._last = time.monotonic()
        header = HEADER.pack(self._request, 0, 0, 0, int.from_bytes(data[:2], "big"))
        try:
            self._sock.send(header + data[2:])
        except OSError as error:
            self._failed(error)

    def _received(self, size: int) -> None:
        # On Linux the answer begins with the ICMP header, on macOS with the IP header.
        buffer = self._buffer
        start = (buffer[0] & 15) * 4 if size and buffer[0] >> 4 == 4 else 0
        if size >= start + HEADER.size and buffer[start] == self._reply:
            # Sequence number and payload are neighbours, as in our datagrams.
            self._flow.send_datagram(buffer[start + 6 : size])

    def _failed(self, error: OSError) -> None:
        if error.errno in (errno.EHOSTUNREACH, errno.ECONNREFUSED):
            self._flow.refuse(Refusal.HOST_UNREACHABLE, os.strerror(error.errno))
            self._close()
        elif error.errno == errno.ENETUNREACH:
            self._flow.refuse(Refusal.NET_UNREACHABLE, os.strerror(error.errno))
            self._close()
        # Anything else (too large, no buffers) loses this packet, as a network would.
