"""The path of a name or an address, told: which rule, which subnet, which route, who dials.

Nothing is decided here. The functions that decide for queries and packets (`dns_policy.decide`,
`routing.explain`, `origin.choose`) are asked, and their reasons put into words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from inroad.core import names, routing
from inroad.core.conflicts import Occupied
from inroad.core.dns_policy import Action, Decision, DnsPolicy, decide
from inroad.core.dns_wire import Type
from inroad.core.errors import ConfigInvalid
from inroad.core.host_config import ROUTE_TABLE, Address, Network
from inroad.core.messages import AgentInfo
from inroad.core.names import Name
from inroad.core.origin import Origin, Wishes, Workload, choose
from inroad.core.routing import Routing
from inroad.core.status import NamePath, OriginStatus, PacketPath, PathStatus
from inroad.core.vnat import Target

MEANINGS = {
    "localhost": "names below localhost are this workstation",
    "own-address": "the address of inroad's own DNS server",
    "self-check": "a name by which inroad checks that queries reach it",
    "wpad": "wpad is never asked of the cluster",
    "dns-sd": "service discovery (_dns-sd._udp) is never asked of the cluster",
    "excludes": "it is in dns.excludes",
    "mappings": "it is in dns.mappings",
    "reverse": "the reverse name of an address that is routed to the cluster",
    "include-suffix": "it ends in one of dns.includeSuffixes",
    "exclude-suffix": "it ends in one of dns.excludeSuffixes, and in no longer suffix of the cluster's",
    "cluster-domain": "it ends in the cluster domain {domain}",
    "svc": "it ends in svc",
    "namespace": "its last label, {last}, is a namespace of the cluster",
    "single-label": "a single label is a service of the connected namespace first",
    "other": "nothing says that it is the cluster's",
}
"""What each rule of `dns_policy` means."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a session knows that decides where a name or an address leads.

    `own`: the workstation's addresses on the VIF. `interface`: the VIF. `manager`: its pod. `table`: the
    routing table that our routes are in. `paths`: how agents, by id, are reached.
    """

    policy: DnsPolicy
    routing: Routing
    routes: tuple[Occupied, ...]
    interface: str
    own: tuple[Address, ...]
    manager: str
    agents: tuple[AgentInfo, ...]
    wishes: Wishes
    fallback: tuple[str, ...] = ()
    table: str = str(ROUTE_TABLE)
    paths: Mapping[str, PathStatus] = field(default_factory=dict)


def read(what: str) -> Address | Name:
    """Read what the user asks about: an address or a name; raises `ConfigInvalid`."""
    text = what.strip()
    try:
        return ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        pass
    if "/" in text or ":" in text or " " in text:
        raise ConfigInvalid(f"{what!r} is neither a name nor an address", "try: inroad explain web.shop")
    try:
        return names.parse(text)
    except names.BadName as error:
        raise ConfigInvalid(str(error), "try: inroad explain web.shop") from None


def name_path(session: Session, name: Name) -> NamePath:
    """Say which rule decides about the name and who is asked; the answer is the caller's to find."""
    policy = session.policy
    decision = decide(policy, name, Type.A)
    last = name[-1].decode(errors="replace") if name else "."
    meaning = MEANINGS[decision.rule].format(domain=policy.cluster_domain, last=last)
    return NamePath(names.text(name), decision.rule, meaning, _asked(session, decision))


def _asked(session: Session, decision: Decision) -> str:
    servers = f"this workstation's name servers ({', '.join(session.fallback) or 'it has none'})"
    match decision.action:
        case Action.FALLBACK:
            return servers
        case Action.ALIAS:
            return f"in its place: {names.text(decision.target)}"
        case Action.ADDRESSES | Action.POINTER:
            return "nobody; inroad knows the answer"
    whom = "the cluster"
    if not decision.absolute and decision.namespace:
        whom += f", as a pod in {decision.namespace} would ask"
    return f"{whom}; if it knows no such name, {servers}" if decision.fallback else whom


def packet_path(
    session: Session, address: Address, real: Target | None, bound: Workload | None = None
) -> PacketPath:
    """Say where connections to the address go.

    `real`: what it stands for (itself unless it is virtual), None for a virtual one without meaning.
    `bound`: the workload that a virtual address is bound to.
    """
    text = str(address)
    if address.is_loopback or address in session.own:
        return PacketPath(text, "host", "an address of this workstation")
    found = routing.explain(session.routing, session.routes, address)
    subnet = str(found.subnet) if found.subnet is not None else ""
    if found.way not in {"vif", "virtual"}:
        route = str(found.route) if found.route is not None else ""
        return PacketPath(text, found.way, found.reason, subnet, route)
    route = f"{subnet} dev {session.interface} table {session.table}"
    if real is None:
        reason = f"{found.reason} that stands for nothing now: connections to it are refused"
        return PacketPath(text, "nowhere", reason, subnet, route)
    reason, stands_for = found.reason, ""
    if real.address != address:
        reason, stands_for = _virtual(session, found.reason, real.address), str(real.address)
    chosen = choose(session.agents, session.wishes, bound)
    origin = origin_status(session, chosen)
    return PacketPath(text, found.way, reason, subnet, route, stands_for, origin)


def _virtual(session: Session, reason: str, real: Address) -> str:
    """Say why there is a virtual address: the moved subnet, and why it was moved."""
    behind = [one for one in session.routing.moved if _holds(one.network, real)]
    if not behind:
        return reason
    moved = max(behind, key=lambda one: one.network.prefixlen)
    return f"{reason}, in place of {moved.network}: {moved.reason}"


def origin_status(session: Session, chosen: Origin) -> OriginStatus:
    """Describe who was chosen to dial; no pod where there is nobody."""
    if chosen.failed:
        return OriginStatus("", "", chosen.reason)
    for agent in session.agents:
        if agent.id == chosen.agent:
            path = session.paths.get(agent.id, PathStatus())
            return OriginStatus(agent.pod, agent.kind, chosen.reason, path)
    return OriginStatus(session.manager, reason=chosen.reason)


def _holds(network: Network, address: Address) -> bool:
    return network.version == address.version and address in network


def unique(addresses: Iterable[str]) -> tuple[Address, ...]:
    """Read addresses and leave repeated ones out, in their order."""
    return tuple(dict.fromkeys(map(ip_address, addresses)))
