"""What a node's kernel does with service addresses, as the text of one nftables table. No I/O.

It behaves as kube-proxy's nftables mode does (Kubernetes "Virtual IPs and Service Proxies", KEP-3866):

* a connection to a service's address and port goes to one of its ready endpoints, chosen at random;
* a port that the service does not have, and a service without endpoints, are refused;
* an address of the service network that no service has is silent: packets are dropped;
* a pod that reaches itself through a service comes from its node's address, else it would answer itself.

The same from the node's own processes (hook output). Beyond that, pods reach whatever is no pod from their
node's address, as with kindnet's and Calico's masquerading. A new table takes the old one's place in one
transaction; connections that were translated before stay so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from inroad.sandbox.topology import NODES, Address, Network

TABLE = "inroad-services"
MASQUERADE_MARK = 0x4000
"""kube-proxy's mark for connections that must come back through this node."""
FAMILY = {4: "ip", 6: "ip6"}
TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a connection may go."""

    address: Address
    port: int


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of one service in one family. `protocol`: tcp or udp. `node_port`: 0 for none."""

    service: str
    address: Address
    protocol: str
    port: int
    backends: tuple[Backend, ...] = ()
    node_port: int = 0

    @property
    def chain(self) -> str:
        """The chain's name, readable in `nft list ruleset`."""
        return f"svc-{self.service}/{self.protocol}/{self.port}/v{self.address.version}"


@dataclass(frozen=True, slots=True)
class Rules:
    """All that the table depends on. `pods`: the pod networks, `local_pods`: those of this node."""

    service_networks: tuple[Network, ...]
    pods: tuple[Network, ...]
    local_pods: tuple[Network, ...] = ()
    addresses: frozenset[Address] = frozenset()
    ports: tuple[ServicePort, ...] = field(default_factory=tuple)

    def text(self) -> str:
        """Return the input for `nft -f`."""
        families = [network.version for network in self.service_networks]
        lines = [f"table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
        for family in families:
            lines += self._sets(family)
        for port in self.ports:
            if port.backends:
                lines += _chain(port.chain, _choice(port))
                if port.node_port:
                    mark = f"meta mark set meta mark or {MASQUERADE_MARK:#x}"
                    lines += _chain(f"ext-{port.chain}", [mark, f"goto {port.chain}"])
        lines += _chain("services", [rule for family in families for rule in self._dispatch(family)])
        checks = [rule for family in families for rule in self._leftovers(family)]
        for hook in ("prerouting", "output"):
            lines += _hook(f"nat-{hook}", f"type nat hook {hook} priority -100", ["jump services"])
        for hook in ("forward", "output", "input"):
            lines += _hook(f"filter-{hook}", f"type filter hook {hook} priority 0", checks)
        masquerade = [rule for family in families for rule in self._masquerade(family)]
        lines += _hook("nat-postrouting", "type nat hook postrouting priority 100", masquerade)
        lines.append("}")
        return "\n".join(lines) + "\n"

    def _of(self, family: int) -> list[ServicePort]:
        return [port for port in self.ports if port.address.version == family]

    def _sets(self, family: int) -> list[str]:
        kind, ports = TYPE[family], self._of(family)
        own = {str(address) for address in self.addresses if address.version == family}
        targets = {backend.address for port in ports for backend in port.backends}
        reached = {f"{p.address} . {p.protocol} . {p.port} : goto {p.chain}" for p in ports if p.backends}
        outside = {
            f"{p.protocol} . {p.node_port} : goto ext-{p.chain}" for p in ports if p.node_port and p.backends
        }
        closed = {f"{p.protocol} . {p.node_port}" for p in ports if p.node_port and not p.backends}
        return [
            *_set("set", f"addresses{family}", f"type {kind}", own),
            *_set("set", f"hairpin{family}", f"type {kind} . {kind}", {f"{a} . {a}" for a in targets}),
            *_set("map", f"ports{family}", f"type {kind} . inet_proto . inet_service : verdict", reached),
            *_set("map", f"nodeports{family}", "type inet_proto . inet_service : verdict", outside),
            *_set("set", f"closed{family}", "type inet_proto . inet_service", closed),
        ]

    def _dispatch(self, family: int) -> list[str]:
        ip = FAMILY[family]
        return [
            f"{ip} daddr . meta l4proto . th dport vmap @ports{family}",
            f"{ip} daddr {NODES[family]} fib daddr type local "
            f"meta l4proto . th dport vmap @nodeports{family}",
        ]

    def _leftovers(self, family: int) -> list[str]:
        """Return the rules for packets that still go to a service address: nothing translated them."""
        ip = FAMILY[family]
        (network,) = (n for n in self.service_networks if n.version == family)
        closed = f"{ip} daddr {NODES[family]} fib daddr type local meta l4proto . th dport @closed{family}"
        return [
            *_refuse(family, f"{ip} daddr @addresses{family}"),
            f"{ip} daddr {network} drop",
            *_refuse(family, closed),
        ]

    def _masquerade(self, family: int) -> list[str]:
        ip = FAMILY[family]
        inside = [str(network) for network in self.pods if network.version == family]
        rules = [
            f"meta mark and {MASQUERADE_MARK:#x} == {MASQUERADE_MARK:#x} masquerade",
            f"ct status dnat {ip} saddr . {ip} daddr @hairpin{family} masquerade",
        ]
        rules += [
            f"{ip} saddr {network} {ip} daddr != {{ {', '.join(inside)} }} masquerade"
            for network in self.local_pods
            if network.version == family
        ]
        return rules


def _refuse(family: int, match: str) -> list[str]:
    """Return the rules that refuse what matches, as kube-proxy does: with ICMP "port unreachable".

    Except TCP over IPv6: the error comes back while `connect` still holds the socket's lock, within the same
    softirq, and Linux drops it there (LockDroppedIcmps, 6.18): refused only at the second SYN, after 1 s. A
    reset waits for the lock.
    """
    rules = [f"{match} reject with icmpx type port-unreachable"]
    return rules if family == 4 else [f"{match} meta l4proto tcp reject with tcp reset", *rules]


def _choice(port: ServicePort) -> list[str]:
    ip = FAMILY[port.address.version]
    count = len(port.backends)
    targets = ", ".join(f"{n} : {b.address} . {b.port}" for n, b in enumerate(port.backends))
    return [f"meta l4proto {port.protocol} dnat {ip} to numgen random mod {count} map {{ {targets} }}"]


def _set(what: str, name: str, kind: str, elements: Iterable[str]) -> list[str]:
    inner = sorted(elements)
    body = [f"    elements = {{ {', '.join(inner)} }}"] if inner else []
    return [f"  {what} {name} {{", f"    {kind}", *body, "  }"]


def _chain(name: str, rules: Sequence[str]) -> list[str]:
    return [f"  chain {name} {{", *(f"    {rule}" for rule in rules), "  }"]


def _hook(name: str, hook: str, rules: Sequence[str]) -> list[str]:
    return _chain(name, [f"{hook}; policy accept;", *rules])
