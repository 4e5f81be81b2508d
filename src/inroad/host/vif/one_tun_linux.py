"""tun mode on one device: where no private namespace can be made (a container with NET_ADMIN only).

Connections come back out of the VIF and reach a listener of the host itself, as new inbound ones.
"""

from __future__ import annotations

import select
import socket
import sys
from functools import partial
from ipaddress import ip_address, ip_network
from os import read, write

from inroad.core.errors import HostChangeFailed
from inroad.core.reflect import POOLS, Plan, Reflector
from inroad.host.vif import netlink_linux, tun_linux
from inroad.host.vif.inbound_check import connect_to_ourselves

assert sys.platform == "linux"  # noqa: S101


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
        netlink.add_route(ip_network(POOLS[4 if sock.family == socket.AF_INET else 6]), index)
    netlink.close()
    for sock in listeners:
        _test(vif, plan, 4 if sock.family == socket.AF_INET else 6)
    return tun_linux.Opened(mtu, vif, vif, Reflector(plan, {}), listeners, notes)


def _test(vif: int, plan: Plan, version: int) -> None:
    def receive(timeout: float) -> bytes:
        return read(vif, 65_536) if select.select([vif], [], [], timeout)[0] else b""

    connect_to_ourselves(partial(write, vif), receive, plan, version)
