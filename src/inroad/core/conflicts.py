"""Cluster subnets that overlap routes of the workstation: found, allowed, moved, or refused.

A subnet in conflict can't be routed into the VIF without taking addresses from somebody else (a VPN, a Docker
network, the office). The user may say that ours wins; else its addresses are moved: names resolve to virtual
addresses instead (`core/vnat`), and the subnet itself is left to whoever has it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Protocol

from inroad.core.errors import ConfigInvalid, SubnetConflict
from inroad.core.host_config import Network
from inroad.core.subnets import Plan, Planned
from inroad.core.vnat import Moved

KINDS = {"service": "service", "services": "service", "pods": "pod", "pod": "pod", "also": "also"}
"""Words of `--vnat` and `--proxy-via` for a whole kind of subnets; `all` is all of them."""
ALL_KINDS = frozenset(KINDS.values())


class Occupied(Protocol):
    """A route of somebody else (`host.routes.api.HostRoute`); as text it names itself to the user."""

    @property
    def network(self) -> Network:
        """Where it leads to."""

    @property
    def interface(self) -> str:
        """By which interface."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A subnet of the cluster and a route of another interface that have addresses in common."""

    planned: Planned
    route: Occupied

    def __str__(self) -> str:
        return f"{self.planned.source} {self.planned.network} overlaps the route {self.route}"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user said about conflicts.

    `allow`: where ours wins. `auto`: move what conflicts. `kinds`, `networks`: move these anyway
    (`--vnat`). `via`, `via_kinds`: move these, bound to a workload (`--proxy-via`).
    """

    allow: tuple[Network, ...] = ()
    auto: bool = True
    kinds: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    via: tuple[tuple[Network, str], ...] = ()
    via_kinds: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Resolution:
    """`routed`: subnets that stay as they are. `moved`: those with virtual addresses instead."""

    routed: tuple[Planned, ...] = ()
    moved: tuple[Moved, ...] = ()
    allowed: tuple[Conflict, ...] = ()


def find(plan: Plan, routes: Iterable[Occupied], *, own: str) -> tuple[Conflict, ...]:
    """Return every overlap of a planned subnet with a route that is not `own`'s (the VIF's name).

    Default routes and the two halves that VPNs put in their place overlap everything and mean nothing.
    What is never-proxied conflicts with nobody.
    """
    found = []
    index = _Index(plan.subnets)
    for route in routes:
        if route.network.prefixlen <= 1 or route.interface in (own, "lo"):
            continue
        for planned in index.overlapping(route.network):
            left_out = any(
                _covers(never, route.network) and _covers(planned.network, never) for never in plan.never
            )
            if not left_out:
                found.append(Conflict(planned, route))
    return tuple(found)


def resolve(
    plan: Plan,
    routes: Sequence[Occupied],
    wishes: Wishes,
    *,
    own: str,
    pools: Iterable[Network] = (),
) -> Resolution:
    """Decide for each planned subnet; `pools` are the virtual subnets.

    Raises `SubnetConflict`, naming both routes, when it may not, or when a virtual subnet is taken too.
    """
    allowed, refused = [], []
    reasons: dict[Network, str] = {}
    for conflict in find(plan, routes, own=own):
        if _allowed(conflict, wishes.allow):
            allowed.append(conflict)
        elif wishes.auto:
            reasons.setdefault(conflict.planned.network, str(conflict))
        else:
            refused.append(conflict)
    wanted = [Moved(network, "--proxy-via", workload) for network, workload in wishes.via]
    wanted += [Moved(network, "--vnat") for network in wishes.networks]
    refused = [item for item in refused if not any(_covers(m.network, item.planned.network) for m in wanted)]
    routed, moved, workloads = [], [], dict(wishes.via_kinds)
    for planned in plan.subnets:
        if any(_covers(entry.network, planned.network) for entry in wanted):
            continue  # what was wished for that very subnet, not what is true of its kind
        workload = workloads.get(planned.kind, "")
        reason = "--vnat" if planned.kind in wishes.kinds else reasons.get(planned.network, "")
        if workload or reason:
            moved.append(Moved(planned.network, "--proxy-via" if workload else reason, workload))
            refused = [item for item in refused if item.planned is not planned]
        else:
            routed.append(planned)
    if refused:
        raise SubnetConflict(
            str(refused[0]) + (f", and {len(refused) - 1} more" if len(refused) > 1 else ""),
            f"set routing.autoResolveConflicts, or add {refused[0].planned.network} to "
            "routing.allowConflictingSubnets or routing.neverProxySubnets",
        )
    moved = wanted + moved
    _check_pools(moved, routes, pools, own)
    return Resolution(tuple(routed), tuple(moved), tuple(allowed))


def _check_pools(
    moved: Sequence[Moved], routes: Sequence[Occupied], pools: Iterable[Network], own: str
) -> None:
    """Virtual addresses that somebody else has would be no way out."""
    needed = {entry.network.version for entry in moved}
    plan = Plan(tuple(Planned(pool, "routing.virtualSubnet") for pool in pools if pool.version in needed))
    for conflict in find(plan, routes, own=own):
        raise SubnetConflict(str(conflict), "set routing.virtualSubnet to a network that nobody here uses")


def parse_moves(words: Iterable[str]) -> tuple[frozenset[str], tuple[Network, ...]]:
    """Read the values of `--vnat`: CIDRs, `also`, `service`, `pods`, `all`. Raises `ConfigInvalid`."""
    kinds: set[str] = set()
    networks = []
    for word in words:
        named = _kinds(word)
        kinds |= named
        if not named:
            networks.append(_network("--vnat", word))
    return frozenset(kinds), tuple(networks)


def parse_via(words: Iterable[str]) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[Network, str], ...]]:
    """Read the values of `--proxy-via`: `WHAT=WORKLOAD`, where WHAT is what `--vnat` takes.

    Returns (kind, workload) pairs, of which the last for a kind counts, and (network, workload) pairs.
    Raises `ConfigInvalid`.
    """
    kinds: dict[str, str] = {}
    networks = []
    for word in words:
        what, equals, workload = word.partition("=")
        if not equals or not workload:
            raise ConfigInvalid(
                f"--proxy-via {word!r} names no workload", "write it as 10.1.0.0/16=deploy/web"
            )
        named = _kinds(what)
        kinds |= dict.fromkeys(named, workload)
        if not named:
            networks.append((_network("--proxy-via", what), workload))
    return tuple(sorted(kinds.items())), tuple(networks)


def _kinds(word: str) -> frozenset[str]:
    """Return the kinds of subnets that a word stands for, none when it is no such word."""
    if word == "all":
        return ALL_KINDS
    return frozenset({KINDS[word]}) if word in KINDS else frozenset()


def _network(flag: str, word: str) -> Network:
    try:
        return ip_network(word)
    except ValueError as error:
        raise ConfigInvalid(
            f"{flag}: {error}", "use a subnet such as 10.1.0.0/16, or also, service, pods or all"
        ) from None


def _allowed(conflict: Conflict, allow: Iterable[Network]) -> bool:
    """Ours may win where either side lies in an allowed subnet: all that is in dispute does then."""
    pair = (conflict.planned.network, conflict.route.network)
    return any(_covers(network, side) for network in allow for side in pair)


def _covers(outer: Network, inner: Network) -> bool:
    if outer.version != inner.version or outer.prefixlen > inner.prefixlen:
        return False
    shift = inner.max_prefixlen - outer.prefixlen
    return int(outer.network_address) >> shift == int(inner.network_address) >> shift


class _Index:
    """Planned subnets by address: thousands of them are compared with hundreds of routes at each change."""

    def __init__(self, subnets: Sequence[Planned]) -> None:
        self._sorted: dict[int, list[tuple[int, Planned]]] = {4: [], 6: []}
        self._exact: dict[tuple[int, int, int], Planned] = {}
        for planned in subnets:
            first = int(planned.network.network_address)
            self._sorted[planned.network.version].append((first, planned))
            self._exact[planned.network.version, first, planned.network.prefixlen] = planned
        for entries in self._sorted.values():
            entries.sort(key=lambda entry: entry[0])
        self._lengths = {version: {n for v, _, n in self._exact if v == version} for version in (4, 6)}

    def overlapping(self, network: Network) -> Iterator[Planned]:
        """Yield the subnets around and inside a network."""
        first, version = int(network.network_address), network.version
        for length in self._lengths[version]:
            if length < network.prefixlen:
                shift = network.max_prefixlen - length
                around = self._exact.get((version, first >> shift << shift, length))
                if around is not None:
                    yield around
        entries = self._sorted[version]
        last = first + (1 << (network.max_prefixlen - network.prefixlen)) - 1
        for at in range(bisect_left(entries, first, key=lambda entry: entry[0]), len(entries)):
            start, planned = entries[at]
            if start > last:
                return
            if planned.network.prefixlen >= network.prefixlen:
                yield planned
