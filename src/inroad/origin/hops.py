"""The mark of what is dialled here for a client: the hop limit that its packets begin with.

It outlives every kind of address translation, so the workstation knows its own dials again should the
cluster's network send them back to it (`core/loops`).
"""

from __future__ import annotations

import socket

from inroad.core.loops import HOP_LIMIT

_OPTIONS = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TTL),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
}


def mark(sock: socket.socket, family: socket.AddressFamily) -> None:
    """Let the socket's packets begin with our hop limit. Needs no right."""
    level, option = _OPTIONS[family]
    sock.setsockopt(level, option, HOP_LIMIT)
