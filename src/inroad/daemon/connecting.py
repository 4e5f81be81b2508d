"""From a request to a living session, in the order in which a connection comes about.

Who are you (credentials), where is the manager (port-forward), what does the cluster look like (cluster
info); then the host: VIF, DNS server, resolver, routes; at last the proof that names and dials work.
The VIF takes longest and depends on nothing, so it is started first. Whatever fails, and at whatever
moment the user gives up, everything done so far is undone in reverse order.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack

from inroad.core.conflicts import Wishes, parse_moves, parse_via
from inroad.core.errors import TunnelFailed
from inroad.core.host_config import Address
from inroad.core.messages import AccessTicket, AgentInfo
from inroad.core.origin import Workload
from inroad.core.status import ConnectRequest
from inroad.daemon import manager_pod, verify
from inroad.daemon.access import AgentAccess, fetch_ticket
from inroad.daemon.cluster_view import ClusterView, pinned, workload
from inroad.daemon.direct import Direct, OriginLookup
from inroad.daemon.dns_server import DnsServer
from inroad.daemon.host_state import HostState
from inroad.daemon.manager_link import ManagerLink
from inroad.daemon.relay import Relay, Route, Way
from inroad.daemon.session import DNS_PORT, VIF, Parts, Session, open_session_vif
from inroad.daemon.settings import Settings
from inroad.daemon.user_child import Peer, load
from inroad.daemon.virtual import VirtualAddresses
from inroad.host.journal import Journal
from inroad.host.resolver.choose import open_resolver
from inroad.host.routes.choose import OWN_MARK, open_routes
from inroad.host.vif.api import Vif
from inroad.kube.client import ApiClient
from inroad.kube.credentials import Credentials
from inroad.kube.portforward import port_forward
from inroad.tunnel.api import Link
from inroad.tunnel.websocket import attach_port_forward

Say = Callable[[str, str], None]
"""Reports progress: (step for programs, text for people)."""


async def open_session(request: ConnectRequest, peer: Peer, journal: Journal, say: Say) -> Session:
    """Connect and prove it; raises `InroadError` and leaves the host as it was."""

    async def renew() -> Credentials:
        return (await load(peer, request)).credentials

    async with AsyncExitStack() as undo:
        say("credentials", "reading the kubeconfig")
        settings = Settings()
        loaded = await load(peer, request)
        settings.from_user(loaded, request.config_file, request.settings)
        credentials = loaded.credentials

        relay = Relay()
        vif = asyncio.create_task(open_session_vif(relay, settings, journal))
        undo.push_async_callback(_discard, vif, relay)
        patience = settings.config.cluster_connect
        client = ApiClient(credentials, mark=OWN_MARK, refresh=renew, patience=patience)
        undo.push_async_callback(client.close)

        say("manager", f"finding the traffic-manager of {credentials.context}")
        manager_namespace = request.manager_namespace or settings.config.manager_namespace
        namespace = request.namespace or credentials.namespace or "default"
        cluster = ClusterView(namespace, settings, pinned(request.via, namespace))
        cluster.conflict_wishes = conflict_wishes(request)
        manager = _manager_link(client, manager_namespace, cluster, relay)
        undo.push_async_callback(manager.close)
        direct = _direct(client, cluster, manager, relay, undo)
        await manager.start()

        say("cluster", f"linked to {manager.pod}, reading the cluster's subnets")
        await _cluster_info(cluster, manager_namespace)
        cluster.check_namespace(cluster.namespace)
        relay.vif = await vif

        say("network", f"leading the cluster's names and subnets into {relay.vif.name}")
        host = await _open_host(journal, settings, undo)
        cluster.reached(await client.server_addresses())
        virtual = _virtual(cluster, direct, manager, relay)
        dns = await _open_dns(cluster, virtual, host, undo)
        undo.push_async_callback(host.restore)

        parts = Parts(manager, direct, relay, host, dns, client, virtual)
        session = Session(request, credentials, peer, manager_namespace, cluster, parts)
        await session.update_host()
        say("verify", "looking up and dialling the API server's service")
        await asyncio.gather(_verify(cluster), dns.check_recursion())
        session.begin(undo.pop_all())
        return session


def conflict_wishes(request: ConnectRequest) -> Wishes:
    """Read `--vnat` and `--proxy-via`; raises `ConfigInvalid`."""
    kinds, networks = parse_moves(request.vnat)
    via_kinds, via = parse_via(request.proxy_via)
    return Wishes(kinds=kinds, networks=networks, via=via, via_kinds=via_kinds)


async def _open_host(journal: Journal, settings: Settings, undo: AsyncExitStack) -> HostState:
    """Find out how routes and names are set on this host; nothing is changed yet."""
    host = HostState(await open_routes(journal), journal)
    undo.push_async_callback(host.close)
    host.resolver = await open_resolver(journal)
    await host.look(settings.name_servers())
    return host


async def _open_dns(
    cluster: ClusterView, virtual: VirtualAddresses, host: HostState, undo: AsyncExitStack
) -> DnsServer:
    """Start the DNS server on the VIF's addresses and on loopback.

    Where a server of the host's has port 53 of all addresses, ours gets another: Windows alone can't be
    told of that.
    """
    policy = cluster.dns_policy()
    dns = DnsServer(lookup=virtual.lookup, fallback=host.fallback, mark=OWN_MARK, policy=policy)
    undo.push_async_callback(dns.close)
    cluster.on_names = dns.invalidate
    cluster.origins.on_choice.append(dns.flush)  # names may mean something else to another origin
    addresses = [(str(address), DNS_PORT) for address in VIF.addresses if _ours(address)]
    elsewhere = host.resolver is not None and host.resolver.kind != "windows"
    await dns.start([*addresses, ("127.0.0.1", 0)], elsewhere=elsewhere)
    return dns


def _virtual(cluster: ClusterView, direct: Direct, manager: ManagerLink, relay: Relay) -> VirtualAddresses:
    """Return what stands between names and dials, joined with both: lookups by the origin, and its ways."""
    lookup = OriginLookup(cluster.origins, direct, manager)
    virtual = VirtualAddresses(lookup, cluster.settings.config.virtual_subnets, VIF.addresses)
    relay.route = _route(cluster, virtual, direct)
    relay.on_begun, relay.on_over = virtual.begun, virtual.over
    return virtual


def _route(cluster: ClusterView, virtual: VirtualAddresses, direct: Direct) -> Route:
    """Return what decides for each flow where it leads, who dials, and over which link that one is asked."""

    def route(host: str, gone: str) -> Way | None:
        target = virtual.real(host)
        if target is None:
            return None
        bound = workload(target.workload, cluster.namespace) if target.workload else None
        origin = cluster.origins.choose(bound, gone)
        if origin.failed:
            return None
        return Way(str(target.address), origin.agent, direct.link(origin.agent))

    return route


def _direct(
    client: ApiClient, cluster: ClusterView, manager: ManagerLink, relay: Relay, undo: AsyncExitStack
) -> Direct:
    """Return what makes links to agents, where the user may; they carry the session's own credentials.

    It also fetches the tickets by which the manager lets the session use an agent, where it demands any.
    """

    async def open_agent(agent: AgentInfo) -> Link:
        return attach_port_forward(await port_forward(client, agent.namespace, agent.pod, agent.port))

    async def fetch(agent: AgentInfo) -> AccessTicket:
        return await fetch_ticket(await open_agent(agent), agent, manager.session)

    def bound() -> list[Workload]:
        wishes = cluster.conflict_wishes
        return [workload(text, cluster.namespace) for _, text in (*wishes.via, *wishes.via_kinds)]

    access = AgentAccess(cluster.origins, fetch, manager.show, bound)
    manager.on_agents = access.set_agents
    undo.callback(access.close)
    direct = Direct(open_agent, cluster.origins, lambda: cluster.settings.config.agent_port_forward)
    direct.on_link = relay.dial_waiting
    cluster.origins.on_choice.append(direct.follow)
    undo.push_async_callback(direct.close)
    return direct


def _manager_link(client: ApiClient, namespace: str, cluster: ClusterView, relay: Relay) -> ManagerLink:
    async def open_link(pod: str) -> tuple[Link, str]:
        return await manager_pod.open_link(client, namespace, pod)

    def on_link(link: Link | None) -> None:
        relay.link = link
        if link is not None:
            cluster.reached(client.addresses)

    return ManagerLink(
        open_link,
        namespace=cluster.namespace,
        on_cluster=cluster.update,
        on_names=cluster.names_changed,
        on_link=on_link,
    )


async def _cluster_info(cluster: ClusterView, manager_namespace: str) -> None:
    patience = cluster.settings.config.manager_api
    try:
        await asyncio.wait_for(cluster.known.wait(), patience)
    except TimeoutError:
        raise TunnelFailed(
            f"the traffic-manager has not read its cluster within {patience:g} s",
            f"kubectl logs -n {manager_namespace} deploy/traffic-manager",
        ) from None


def _ours(address: Address) -> bool:
    """Tell whether the host took this address of the VIF; it may have no IPv6."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


async def _verify(cluster: ClusterView) -> None:
    await verify.dial(await verify.look_up(cluster.info.domain))


async def _discard(opening: asyncio.Task[Vif], relay: Relay) -> None:
    """Close the VIF, also one that is still on its way."""
    opening.cancel()
    await asyncio.wait([opening])
    if relay.vif is not None:
        await relay.vif.close()
    elif not opening.cancelled() and opening.exception() is None:
        await opening.result().close()
