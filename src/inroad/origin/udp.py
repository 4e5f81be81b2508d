"""A UDP association of a client: a connected socket here, so that ICMP errors come back to it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time

from inroad.origin.association import Association
from inroad.tunnel.api import Flow, Refusal

IDLE = 300.0
"""Seconds. The workstation ends associations much earlier; this is for one that forgot."""
_AGAIN = (errno.EAGAIN, errno.EINTR, errno.EWOULDBLOCK)
# Linux: IP_MTU_DISCOVER, IPV6_MTU_DISCOVER; value 0 is IP_PMTUDISC_DONT (ip(7), ipv6(7)). A datagram
# larger than the path's MTU goes in fragments, as the application's own host would have sent it.
_DISCOVER = {
    socket.AF_INET: (socket.IPPROTO_IP, getattr(socket, "IP_MTU_DISCOVER", 10)),
    socket.AF_INET6: (socket.IPPROTO_IPV6, getattr(socket, "IPV6_MTU_DISCOVER", 23)),
}


class UdpAssociation(Association):
    """Carries datagrams between a flow and a connected UDP socket, which it owns."""

    __slots__ = ("dropped",)

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, flow: Flow) -> None:
        super().__init__(loop, sock, flow, IDLE)
        self.dropped = 0
        level, option = _DISCOVER[sock.family]
        with contextlib.suppress(OSError):  # not Linux: fragments are the default there
            sock.setsockopt(level, option, 0)
        self._begin()

    def _received(self, size: int) -> None:
        self._flow.send_datagram(self._buffer[:size])

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
