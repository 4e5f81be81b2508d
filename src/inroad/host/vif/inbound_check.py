"""Does a connection that arrives on the VIF reach our listener? Asked before an application has to find out.

With one device, connections come back out of the VIF and are new inbound ones for the host. A firewall that
drops those would make every connection hang.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from inroad.core.checksum import Buffer
from inroad.core.held import SLOTS
from inroad.core.packet import ACK, RST, SYN, Head, parse, tcp_reset, tcp_segment
from inroad.core.reflect import Plan
from inroad.host.vif.api import FirewallDrops

TEST_LIMIT, TEST_INTERVAL = 1.0, 0.25
"""Seconds for the test, and between its attempts."""


def connect_to_ourselves(
    send: Callable[[bytes], object], receive: Callable[[float], Buffer], plan: Plan, version: int
) -> None:
    """Send a SYN to our listener as the packet loop would; raises `FirewallDrops` without an answer. Blocks.

    `receive` waits for a packet for so many seconds and returns it, or nothing.
    """
    peer, port = plan.peer(version, SLOTS)  # the last one to be given to a flow
    listener = plan.listener(version)
    ports = port.to_bytes(2, "big") + plan.port.to_bytes(2, "big")
    syn = tcp_segment(peer + listener, ports, 1, 0, SYN)
    deadline = time.monotonic() + TEST_LIMIT
    while time.monotonic() < deadline:
        send(syn)
        attempt = time.monotonic() + TEST_INTERVAL
        while packet := receive(max(0.0, attempt - time.monotonic())):
            head = parse(packet, len(packet))
            if not isinstance(head, Head) or (head.source, head.target) != (listener, peer):
                continue
            if packet[head.start + 13] & (SYN | ACK | RST) == SYN | ACK:
                send(tcp_reset(packet, head) or b"")
                return
    raise FirewallDrops(f"the host drops IPv{version} connections that arrive on the VIF")
