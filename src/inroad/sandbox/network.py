"""Carries a topology out: namespaces, cables, addresses, routes and sysctls, by `ip -batch`.

Cables are made between two namespaces in one step and never pass through the host's own. IPv6 addresses
skip duplicate address detection, else they could not be used for a second.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv6Address

from inroad.core.errors import SandboxFailed
from inroad.host.run import require, run_async
from inroad.sandbox import netns
from inroad.sandbox.services import FAMILY
from inroad.sandbox.state import Home
from inroad.sandbox.topology import NODES, Address, Node, Topology

LEAF: Mapping[str, str] = {
    "ipv4/ip_forward": "0",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv6/conf/all/accept_redirects": "0",
    "ipv6/conf/default/accept_redirects": "0",
    "ipv6/conf/default/accept_ra": "0",
    # Nobody else is on these links: an address is usable at once, not after a second of asking.
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    # As containerd sets them up; a new namespace has an empty ping range.
    "ipv4/ping_group_range": "0 2147483647",
    "ipv4/ip_unprivileged_port_start": "0",
}
"""Sysctls of every namespace: what a new one inherits depends on the host (IPv4 conf comes from init)."""

WORKSTATION: Mapping[str, str] = {**LEAF, "ipv4/ip_unprivileged_port_start": "1024"}
FORWARDING: Mapping[str, str] = {
    **LEAF,
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    "ipv6/conf/default/forwarding": "1",
    # Pods of a node are reached through the bridge they came from: no redirects for that.
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    # The host may have br_netfilter: frames would pass the rules a second time.
    "bridge/bridge-nf-call-iptables": "0",
    "bridge/bridge-nf-call-ip6tables": "0",
}
SWITCH: Mapping[str, str] = {
    "bridge/bridge-nf-call-iptables": "0",
    "bridge/bridge-nf-call-ip6tables": "0",
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
}
SEGMENTS = ("office", "nodes")


async def batch(lines: Sequence[str], *, namespace: str = "") -> None:
    """Run `ip` commands, in a network namespace if one is named; `SandboxFailed` at the first bad one."""
    argv = [require("ip", "iproute2"), *(["-n", namespace] if namespace else []), "-batch", "-"]
    done = await run_async(argv, stdin="\n".join(lines) + "\n", timeout=30)
    if not done.ok:
        raise SandboxFailed(f"ip refused to wire {namespace or 'the sandbox'}: {done.stderr.strip()}")


async def build(home: Home, topology: Topology) -> None:
    """Make every namespace but the pods' and wire them."""
    switch = home.namespace("switch")
    await batch([f"netns add {home.namespace(place)}" for place in ("switch", *topology.places)])
    await _sysctls(home, "switch", SWITCH)
    for place in topology.places:
        await _sysctls(home, place, _kind(topology, place))
    lines = []
    for link in topology.links():
        inside = home.namespace(link.place)
        lines.append(
            f"link add {link.interface} netns {inside} type veth peer name {link.port} netns {switch}"
        )
    await batch(lines)
    await asyncio.gather(_wire_switch(topology, switch), *(_wire(home, topology, p) for p in topology.places))
    if topology.on_host:
        await _masquerade(home)


def _kind(topology: Topology, place: str) -> Mapping[str, str]:
    """Return the sysctls of a place; they are set before it has interfaces, which inherit them."""
    if topology.node(place) is not None or (topology.on_host and place == "workstation"):
        return FORWARDING
    return WORKSTATION if place == "workstation" else LEAF


async def _sysctls(home: Home, place: str, values: Mapping[str, str]) -> None:
    netns.write_sysctls(home.namespace_path(place), values)


async def _wire_switch(topology: Topology, switch: str) -> None:
    lines = [f"link add {name} type bridge forward_delay 0 mcast_snooping 0" for name in SEGMENTS]
    lines += [f"link set {name} up" for name in SEGMENTS]
    lines += [f"link set {link.port} master {link.segment} up" for link in topology.links()]
    await batch(lines, namespace=switch)


async def _wire(home: Home, topology: Topology, place: str) -> None:
    node = topology.node(place)
    lines = ["link set lo up"]
    for link in topology.links():
        if link.place == place:
            lines += [add(address, length, link.interface) for address, length in link.addresses]
            lines.append(f"link set {link.interface} up")
    if node is not None:
        # A bridge without an address of its own takes the lowest of its ports': with each new pod it might
        # change, and the pods' neighbour caches would lead nowhere.
        mac = f"02:42:0a:f4:{node.number:02x}:01"
        lines.append(f"link add cni0 address {mac} type bridge forward_delay 0 mcast_snooping 0")
        for gateway, network in zip(node.bridge_addresses, node.pod_networks, strict=True):
            lines.append(add(gateway, network.prefixlen, "cni0"))
        lines.append("link set cni0 up")
    lines += [f"route add {destination} via {gateway}" for destination, gateway in topology.routes(place)]
    await batch(lines, namespace=home.namespace(place))


async def _masquerade(home: Home) -> None:
    """Have the workstation do for the nodes what Docker does for containers: whatever leaves is its own."""
    rules = [f"{FAMILY[family]} saddr {NODES[family]} oifname != nodes0 masquerade" for family in FAMILY]
    hook = ["type nat hook postrouting priority 100; policy accept;", *rules]
    text = "\n".join(["table inet inroad-sandbox-host {", "chain postrouting {", *hook, "}", "}", ""])
    inside = f"--net={home.namespace_path('workstation')}"
    argv = [require("nsenter", "util-linux"), inside, require("nft", "nftables"), "-f", "-"]
    done = await run_async(argv, stdin=text)
    if not done.ok:
        raise SandboxFailed(f"nft refused the workstation's masquerading: {done.stderr.strip()}")


def add(address: Address, length: int, interface: str) -> str:
    """Return the `ip` command that gives an interface an address."""
    once = " nodad" if isinstance(address, IPv6Address) else ""
    return f"address add {address}/{length} dev {interface}{once}"


async def add_pod(home: Home, place: str, node: Node, port: str, addresses: Iterable[Address]) -> None:
    """Make a pod's namespace and plug it into its node's bridge at `port` (an unused interface name)."""
    namespace, node_namespace = home.namespace(place), home.namespace(node.name)
    await batch([f"netns add {namespace}"])
    await _sysctls(home, place, LEAF)
    await batch([f"link add eth0 netns {namespace} type veth peer name {port} netns {node_namespace}"])
    lines = ["link set lo up"]
    routes = []
    for address, gateway in zip(addresses, node.bridge_addresses, strict=True):
        lines.append(add(address, address.max_prefixlen, "eth0"))
        routes.append(f"route add default via {gateway} dev eth0 onlink")
    lines += ["link set eth0 up", *routes]
    await asyncio.gather(
        batch([f"link set {port} master cni0 up"], namespace=node_namespace),
        batch(lines, namespace=namespace),
    )


async def remove_pod(home: Home, place: str) -> None:
    """Remove a pod's namespace; its cable goes with it."""
    await batch([f"netns del {home.namespace(place)}"])
