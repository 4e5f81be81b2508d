"""Virtual addresses: what an application gets instead of an address it could not reach.

The DNS answer path asks `to_virtual` for each address of an answer; a dial asks `to_real` for where the
virtual address it goes to leads. A virtual address is freed when nobody has asked for it and no flow has used
it for a while, and goes to the end of the queue then: what an application still remembers is the last to
get another meaning. Time is an argument, in seconds.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from inroad.core.errors import ConfigInvalid
from inroad.core.host_config import Address, Network

LEASE = 3_600.0
"""Seconds an unused virtual address is kept: programs remember addresses for much longer than their TTL."""
SAFE_AGE = 300.0
"""Seconds of disuse before which an address is not taken away even when none is left: an answer in our own
cache counts as no use while it lives, and programs hold on to answers for a minute or two."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A subnet whose addresses are replaced by virtual ones; `workload`: whose agent dials them."""

    network: Network
    reason: str
    workload: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a virtual address leads."""

    address: Address
    workload: str = ""


@dataclass(slots=True)
class Lease:
    """One virtual address in use: `used` is when it was last asked for or dialled, `flows` how many live."""

    virtual: Address
    target: Target
    used: float
    flows: int = 0


class PoolEmpty(Exception):
    """No virtual address is free and none is old enough to be taken away."""


class _Pool:
    """The addresses of one family: those never used, and those freed, oldest first."""

    def __init__(self, network: Network, reserved: frozenset[Address]) -> None:
        self.network = network
        self._first = network.network_address
        self._reserved = reserved
        self._next = 1  # the network's own address is nobody's
        self._end = network.num_addresses - 1  # nor is the broadcast address
        self.freed: deque[Address] = deque()

    def take(self) -> Address | None:
        while self._next < self._end:
            address = self._first + self._next
            self._next += 1
            if address not in self._reserved:
                return address
        return self.freed.popleft() if self.freed else None


class Vnat:
    """The mapping of one session.

    `pools`: where virtual addresses come from, one network of each family at most. `reserved`: addresses in
    them that have another use (the VIF's own).
    """

    def __init__(self, pools: Iterable[Network], reserved: Iterable[Address] = ()) -> None:
        kept = frozenset(reserved)
        self._pools: dict[int, _Pool] = {network.version: _Pool(network, kept) for network in pools}
        self._moved: dict[tuple[int, int, int], Moved] = {}
        self._lengths: dict[int, tuple[int, ...]] = {4: (), 6: ()}
        self._by_virtual: OrderedDict[Address, Lease] = OrderedDict()
        self._by_target: dict[Target, Lease] = {}

    def move(self, moved: Sequence[Moved]) -> None:
        """Say which subnets are moved from now on; the longest prefix decides.

        Addresses handed out before keep their meaning until nobody uses them. Raises `ConfigInvalid` for a
        family without a pool.
        """
        for entry in moved:
            if entry.network.version not in self._pools:
                raise ConfigInvalid(
                    f"{entry.network} needs virtual addresses and routing.virtualSubnet has no "
                    f"IPv{entry.network.version} subnet",
                    "add one, such as 246.246.0.0/16 or fd00:0:0:246::/64",
                )
        self._moved = {_key(entry.network): entry for entry in reversed(moved)}
        for version in (4, 6):
            lengths = {length for family, length, _ in self._moved if family == version}
            self._lengths[version] = tuple(sorted(lengths, reverse=True))

    def subnets(self) -> tuple[Network, ...]:
        """Return the virtual subnets that must be routed: those of families in which something is moved."""
        versions = {entry.network.version for entry in self._moved.values()}
        versions |= {virtual.version for virtual in self._by_virtual}
        return tuple(pool.network for version, pool in self._pools.items() if version in versions)

    def rule(self, address: Address) -> Moved | None:
        """Return the moved subnet that an address is in, None when it keeps its own."""
        value, version = int(address), address.version
        for length in self._lengths[version]:
            found = self._moved.get((version, length, value >> (address.max_prefixlen - length)))
            if found is not None:
                return found
        return None

    def to_virtual(self, address: Address, now: float) -> Address:
        """Return what an answer shall say instead of `address`: the same where nothing is moved.

        Raises `PoolEmpty`: then there is no answer, rather than a wrong one.
        """
        moved = self.rule(address)
        if moved is None:
            return address
        target = Target(address, moved.workload)
        lease = self._by_target.get(target)
        if lease is None:
            lease = Lease(self._take(address.version, now), target, now)
            self._by_virtual[lease.virtual] = lease
            self._by_target[target] = lease
        self._touch(lease, now)
        return lease.virtual

    def to_real(self, virtual: Address) -> Target | None:
        """Return where an address of a pool leads; None when it means nothing (any more)."""
        lease = self._by_virtual.get(virtual)
        return lease.target if lease is not None else None

    def is_virtual(self, address: Address) -> bool:
        """Tell whether an address is of a pool, with a meaning or without."""
        pool = self._pools.get(address.version)
        return pool is not None and address in pool.network

    def opened(self, virtual: Address, now: float) -> None:
        """A flow to this address began: it keeps its meaning at least until `closed`."""
        lease = self._by_virtual.get(virtual)
        if lease is not None:
            lease.flows += 1
            self._touch(lease, now)

    def closed(self, virtual: Address, now: float) -> None:
        """A flow to this address ended."""
        lease = self._by_virtual.get(virtual)
        if lease is not None and lease.flows:
            lease.flows -= 1
            self._touch(lease, now)

    def __len__(self) -> int:
        return len(self._by_virtual)

    def expire(self, now: float) -> int:
        """Free what has been out of use for `LEASE`; returns how many. Call it every minute or so."""
        old = [lease for lease in self._by_virtual.values() if not lease.flows and lease.used <= now - LEASE]
        for lease in old:
            self._free(lease)
        return len(old)

    def leases(self) -> tuple[Lease, ...]:
        """Return what is in use, the least recently used first."""
        return tuple(self._by_virtual.values())

    def _take(self, version: int, now: float) -> Address:
        """Return an address without a meaning: never used, long freed, or taken from who idles longest."""
        pool = self._pools[version]
        found = pool.take()
        if found is not None:
            return found
        for lease in self._by_virtual.values():
            if lease.used > now - SAFE_AGE:
                break
            if not lease.flows and lease.virtual.version == version:
                self._free(lease)
                return pool.freed.popleft()
        raise PoolEmpty(f"all virtual addresses of {pool.network} are in use")

    def _free(self, lease: Lease) -> None:
        del self._by_virtual[lease.virtual]
        del self._by_target[lease.target]
        self._pools[lease.virtual.version].freed.append(lease.virtual)

    def _touch(self, lease: Lease, now: float) -> None:
        lease.used = now
        self._by_virtual.move_to_end(lease.virtual)


def _key(network: Network) -> tuple[int, int, int]:
    shift = network.max_prefixlen - network.prefixlen
    return network.version, network.prefixlen, int(network.network_address) >> shift
