"""A living session: it follows the cluster, heals its VIF, answers for itself and ends cleanly."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import structlog

from inroad import logs
from inroad.core import loops
from inroad.core.config import Config
from inroad.core.errors import InroadError
from inroad.core.host_config import HostConfig, ResolverConfig, RouteConfig
from inroad.core.status import ConnectRequest
from inroad.daemon import inside
from inroad.daemon.attachments import Attachments
from inroad.daemon.cluster_view import ClusterView
from inroad.daemon.direct import Direct
from inroad.daemon.dns_server import DnsServer
from inroad.daemon.host_state import HostState
from inroad.daemon.manager_link import ManagerLink
from inroad.daemon.relay import Relay
from inroad.daemon.settings import Settings
from inroad.daemon.user_child import Peer, load
from inroad.daemon.virtual import VirtualAddresses
from inroad.host.file_watch import FileWatch
from inroad.host.journal import Journal
from inroad.host.routes.choose import OWN_MARK
from inroad.host.vif.api import Vif, VifConfig
from inroad.host.vif.choose import open_vif
from inroad.kube.client import ApiClient
from inroad.kube.credentials import Credentials

VIF = VifConfig(
    name="inroad0",
    addresses=(ip_address("246.246.0.1"), ip_address("fd00:0:0:246::1")),
    mark=OWN_MARK,
)
DNS_PORT = 53
RETRY = 5.0
"""Seconds until the host is changed again after it refused."""
EXPIRY_CHECK = 60.0
"""Seconds between two looks for virtual addresses that nobody uses any more."""

log = structlog.get_logger()


async def open_session_vif(relay: Relay, settings: Settings, journal: Journal) -> Vif:
    """Open the session's VIF; `relay` hears of its flows."""
    return await open_vif(replace(VIF, mode=settings.config.vif_mode), relay, journal)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a session is made of besides the cluster."""

    manager: ManagerLink
    direct: Direct
    relay: Relay
    host: HostState
    dns: DnsServer
    api: ApiClient
    virtual: VirtualAddresses


class Session:
    """A connection of the workstation to one cluster, owned by one user (`peer`)."""

    def __init__(
        self,
        request: ConnectRequest,
        credentials: Credentials,
        peer: Peer,
        manager_namespace: str,
        cluster: ClusterView,
        parts: Parts,
    ) -> None:
        self.request = request
        self.peer = peer
        self.context = credentials.context
        self.server = credentials.server
        self.cluster_name = credentials.cluster
        self.manager_namespace = manager_namespace
        self.cluster = cluster
        self.manager = parts.manager
        self.direct = parts.direct
        self.relay = parts.relay
        self.host = parts.host
        self.dns = parts.dns
        self.virtual = parts.virtual
        self.attachments = Attachments(cluster, parts.manager, parts.api, self.update_host)
        own = [(ip_address(address), port) for address, port in parts.dns.addresses]
        self.dns_servers = [(address, port) for address, port in own if address in VIF.addresses]
        self.since = datetime.now(UTC)
        self.host_problems: list[str] = []
        self.config_problems: list[str] = []
        self._undo = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        parts.relay.on_vif_failed = self._vif_failed

    @property
    def vif_config(self) -> VifConfig:
        """The VIF's configuration, with the name that it has: the system's own choice on macOS."""
        return VIF if self.relay.vif is None else replace(VIF, name=self.relay.vif.name)

    def begin(self, undo: AsyncExitStack) -> None:
        """Start to live: follow the cluster; `undo` is what `close` runs."""
        self._undo = undo
        self.since = datetime.now(UTC)
        self.host.routes.watch(self.cluster.changed.set)
        if self.host.resolver is not None:
            self.host.resolver.watch(self.cluster.changed.set)
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._watch_config())]
        self._tasks.append(asyncio.create_task(self._expire_addresses()))

    async def close(self) -> None:
        """Put the host back and end the link."""
        for task in self._tasks:
            task.cancel()
        await self._undo.aclose()

    async def change_namespace(self, namespace: str) -> None:
        """Make another namespace the connected one; running flows are not touched."""
        self.cluster.check_namespace(namespace)
        self.cluster.namespace = namespace
        self.manager.set_namespace(namespace)
        origins = self.cluster.origins
        origins.set_wishes(replace(origins.wishes, namespace=namespace))
        await self.update_host()

    async def update_host(self) -> None:
        """Make DNS server, resolver and routes be what the newest state of cluster and host asks for."""
        config = self.cluster.settings.config
        logs.set_level(config.log_level)
        self.relay.deadline = config.endpoint_dial + config.roundtrip_latency
        await self.host.look(self.cluster.settings.name_servers())
        self.cluster.name_servers = tuple(host for host, _ in self.host.fallback)
        self.cluster.host_search = self.host.names.search
        self.dns.set_fallback(self.host.fallback)
        routes = await self.host.routes.host_routes()
        self.cluster.inside = await inside.find(
            self.cluster, routes, self.vif_config.name, routed=bool(self.host.applied.routes.subnets)
        )
        self.cluster.decide(routes, self.vif_config.name)
        pods = tuple(one.network for one in self.cluster.routing.routed if one.kind == "pod")
        self.relay.loops.rules = loops.Rules(pods=pods, block=config.recursion_block)
        moved = self.virtual.move(self.cluster.routing.moved)
        self.dns.configure(self.cluster.dns_policy())
        if moved:
            self.dns.flush()
        await self.host.apply(self._wanted())

    def _wanted(self) -> HostConfig:
        info, config = self.cluster.info, self.cluster.settings.config
        subnets = tuple(dict.fromkeys((*self.cluster.routing.subnets, *self.virtual.vnat.subnets())))
        vif = self.relay.vif
        return HostConfig(
            addresses=VIF.addresses,
            routes=RouteConfig(
                interface=self.vif_config.name,
                subnets=subnets,
                never=self.cluster.routing.never,
                quickack=vif is not None and vif.kind == "tun",
            ),
            resolver=ResolverConfig(
                server=self.dns_servers[0],
                server6=next((server for server in self.dns_servers[1:]), None),
                interface=self.vif_config.name,
                search=self.cluster.search(),
                routed=(*self.cluster.mapped_namespaces(), "svc", info.domain, *_suffixes(config)),
                reverse=subnets,
                others=self.cluster.settings.name_servers(),
            ),
        )

    def _vif_failed(self, reason: str) -> None:
        log.error("the packet loop ended; the VIF is made anew", reason=reason)
        self.cluster.changed.set()

    async def _follow(self) -> None:
        """Apply what the manager pushes, newest state first; rebuild a VIF that was lost.

        What fails is tried again: whatever was in the way may go without anybody hearing of it.
        """
        while True:
            await self.cluster.changed.wait()
            self.cluster.changed.clear()
            try:
                if self.relay.vif is None:
                    await self._rebuild_vif()
                await self.update_host()
            except (InroadError, OSError) as error:
                if self.host_problems != [str(error)]:
                    log.error("the host does not follow the cluster", error=str(error))
                self.host_problems = [str(error)]
                asyncio.get_running_loop().call_later(RETRY, self.cluster.changed.set)
            else:
                self.host_problems = []

    async def _watch_config(self) -> None:
        """Take over what the user writes into the configuration file while the session lives.

        Nothing of it is read here: the user's child does that.
        """
        path = self.request.config_file
        if not path:
            return
        written = asyncio.Event()
        watch = FileWatch((Path(path),), written.set)
        try:
            while True:
                await written.wait()
                written.clear()
                await self._take_config(path)
        finally:
            watch.close()

    async def _take_config(self, path: str) -> None:
        try:
            loaded = await load(self.peer, self.request)
            self.cluster.settings.from_user(loaded, path, self.request.settings)
        except InroadError as error:
            log.error("the changed configuration is not taken", error=str(error))
            self.config_problems = [str(error)]
        else:
            self.config_problems = []
            self.cluster.changed.set()

    async def _expire_addresses(self) -> None:
        """Free virtual addresses in time; with the last one of a family its subnet need not be routed."""
        while True:
            await asyncio.sleep(EXPIRY_CHECK)
            if self.virtual.vnat.expire(time.monotonic()):
                self.cluster.changed.set()

    async def _rebuild_vif(self) -> None:
        """The device went, and the kernel took its routes with it: start from none."""
        await self.host.apply(replace(self.host.applied, routes=RouteConfig()))
        self.relay.vif = await open_session_vif(self.relay, self.cluster.settings, self.host.journal)


def _suffixes(config: Config) -> tuple[str, ...]:
    return tuple(suffix.lstrip(".") for suffix in config.include_suffixes)
