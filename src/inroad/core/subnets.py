"""Which subnets the VIF routes: found in the cluster or configured, minus what must stay outside.

Longest prefix decides, as in every routing table: a never-proxy subnet inside a routed one is cut out of
it, and a routed subnet inside that is routed again. So a subnet is superfluous only if the next larger
one around it, of either kind, is a routed one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_network

from inroad.core.host_config import Network

ALSO_PROXY = "also-proxy"
NEVER_ROUTED = tuple(
    (ip_network(text), name)
    for text, name in (
        ("127.0.0.0/8", "loopback"),
        ("::1/128", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("fe80::/10", "link-local"),
        ("224.0.0.0/4", "multicast"),
        ("ff00::/8", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("0.0.0.0/32", "unspecified"),
        ("::/128", "unspecified"),
    )
)


@dataclass(frozen=True, slots=True)
class Planned:
    """A subnet that is routed into the VIF, and where it came from. `kind`: service, pod, also or ""."""

    network: Network
    source: str
    kind: str = ""

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.network.version


@dataclass(frozen=True, slots=True)
class Dropped:
    """A subnet that was asked for and is not routed, or a never-proxy one that is not needed."""

    network: Network
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """`subnets` go into the VIF; `never` are those of the never-proxy ones that cut a hole into them."""

    subnets: tuple[Planned, ...] = ()
    never: tuple[Network, ...] = ()
    dropped: tuple[Dropped, ...] = ()


class _Kind(IntEnum):
    """For one and the same network the highest wins."""

    ROUTED = 0
    NEVER = 1
    ALWAYS_NEVER = 2


@dataclass(slots=True)
class _Entry:
    first: int
    last: int
    network: Network
    kind: _Kind
    source: str
    of: str = ""


def plan(
    *,
    discovered: Iterable[tuple[Network, str] | tuple[Network, str, str]] = (),
    also: Iterable[Network] = (),
    never: Iterable[Network] = (),
    always_never: Iterable[Network] = (),
    inside: Iterable[Network] = (),
) -> Plan:
    """Plan the VIF's routes.

    `discovered`: the cluster's subnets with their sources (and kinds). `also`, `never`: the user's
    also-proxy and never-proxy subnets. `always_never`: never routed whatever else is said (the API
    server, the workstation's DNS servers, the tunnel's peers). `inside`: subnets that the workstation
    reaches without us, being a pod or a node itself. Of equal networks the first keeps its source.
    """
    dropped: list[Dropped] = []
    entries: dict[tuple[int, int, int], _Entry] = {}
    skipped = set(inside)
    for network, source, *kind in discovered:
        if network in skipped:
            dropped.append(Dropped(network, source, "the workstation is inside it"))
        else:
            _add(entries, dropped, network, source, _Kind.ROUTED, *kind)
    for network in also:
        _add(entries, dropped, network, ALSO_PROXY, _Kind.ROUTED, "also")
    for network in never:
        _add(entries, dropped, network, "never-proxy", _Kind.NEVER)
    for network in always_never:
        _add(entries, dropped, network, "always never-proxied", _Kind.ALWAYS_NEVER)
    for network, name in NEVER_ROUTED:
        _add(entries, dropped, network, name, _Kind.ALWAYS_NEVER)
    return _merge([entries[key] for key in sorted(entries)], dropped)


def _add(
    entries: dict[tuple[int, int, int], _Entry],
    dropped: list[Dropped],
    network: Network,
    source: str,
    kind: _Kind,
    of: str = "",
) -> None:
    """Enter a network under a key that sorts larger networks before those they contain."""
    first = int(network.network_address)
    key = (network.version, first, network.prefixlen)
    there = entries.get(key)
    if there is None:
        last = first + (1 << (network.max_prefixlen - network.prefixlen)) - 1
        entries[key] = _Entry(first, last, network, kind, source, of)
    elif kind > there.kind:
        if there.kind is _Kind.ROUTED:
            dropped.append(Dropped(network, there.source, source))
        there.kind, there.source = kind, source
    elif kind is _Kind.ROUTED:
        dropped.append(Dropped(network, source, f"equal to {there.source} {network}"))


def _merge(entries: list[_Entry], dropped: list[Dropped]) -> Plan:
    """Walk the networks outside in; `around` holds those around the present one, largest first."""
    subnets: list[Planned] = []
    never: list[Network] = []
    around: list[_Entry] = []
    for entry in entries:
        while around and not _contains(around[-1], entry):
            around.pop()
        outer = around[-1] if around else None
        where = f"{outer.source} {outer.network}" if outer else ""
        if outer is not None and outer.kind is _Kind.ALWAYS_NEVER:
            if entry.kind is not _Kind.ALWAYS_NEVER:
                dropped.append(Dropped(entry.network, entry.source, f"inside {where}"))
            continue
        if outer is not None and outer.kind is _Kind.ROUTED:
            if entry.kind is _Kind.ROUTED:
                dropped.append(Dropped(entry.network, entry.source, f"covered by {where}"))
                continue
            never.append(entry.network)
        elif entry.kind is _Kind.ROUTED:
            subnets.append(Planned(entry.network, entry.source, entry.of))
        elif entry.kind is _Kind.NEVER:
            dropped.append(Dropped(entry.network, entry.source, "no routed subnet contains it"))
        around.append(entry)
    return Plan(tuple(subnets), tuple(never), tuple(dropped))


def _contains(outer: _Entry, inner: _Entry) -> bool:
    return outer.last >= inner.last and outer.network.version == inner.network.version
