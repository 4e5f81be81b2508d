"""veth mode on Linux: the VIF's peer is in the private namespace, whose nftables redirects TCP.

    host: inroad0 ======= peer0: private namespace --- listeners
                            |
                          hold0 (TUN): SYNs, UDP, ICMP, strays --- packet loop

Both ends of the pair have the same hardware address and NOARP, so nobody asks who has the cluster's
addresses: a neighbour entry then holds the device's own hardware address, which is the peer's too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path

from inroad.core.errors import HostChangeFailed
from inroad.core.redirect import LISTENERS, Redirector
from inroad.host.vif import namespace_linux, netlink_linux, tun_linux
from inroad.host.vif.veth_rules import HOLD, MARK, PEER, TABLE

assert sys.platform == "linux"  # noqa: S101

LISTENER4, LISTENER6 = "198.19.0.1", "2001:2::1"
"""Addresses for benchmarks (RFC 2544, RFC 5180): no application has them as its own."""
MTU = 1500
"""The kernel passes segments of 64 KiB over a veth whatever its MTU; Nagle wants it small."""

ALIAS = "inroad, packet loop"
"""The link's alias, followed by a process id: `ip link` shows it."""

_SYSCTLS = namespace_linux.SYSCTLS | {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
}

TRACKING = {
    # Packets of connections from before this VIF are strays, not new connections.
    "net/netfilter/nf_conntrack_tcp_loose": "0",
    "net/netfilter/nf_conntrack_tcp_be_liberal": "1",
    "net/netfilter/nf_conntrack_checksum": "0",
    # Half-closed connections are as good as others; ended ones need not be remembered.
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait": "432000",
    "net/netfilter/nf_conntrack_tcp_timeout_time_wait": "5",
    "net/netfilter/nf_conntrack_tcp_timeout_close": "5",
}
"""Set when the rules have loaded connection tracking."""


def open_veth(name: str, mtu: int, addresses: list[str]) -> tun_linux.Opened:
    """Make the pair; this process is in the private namespace then. The rules are the daemon's to load."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    outer = netlink_linux.Netlink()
    namespace_linux.enter_private()
    inside = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    refused = namespace_linux.set_sysctls(_SYSCTLS)
    notes = [f"sysctls not set: {', '.join(refused)}"] if refused else []
    hold = tun_linux.open_tun(HOLD)
    mac = b"\x02" + os.urandom(5)
    _remove_stale(outer, name)
    try:
        outer.add_veth(name, PEER, inside, mac)
    except OSError as problem:
        raise HostChangeFailed(f"a veth pair {name} can't be made: {problem.strerror}") from problem
    with namespace_linux.visiting(home, inside):
        notes += tun_linux.configure(outer, name, min(mtu, MTU), addresses, queue=0)
        outer.set_link(outer.index(name) or 0, alias=f"{ALIAS} {os.getpid()}")
    os.close(home)
    os.close(inside)
    _inside(min(mtu, MTU))
    tcp = Redirector({})
    return tun_linux.Opened(min(mtu, MTU), hold, hold, tcp, _listen(), notes, hops=1, outer=outer, name=name)


def _remove_stale(outer: netlink_linux.Netlink, name: str) -> None:
    """Remove the pair of a packet loop that was killed together with its daemon.

    A connection with data still to send keeps the private namespace, and the pair, for a while.
    """
    owner = outer.alias(name).removeprefix(f"{ALIAS} ")
    if owner.isdigit() and not Path(f"/proc/{owner}").exists():
        outer.delete_link(outer.index(name) or 0)


def _inside(mtu: int) -> None:
    """Addresses, routes and the rule of the private namespace."""
    inner = netlink_linux.Netlink()
    indexes = {}
    for name, size, queue in (("lo", 0, 0), (PEER, mtu, 0), (HOLD, 65_535, tun_linux.QUEUE)):
        index = inner.index(name)
        if index is None:
            raise HostChangeFailed(f"{name} is not in the private namespace")
        with contextlib.suppress(OSError):  # a kernel without IPv6
            inner.no_link_local(index)
        inner.set_link(index, mtu=size, queue=queue, up=True)
        indexes[name] = index
    for listener, everywhere in ((LISTENER4, "0.0.0.0/0"), (LISTENER6, "::/0")):
        network = ip_network(everywhere)
        try:
            inner.add_address(indexes["lo"], ip_address(listener))
            inner.add_route(network, indexes[PEER], quickack=False)
            inner.add_route(network, indexes[HOLD], table=TABLE)
            inner.add_mark_rule(network.version, MARK, TABLE)
        except OSError:
            if network.version == 4:
                raise
    inner.close()


def _listen() -> list[socket.socket]:
    listeners = []
    for address in (LISTENER4, LISTENER6):
        for number in range(LISTENERS):
            with contextlib.suppress(OSError) if ":" in address else contextlib.nullcontext():
                listeners.append(tun_linux.listener(address, tun_linux.PORT + number))
    return listeners
