"""Source ports that the kernel gives to no application.

Redirection is NAT, which is decided once per flow: the kernel remembers ours to a name server, which is not
redirected, for up to two minutes after its last packet (nf_conntrack_udp_timeout_stream). An application that
was given the same port meanwhile would ask past us, and we past ourselves on a port of an application's. So
ours come from outside the range of the ports that are given away (Linux, ip_local_port_range).
"""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

GIVEN_AWAY = Path("/proc/sys/net/ipv4/ip_local_port_range")
ENOUGH = 1_000
"""Ports; with fewer, an answer could be forged too easily."""
TRIES = 8
LAST = 65_535
_random = random.SystemRandom()


def apart(given_away: str) -> range:
    """Return ports above those that the kernel gives away, or below if above are too few; or none."""
    first, last = map(int, given_away.split())
    above, below = range(last + 1, LAST + 1), range(max(1_024, first - 8_192), first)
    return above if len(above) >= ENOUGH else below if len(below) >= ENOUGH else range(0)


def bind_apart(sock: socket.socket) -> None:
    """Give the socket a port of its own that is free; leave it to the kernel where there is none."""
    try:
        ports = apart(GIVEN_AWAY.read_text())
    except (OSError, ValueError):  # not Linux: nothing is redirected there
        return
    for _ in range(TRIES if ports else 0):
        with contextlib.suppress(OSError):
            sock.bind(("", _random.choice(ports)))
            return
