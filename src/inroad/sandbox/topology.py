"""The sandbox's network as values: which namespaces there are, how they are wired, who has what address.

       office 192.168.50.0/24                         node network 172.18.0.0/16
   workstation .10 ── lan .1 ── control-plane .20   control-plane .2 ── node-1 .3 ── node-2 .4 ── gateway .1
                                                                          │ cni0 10.244.1.1
                                                                          ├── pod 10.244.1.2
                                                                          └── pod 10.244.1.3

* Both segments are bridges in the namespace `switch`, which has no address and forwards nothing. No
  interface of a sandbox ever exists in the host's own namespace.
* `control-plane` stands in both segments and does not forward: the workstation reaches the API server and
  nothing else of the cluster.
* `lan` is the office: its name server and the world outside the cluster. It has a leg on the node network
  too and is the nodes' gateway (unless the nodes live on the workstation, `on_host`), again not forwarding:
  pods reach the outside servers, the office does not reach the pods.
* A pod's address is a /32 (/128) and its only route leads to the bridge. So two pods of one node talk through
  the node's IP layer rather than across the bridge: a reply to a translated (service) connection passes the
  node's connection tracking, which puts the service's address back. Across the bridge it would arrive
  from the pod's own address, and the client would reset it.

This file decides; `network.py` carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

OFFICE: dict[int, Network] = {4: IPv4Network("192.168.50.0/24"), 6: IPv6Network("fd00:192:168:50::/64")}
NODES: dict[int, Network] = {4: IPv4Network("172.18.0.0/16"), 6: IPv6Network("fd00:172:18::/64")}
SERVICES: dict[int, Network] = {4: IPv4Network("10.96.0.0/16"), 6: IPv6Network("fd00:10:96::/112")}
API_PORT = 6443
DNS_SERVICE = 10
"""Host number of the cluster DNS in the service network, as kubeadm has it."""


def pod_network(family: int, node: int) -> Network:
    """Return the pod CIDR of the n-th node."""
    text = f"10.244.{node}.0/24" if family == 4 else f"fd00:10:244:{node:x}::/64"
    return ip_network(text)


@dataclass(frozen=True, slots=True)
class Link:
    """One end of a cable: `interface` in `place` with its addresses, the other end is a port of `segment`."""

    place: str
    interface: str
    segment: str
    addresses: tuple[tuple[Address, int], ...]

    @property
    def port(self) -> str:
        """Name of the switch's end; interface names have at most 15 characters."""
        return f"{self.segment[0]}-{self.place}"[:15]


@dataclass(frozen=True, slots=True)
class Node:
    """A node: its address per family and the networks of its pods."""

    name: str
    number: int
    families: tuple[int, ...]

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Its addresses on the node network."""
        return tuple(NODES[family][2 + self.number] for family in self.families)

    @property
    def pod_networks(self) -> tuple[Network, ...]:
        """Where its pods get their addresses."""
        return tuple(pod_network(family, self.number) for family in self.families)

    @property
    def bridge_addresses(self) -> tuple[Address, ...]:
        """The pods' gateway: the first address of each pod network."""
        return tuple(network[1] for network in self.pod_networks)


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole sandbox. `families`: (4,), (6,) or (4, 6), the first being the primary one.

    `on_host`: the nodes' gateway is the workstation, which forwards for them, as where a cluster runs in
    containers on the developer's own machine. `upstream`: the workstation answers the cluster's DNS; it
    then has a leg on the node network in any case.
    """

    nodes: tuple[Node, ...]
    families: tuple[int, ...] = (4,)
    on_host: bool = False
    upstream: bool = False
    places: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        named = ("workstation", "lan", "control-plane", *(node.name for node in self.nodes))
        object.__setattr__(self, "places", named)

    def _both(self, networks: dict[int, Network], host: int) -> tuple[tuple[Address, int], ...]:
        return tuple((networks[family][host], networks[family].prefixlen) for family in self.families)

    @property
    def gateway(self) -> str:
        """The place that is the nodes' default route."""
        return "workstation" if self.on_host else "lan"

    def links(self) -> tuple[Link, ...]:
        """Return all cables."""
        office, nodes = OFFICE, NODES
        apart = self.upstream and not self.on_host
        extra = (Link("workstation", "nodes0", "nodes", self._both(nodes, 254)),) if apart else ()
        return (
            Link("workstation", "eth0", "office", self._both(office, 10)),
            Link("lan", "eth0", "office", self._both(office, 1)),
            Link("control-plane", "office0", "office", self._both(office, 20)),
            Link("control-plane", "eth0", "nodes", self._both(nodes, 2)),
            Link(self.gateway, "nodes0", "nodes", self._both(nodes, 1)),
            *extra,
            *(Link(n.name, "eth0", "nodes", self._both(nodes, 2 + n.number)) for n in self.nodes),
        )

    def addresses(self, place: str) -> tuple[Address, ...]:
        """Return the addresses of a place that is not a pod."""
        return tuple(address for link in self.links() if link.place == place for address, _ in link.addresses)

    def routes(self, place: str) -> tuple[tuple[str, Address], ...]:
        """Return (destination, gateway) pairs: default routes, and the way to each other node's pods."""
        found: list[tuple[str, Address]] = []
        for family in self.families:
            if place == "workstation":
                found.append(("default", OFFICE[family][1]))
            elif place not in (self.gateway, "lan"):
                found.append(("default", NODES[family][1]))
            if place == "control-plane" or self.node(place):
                found += [
                    (str(pod_network(family, node.number)), NODES[family][2 + node.number])
                    for node in self.nodes
                    if node.name != place
                ]
        return tuple(found)

    def node(self, name: str) -> Node | None:
        """Return the node of that name, if it is one."""
        return next((node for node in self.nodes if node.name == name), None)

    @property
    def service_networks(self) -> tuple[Network, ...]:
        """Where Services get their cluster addresses, the primary family first."""
        return tuple(SERVICES[family] for family in self.families)

    @property
    def pod_networks(self) -> tuple[Network, ...]:
        """All nodes' pod networks."""
        return tuple(network for node in self.nodes for network in node.pod_networks)

    @property
    def dns_addresses(self) -> tuple[Address, ...]:
        """Where cluster DNS is reached."""
        return tuple(network[DNS_SERVICE] for network in self.service_networks)

    @property
    def upstream_addresses(self) -> tuple[Address, ...]:
        """Where the workstation answers the cluster's DNS, if it does."""
        return tuple(NODES[family][1 if self.on_host else 254] for family in self.families)

    @property
    def api_addresses(self) -> tuple[Address, ...]:
        """The API server as the workstation reaches it."""
        return tuple(OFFICE[family][20] for family in self.families)

    @property
    def control_plane_addresses(self) -> tuple[Address, ...]:
        """The API server as nodes and pods reach it."""
        return tuple(NODES[family][2] for family in self.families)


def make(
    nodes: int = 1, families: tuple[int, ...] = (4,), on_host: bool = False, upstream: bool = False
) -> Topology:
    """Return a topology of that many nodes, `node-1` to `node-N` (1 to 200)."""
    named = tuple(Node(f"node-{n}", n, families) for n in range(1, nodes + 1))
    return Topology(named, families, on_host, upstream)
