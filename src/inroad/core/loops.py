"""Connections that the cluster side makes for us and that come back into our own VIF.

A cluster on this very host (kind, minikube, k3d) sends what it can't place to its gateway, which is us: the
dial for a stale or unassigned service address is routed into the VIF again, and would be dialled again, and
so on for ever. Where the host masquerades what leaves its containers, such a SYN has our own address as its
source, so the source alone does not tell. What does tell is that we are dialling the same destination at
this moment, together with one sign that the SYN is not a local program's:

* it was forwarded: its TTL is below the one that this host's own packets start with (masquerading leaves the
  TTL alone);
* its source port is the one that the cluster side says it dials from;
* its source lies in a pod subnet that is routed into the VIF.

A second connect of a local program to the same destination shows none of these and is dialled like the
first. Time is an argument, in seconds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

from inroad.core.host_config import Network

Endpoint = tuple[str, int]
"""(address as text, port)"""

DEFAULT_TTL = 64
"""TTL and hop limit of packets that this host sends (Linux and macOS)."""


class Sign(Enum):
    """Why a SYN is taken for one of our own dials, or refused because of an earlier one."""

    FORWARDED = "forwarded"
    DIALLED_FROM = "source port of our dial"
    FROM_POD = "source in a pod subnet"
    BLOCKED = "blocked after an earlier one"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the signs are compared with.

    `pods`: the pod subnets routed into the VIF. `ports`: from which the cluster side says it dials.
    `ttl`: with which this host's packets start. `block`: seconds for which a destination is refused to
    everybody after a recursion was seen, 0 for not at all.
    """

    pods: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset()
    ttl: int = DEFAULT_TTL
    block: float = 0.0


def sign(rules: Rules, source: Endpoint, ttl: int) -> Sign | None:
    """Return what betrays a SYN to a destination that is being dialled; None for a local program's."""
    if ttl < rules.ttl:
        return Sign.FORWARDED
    host, port = source
    if port in rules.ports:
        return Sign.DIALLED_FROM
    address = ip_address(host)
    if any(address.version == pods.version and address in pods for pods in rules.pods):
        return Sign.FROM_POD
    return None


class Loops:
    """The dials in flight and the blocked destinations of one session. `rules` may be replaced."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self._dials: dict[int, Endpoint] = {}
        self._targets: Counter[Endpoint] = Counter()
        self._blocked: dict[Endpoint, float] = {}

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

    def judge(self, source: Endpoint, target: Endpoint, ttl: int, now: float) -> Sign | None:
        """Say why a SYN that has just arrived is to be refused, None when it is to be dialled."""
        if self._blocked and self._is_blocked(target, now):
            return Sign.BLOCKED
        if target not in self._targets:
            return None
        found = sign(self.rules, source, ttl)
        if found is not None and self.rules.block > 0:
            self._blocked[target] = now + self.rules.block
        return found

    def _is_blocked(self, target: Endpoint, now: float) -> bool:
        for expired in [one for one, until in self._blocked.items() if until <= now]:
            del self._blocked[expired]
        return target in self._blocked

    @property
    def in_flight(self) -> int:
        """How many dials have not ended."""
        return len(self._dials)
