"""The overriding resolver: packets for the host's name servers come to our DNS server instead.

Nothing on the host is configured anew: programs keep asking the servers of `/etc/resolv.conf`, and
what we do not know we ask of those servers ourselves, with a mark that passes the redirection. All
name servers of the file are redirected, because musl asks all of them and takes the first answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import ip_address

import structlog

from inroad.core import names
from inroad.core.errors import InroadError
from inroad.core.host_config import ResolverConfig
from inroad.host.file_watch import FileWatch
from inroad.host.resolver import conntrack
from inroad.host.resolver.api import HostNames, Server
from inroad.host.resolver.places import Places
from inroad.host.resolver.redirect import Redirect, Redirection, Target, addresses_of

log = structlog.get_logger()

DEFAULT_SERVER: Server = ("127.0.0.1", 53)
"""Whom the C library asks when resolv.conf names nobody (resolv.conf(5))."""


class OverridingResolver:
    """Redirects port 53 of the host's name servers."""

    def __init__(
        self,
        redirect: Redirect,
        places: Places,
        *,
        reason: str,
        mark: int,
    ) -> None:
        self._reason = reason
        self._redirect = redirect
        self._mark = mark
        self._places = places
        self._watch: FileWatch | None = None
        self._wanted = ResolverConfig()
        self._applied: Redirection | None = None
        self._problem = ""
        self._on_change: Callable[[], None] = lambda: None
        self._lock = asyncio.Lock()
        self._healing: asyncio.Task[None] | None = None
        redirect.on_lost = self._lost

    @property
    def kind(self) -> str:
        """See `api.Resolver`."""
        return "none" if self._problem else "overriding"

    @property
    def reason(self) -> str:
        """See `api.Resolver`."""
        return self._problem or self._reason

    async def host_names(self) -> HostNames:
        """See `api.Resolver`."""
        conf = self._places.read_resolv_conf()
        search = tuple(names.text(domain) for domain in conf.search)
        if conf.servers:
            return HostNames(choose_fallback(conf.servers), search)
        problem = f"resolv.conf names no name server, so programs ask {DEFAULT_SERVER[0]}"
        return HostNames((DEFAULT_SERVER,), search, problem)

    def watch(self, on_change: Callable[[], None]) -> None:
        """See `api.Resolver`."""
        self._on_change = on_change
        self._watch = self._places.watch(on_change)

    async def apply(self, wanted: ResolverConfig) -> None:
        """See `api.Resolver`. Domains need no configuration: every name comes to our server."""
        async with self._lock:
            self._wanted = wanted
            await self._bring(wanted)

    async def _bring(self, wanted: ResolverConfig) -> None:
        redirection = self._redirection(wanted)
        if redirection == self._applied:
            return
        touched = {
            *(redirection.servers if redirection else ()),
            *(self._applied.servers if self._applied else ()),
        }
        await self._redirect.set(redirection)
        self._applied, self._problem = redirection, ""
        await conntrack.forget(sorted(touched, key=lambda address: (address.version, int(address))))

    def _lost(self) -> None:
        """The rules went, and the host's names are its own again: make them anew."""
        log.warning("the DNS redirection went", tool=self._redirect.tool)
        self._applied = None
        self._healing = asyncio.ensure_future(self._heal())

    async def _heal(self) -> None:
        try:
            await self.apply(self._wanted)
        except InroadError as problem:
            self._problem = problem.message
            log.error("names could not be led to inroad again", problem=str(problem))
        self._on_change()

    def _redirection(self, wanted: ResolverConfig) -> Redirection | None:
        hosts = self._places.read_resolv_conf().servers or (DEFAULT_SERVER,)
        targets: tuple[Target, ...] = tuple(t for t in (wanted.server, wanted.server6) if t is not None)
        ours = {address for address, _ in targets}
        servers = tuple(address for address in addresses_of((*hosts, *wanted.others)) if address not in ours)
        redirection = Redirection(servers, targets, self._mark)
        return redirection if redirection.pairs() else None

    async def close(self) -> None:
        """See `api.Resolver`."""
        if self._watch is not None:
            self._watch.close()
        if self._healing is not None:
            self._healing.cancel()
        await self.apply(ResolverConfig())
        await self._redirect.close()


def choose_fallback(servers: Sequence[Server]) -> tuple[Server, ...]:
    """Order the host's servers as fallback: those of the network before a forwarder on the host itself.

    A forwarder's own queries to the network's servers would come to us, and from us back to it.
    """
    local = [server for server in servers if ip_address(server[0].partition("%")[0]).is_loopback]
    remote = [server for server in servers if server not in local]
    return tuple(remote or local)
