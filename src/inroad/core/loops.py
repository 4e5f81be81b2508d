"""Connections that the cluster side makes for us and that come back into our own VIF.

A cluster on this very host (kind, minikube, k3d) sends what it can't place to its gateway, which is us: what
is dialled for a stale or unassigned service address is routed into the VIF again, and would be dialled again,
and so on for ever. Where the host masquerades what leaves its containers, such a packet has our own address
as its source, and perhaps another port, so neither tells. Two signs do:

* it began with the hop limit that the cluster side's sockets have (`HOP_LIMIT`), of which each router took
  one away: masquerading leaves that alone, and no system's own packets begin near it, so containers of this
  host that connect at the same moment are not mistaken;
* its source lies in a pod subnet that is routed into the VIF, and we are dialling that very destination: what
  is left where something on the way has put the hop limit up again.

A connect of a local program to a destination that is being dialled shows neither and is dialled like the
first. Time is an argument, in seconds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address

from inroad.core.host_config import Address, Network

Endpoint = tuple[str, int]
"""(address as text, port); port 0 for pings."""

HOP_LIMIT = 112
"""TTL and hop limit of the packets that the cluster side sends for a client.

Systems begin with 64 (Linux, macOS), 128 (Windows) or 255 (routers): far enough from each of them.
"""
MOST_HOPS = 16
"""So many routers may lie between the cluster and the host that it runs on."""


_parsed = lru_cache(256)(ip_address)  # nearly all programs have one of few addresses


class Sign(Enum):
    """Why a packet is taken for one of our own dials, or refused because of an earlier one."""

    MARKED = "the hop limit of our dials"
    FROM_POD = "source in a pod subnet"
    BLOCKED = "blocked after an earlier one"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the signs are compared with.

    `pods`: the pod subnets routed into the VIF. `block`: seconds for which a destination is refused to
    everybody after a recursion was seen, 0 for not at all.
    """

    pods: tuple[Network, ...] = ()
    block: float = 0.0


def is_marked(hops: int) -> bool:
    """Tell whether a packet with this many hops left began as one of the cluster side's."""
    return HOP_LIMIT - MOST_HOPS < hops <= HOP_LIMIT


class Loops:
    """The dials in flight and the blocked destinations of one session. `rules` may be replaced."""

    def __init__(self, rules: Rules | None = None) -> None:
        self._pods: set[tuple[int, int, int]] = set()
        self._lengths: dict[int, set[int]] = {4: set(), 6: set()}
        self.rules = rules or Rules()
        self._dials: dict[int, Endpoint] = {}
        self._targets: Counter[Endpoint] = Counter()
        self._blocked: dict[Endpoint, float] = {}

    @property
    def rules(self) -> Rules:
        """What the signs are compared with."""
        return self._rules

    @rules.setter
    def rules(self, rules: Rules) -> None:
        """Keep the pod subnets by prefix: there may be thousands, and every SYN of a burst is judged."""
        self._rules = rules
        self._pods = {_prefix(pods.network_address, pods.prefixlen) for pods in rules.pods}
        for version, lengths in self._lengths.items():
            lengths.clear()
            lengths.update(pods.prefixlen for pods in rules.pods if pods.version == version)

    def dialled(self, flow: int, target: Endpoint) -> None:
        """The cluster side is about to connect to `target`; a flow that is dialled again starts anew."""
        self.ended(flow)
        self._dials[flow] = target
        self._targets[target] += 1

    def ended(self, flow: int) -> None:
        """The dial has succeeded or failed, or nobody wants it any more; unknown flows are ignored."""
        target = self._dials.pop(flow, None)
        if target is None:
            return
        self._targets[target] -= 1
        if not self._targets[target]:
            del self._targets[target]

    def clear(self) -> None:
        """All dials have ended; blocked destinations stay blocked."""
        self._dials.clear()
        self._targets.clear()

    def judge(self, source: Endpoint, target: Endpoint, hops: int, now: float) -> Sign | None:
        """Say why what a packet with `hops` left begins is to be refused, None when it is to be dialled."""
        if self._blocked and self._is_blocked(target, now):
            return Sign.BLOCKED
        if is_marked(hops):
            found = Sign.MARKED
        elif target in self._targets and self._from_pod(source):
            found = Sign.FROM_POD
        else:
            return None
        if self.rules.block > 0:
            self._blocked[target] = now + self.rules.block
        return found

    def _from_pod(self, source: Endpoint) -> bool:
        address = _parsed(source[0])
        return any(_prefix(address, length) in self._pods for length in self._lengths[address.version])

    def _is_blocked(self, target: Endpoint, now: float) -> bool:
        for expired in [one for one, until in self._blocked.items() if until <= now]:
            del self._blocked[expired]
        return target in self._blocked

    @property
    def in_flight(self) -> int:
        """How many dials have not ended."""
        return len(self._dials)


def _prefix(address: Address, length: int) -> tuple[int, int, int]:
    return address.version, length, int(address) >> (address.max_prefixlen - length)
