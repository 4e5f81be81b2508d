"""From what is known to what the host's routes shall be, and the reason for each address.

discovered, also, never ──> subnets.plan ──> conflicts.resolve ──> Routing ──> RouteConfig, Vnat.move
                                (host's routes, the user's wishes) ──┘
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from inroad.core.conflicts import Conflict, Occupied, Resolution, Wishes, resolve
from inroad.core.host_config import Address, Network
from inroad.core.subnets import Dropped, Plan, Planned
from inroad.core.vnat import Moved


@dataclass(frozen=True, slots=True)
class Routing:
    """`routed` go into the VIF with the holes `never`; `moved` get virtual addresses.

    `pools`: the virtual subnets, routed as well once something is moved. `dropped` with reasons;
    `allowed`: conflicts that ours wins.
    """

    routed: tuple[Planned, ...] = ()
    never: tuple[Network, ...] = ()
    moved: tuple[Moved, ...] = ()
    pools: tuple[Network, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    allowed: tuple[Conflict, ...] = ()

    @property
    def subnets(self) -> tuple[Network, ...]:
        """Everything that leads into the VIF."""
        return tuple(planned.network for planned in self.routed) + self.pools


@dataclass(frozen=True, slots=True)
class Explained:
    """Where packets to an address go: `way` is vif, virtual, host or nowhere; `reason` says why in words."""

    way: str
    reason: str
    subnet: Network | None = None
    route: Occupied | None = None


def decide(
    plan: Plan, routes: Sequence[Occupied], wishes: Wishes, *, own: str, pools: Iterable[Network] = ()
) -> Routing:
    """Resolve conflicts of a plan with the host's routes; see `conflicts.resolve` for what it raises."""
    virtual = tuple(pools)
    found: Resolution = resolve(plan, routes, wishes, own=own, pools=virtual)
    versions = {moved.network.version for moved in found.moved}
    never = tuple(hole for hole in plan.never if longest(hole.network_address, found.routed) is not None)
    return Routing(
        routed=found.routed,
        never=never,
        moved=found.moved,
        pools=tuple(pool for pool in virtual if pool.version in versions),
        dropped=plan.dropped,
        allowed=found.allowed,
    )


def explain(routing: Routing, routes: Iterable[Occupied], address: Address) -> Explained:
    """Say where packets to `address` go and because of which subnet and route."""
    pool = next((pool for pool in routing.pools if _holds(pool, address)), None)
    if pool is not None:
        return Explained("virtual", f"a virtual address of {pool}", pool)
    routed = longest(address, routing.routed)
    hole = max((net for net in routing.never if _holds(net, address)), key=_length, default=None)
    if routed is not None and (hole is None or hole.prefixlen < routed.network.prefixlen):
        return Explained("vif", f"in {routed.network}, {routed.source}", routed.network)
    route = max(
        (route for route in routes if _holds(route.network, address)),
        key=lambda route: route.network.prefixlen,
        default=None,
    )
    way = "host" if route is not None else "nowhere"
    if hole is not None:
        return Explained(way, f"never-proxied by {hole}", hole, route)
    moved = max(
        (m for m in routing.moved if _holds(m.network, address)),
        key=lambda m: _length(m.network),
        default=None,
    )
    if moved is not None:
        reason = f"names get virtual addresses instead of {moved.network}: {moved.reason}"
        return Explained(way, reason, moved.network, route)
    left = max(
        (d for d in routing.dropped if _holds(d.network, address)),
        key=lambda d: _length(d.network),
        default=None,
    )
    if left is not None:
        return Explained(
            way, f"{left.source} {left.network} is not routed: {left.reason}", left.network, route
        )
    return Explained(way, "in no subnet of the cluster", None, route)


def longest(address: Address, routed: Iterable[Planned]) -> Planned | None:
    """Return the most specific subnet around an address."""
    around = (planned for planned in routed if _holds(planned.network, address))
    return max(around, key=lambda planned: planned.network.prefixlen, default=None)


def inside_candidates(
    plan: Plan, routes: Iterable[Occupied], addresses: Iterable[Address], own: str
) -> set[Network]:
    """Return the subnets that the workstation may be inside of, being a node or a pod itself.

    It has an address in them, or a route of exactly such a subnet or into it that is not ours (a node's
    bridge, the CNI's routes to other nodes). Whether it really is inside must be tried: an office network
    with the same numbers looks alike.
    """
    pods = [planned.network for planned in plan.subnets if planned.kind == "pod"]
    mine = list(addresses)
    others = [
        route.network
        for route in routes
        if route.interface not in (own, "lo") and route.network.prefixlen > 1
    ]
    return {
        network
        for network in pods
        if any(_holds(network, address) for address in mine)
        or any(network == other or _holds(network, other.network_address) for other in others)
    }


def _length(network: Network) -> int:
    return network.prefixlen


def _holds(network: Network, address: Address) -> bool:
    return network.version == address.version and address in network
