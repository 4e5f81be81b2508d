"""What `inroad status` shows of a session: collected from its parts at the moment of asking."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from inroad import __version__
from inroad.core.status import (
    AgentStatus,
    DnsStatus,
    MovedStatus,
    OriginStatus,
    ResolverStatus,
    Status,
    SubnetStatus,
    TunnelStatus,
    VifStatus,
    VirtualStatus,
)
from inroad.daemon.manager_link import ManagerLink
from inroad.daemon.session import Session

MOST_VIRTUAL = 256
"""Virtual addresses that are shown, those that were used last."""


async def report(session: Session) -> Status:
    """Tell the truth about a session."""
    cluster, origins, resolver = session.cluster, session.cluster.origins, session.host.resolver
    whole = session.manager.link is not None and session.relay.vif is not None
    return Status(
        connected=True,
        state="connected" if whole else "reconnecting",
        since=_iso(session.since),
        version=__version__,
        user=session.peer.name,
        context=session.context,
        cluster=session.cluster_name,
        server=session.server,
        namespace=cluster.namespace,
        manager_namespace=session.manager_namespace,
        cluster_domain=cluster.info.domain,
        resolver=ResolverStatus(resolver.kind, resolver.reason) if resolver else ResolverStatus(),
        dns=_dns(session),
        vif=await _vif(session),
        tunnel=_tunnel(session.manager),
        origin=_origin(session),
        agents=_agents(session),
        attachments=[str(one) for one in origins.wishes.attachments],
        subnets=[
            SubnetStatus(str(routed.network), routed.network.version, routed.source)
            for routed in cluster.routing.routed
        ],
        never_proxy=[str(network) for network in cluster.routing.never],
        moved=[MovedStatus(str(one.network), one.reason, one.workload) for one in cluster.routing.moved],
        virtual=list(_virtual(session)),
        virtual_addresses=len(session.virtual.vnat),
        warnings=list(_warnings(session)),
    )


def _virtual(session: Session) -> Iterator[VirtualStatus]:
    for lease in session.virtual.vnat.leases()[-MOST_VIRTUAL:]:
        target = lease.target
        yield VirtualStatus(str(lease.virtual), str(target.address), target.workload, lease.flows)


def _warnings(session: Session) -> Iterator[str]:
    if session.manager.link is None:
        yield f"no link to the traffic-manager: {session.manager.last_error}"
    if session.relay.vif is None:
        yield "the packet loop ended; the VIF is being made anew"
    resolver = session.host.resolver
    if resolver is not None and resolver.kind == "none":
        yield f"names do not come to inroad: {resolver.reason}"
    if session.host.names.problem:
        yield session.host.names.problem
    warning = session.cluster.origins.warning()
    if warning:
        yield warning
    if session.relay.ping_problem:
        yield f"pings are not answered: {session.relay.ping_problem}"
    yield from session.host_problems
    yield from session.config_problems
    yield from session.cluster.warnings


def _dns(session: Session) -> DnsStatus:
    address, port = session.dns_servers[0]
    return DnsStatus(
        address=str(address),
        port=port,
        fallback=[f"{host}:{number}" for host, number in session.host.fallback],
        recursion=session.dns.recursion.text,
        counters=session.dns.counters(),
    )


async def _vif(session: Session) -> VifStatus:
    vif = session.relay.vif
    if vif is None:
        return VifStatus(mode="lost")
    counters = await vif.counters() | session.relay.counters
    return VifStatus(vif.name, vif.kind, vif.reason, vif.mtu, counters)


def _tunnel(manager: ManagerLink) -> TunnelStatus:
    since = _iso(datetime.fromtimestamp(manager.since, UTC))
    if manager.link is None:
        return TunnelStatus("reconnecting", since, manager.pod)
    stats = manager.link.stats()
    return TunnelStatus("up", since, manager.pod, stats["rtt_ms"], int(stats["flows"]))


def _origin(session: Session) -> OriginStatus:
    origins = session.cluster.origins
    chosen = origins.current
    agent = origins.info(chosen.agent)
    if agent is None:
        return OriginStatus(session.manager.pod, reason=chosen.reason)
    return OriginStatus(agent.pod, agent.kind, chosen.reason, session.direct.path(agent.id))


def _agents(session: Session) -> list[AgentStatus]:
    origins = session.cluster.origins
    held = origins.holds()
    return [
        AgentStatus(
            agent.namespace,
            agent.pod,
            agent.kind,
            agent.workload,
            agent.id in held,
            session.direct.path(agent.id),
        )
        for agent in origins.agents
    ]


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
