"""tun mode on one device: where no private namespace can be made (a container with NET_ADMIN only).

Connections come back out of the VIF and reach a listener of the host itself, as new inbound ones. A
firewall that drops those would make every connection hang, so a SYN of our own goes that way first.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from ipaddress import ip_address, ip_network
from os import read, write

from inroad.core.errors import HostChangeFailed
from inroad.core.held import SLOTS
from inroad.core.packet import ACK, RST, SYN, Head, parse, tcp_reset, tcp_segment
from inroad.core.reflect import Plan, Reflector
from inroad.host.vif import netlink_linux, tun_linux
from inroad.host.vif.api import FirewallDrops

assert sys.platform == "linux"  # noqa: S101

POOLS = {4: ip_network("198.18.0.0/16"), 6: ip_network("2001:2:0:1::/64")}
"""Where `Plan` takes the peers' addresses from: answers to them must be routed into the VIF."""
TEST_LIMIT, TEST_INTERVAL = 1.0, 0.25
"""Seconds for the self-test, and between its attempts."""


def open_one(name: str, mtu: int, addresses: list[str]) -> tun_linux.Opened:
    """Make the VIF and listeners on its own addresses, and see that a connection gets through."""
    vif = tun_linux.open_tun(name)
    netlink = netlink_linux.Netlink()
    notes = tun_linux.configure(netlink, name, mtu, addresses)
    own = {ip_address(text).version: ip_address(text) for text in reversed(addresses)}
    if 4 not in own:
        raise HostChangeFailed("the VIF needs an IPv4 address of its own where there is one device")
    listeners = [tun_linux.listener(str(own[4]), 0, name)]
    port = listeners[0].getsockname()[1]
    plan = Plan(port, own[4].packed, one_device=True)
    if 6 in own and not notes:
        listeners.append(tun_linux.listener(str(own[6]), port, name))
        plan = Plan(port, own[4].packed, listener6=own[6].packed, one_device=True)
    index = netlink.index(name) or 0
    for sock in listeners:
        netlink.add_route(POOLS[4 if sock.family == socket.AF_INET else 6], index)
    netlink.close()
    for sock in listeners:
        _test(vif, plan, 4 if sock.family == socket.AF_INET else 6)
    return tun_linux.Opened(mtu, vif, vif, Reflector(plan, {}), listeners, notes)


def _test(vif: int, plan: Plan, version: int) -> None:
    """Send a SYN to our listener as the packet loop would; raises `FirewallDrops` without an answer."""
    peer, port = plan.peer(version, SLOTS)  # the last one to be given to a flow
    listener = plan.listener(version)
    ports = port.to_bytes(2, "big") + plan.port.to_bytes(2, "big")
    syn = tcp_segment(peer + listener, ports, 1, 0, SYN)
    deadline = time.monotonic() + TEST_LIMIT
    while time.monotonic() < deadline:
        write(vif, syn)
        attempt = time.monotonic() + TEST_INTERVAL
        while select.select([vif], [], [], max(0.0, attempt - time.monotonic()))[0]:
            packet = read(vif, 65_536)
            head = parse(packet, len(packet))
            if not isinstance(head, Head) or (head.source, head.target) != (listener, peer):
                continue
            if packet[head.start + 13] & (SYN | ACK | RST) == SYN | ACK:
                write(vif, tcp_reset(packet, head) or b"")
                return
    raise FirewallDrops(f"the host drops IPv{version} connections that arrive on the VIF")
