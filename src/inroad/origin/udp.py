"""A UDP association of a client: a connected socket here, so that ICMP errors come back to it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time

from inroad.tunnel.api import Flow, Quiet, Refusal
from inroad.tunnel.pump import shared_buffer

IDLE = 300.0
"""Seconds. The workstation ends associations much earlier; this is for one that forgot."""
BATCH = 32
"""Datagrams read before other sockets get their turn."""
_AGAIN = (errno.EAGAIN, errno.EINTR, errno.EWOULDBLOCK)
# Linux: IP_MTU_DISCOVER, IPV6_MTU_DISCOVER; value 0 is IP_PMTUDISC_DONT (ip(7), ipv6(7)). A datagram
# larger than the path's MTU goes in fragments, as the application's own host would have sent it.
_DISCOVER = {
    socket.AF_INET: (socket.IPPROTO_IP, getattr(socket, "IP_MTU_DISCOVER", 10)),
    socket.AF_INET6: (socket.IPPROTO_IPV6, getattr(socket, "IPV6_MTU_DISCOVER", 23)),
}


class UdpAssociation(Quiet):
    """Carries datagrams between a flow and a connected UDP socket, which it owns."""

    __slots__ = ("_buffer", "_flow", "_last", "_loop", "_sock", "_timer", "dropped")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, flow: Flow) -> None:
        self._loop = loop
        self._sock = sock
        self._flow = flow
        self._buffer = shared_buffer(loop)
        self._last = time.monotonic()
        self.dropped = 0
        level, option = _DISCOVER[sock.family]
        with contextlib.suppress(OSError):  # not Linux: fragments are the default there
            sock.setsockopt(level, option, 0)
        self._timer = loop.call_later(IDLE, self._check_idle)
        loop.add_reader(sock, self._readable)
        flow.accept()

    def _readable(self) -> None:
        self._last = time.monotonic()
        buffer = self._buffer
        try:
            for _ in range(BATCH):
                size = self._sock.recv_into(buffer)
                self._flow.send_datagram(buffer[:size])
        except OSError as error:
            self._failed(error)

    def flow_datagram(self, data: memoryview) -> None:
        """Send it."""
        self._last = time.monotonic()
        try:
            self._sock.send(data)
        except OSError as error:
            self.dropped += 1
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if error.errno == errno.ECONNREFUSED:
            # ICMP port unreachable; the workstation answers its application with the same.
            self._flow.refuse(Refusal.REFUSED, "port unreachable")
            self._close()
        elif error.errno not in _AGAIN:
            self.dropped += 1

    def _check_idle(self) -> None:
        idle = time.monotonic() - self._last
        if idle >= IDLE:
            self._flow.reset()
            self._close()
        else:
            self._timer = self._loop.call_later(IDLE - idle, self._check_idle)

    def flow_reset(self) -> None:
        """The client needs it no more."""
        self._close()

    def _close(self) -> None:
        self._timer.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()
