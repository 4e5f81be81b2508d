"""systemd-resolved as long as it works, the overriding resolver when it does not.

It must prove itself: after the configuration is applied, a name must arrive at our server. It may be
restarted (then everything is applied anew), stopped, the bus may go, or a VPN may put a resolv.conf
there that leads past it: then the other back end takes over, so that the host has names at all, until
programs ask it again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from inroad.core.errors import HostChangeFailed, InroadError
from inroad.core.host_config import ResolverConfig
from inroad.host.file_watch import FileWatch
from inroad.host.resolver.api import STUBS, HostNames, Resolver
from inroad.host.resolver.places import Places
from inroad.host.resolver.resolved import Bus, ResolvedResolver

Prove = Callable[[ResolverConfig], Awaitable[bool]]

log = structlog.get_logger()


class AdaptiveResolver:
    """Two back ends, one of which leads names to us at any time."""

    def __init__(
        self,
        first: ResolvedResolver,
        bus: Bus,
        other: Callable[[str], Resolver],
        places: Places,
        prove: Prove,
    ) -> None:
        self._first = first
        self._bus = bus
        self._make_other = other
        self._places = places
        self._prove = prove
        self._other: Resolver | None = None
        self._current: Resolver | ResolvedResolver = first
        self._names = HostNames()
        self._wanted = ResolverConfig()
        self._running = True
        self._asked = True
        self._proven = False
        self._rejected = ""
        self._problem = ""
        self._on_change: Callable[[], None] = lambda: None
        self._watch: FileWatch | None = None
        self._lock = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None

    @property
    def kind(self) -> str:
        """The back end in use."""
        return "none" if self._problem else self._current.kind

    @property
    def reason(self) -> str:
        """Why that one."""
        return self._problem or self._current.reason

    async def start(self) -> None:
        """Follow what becomes of systemd-resolved; raises `HostChangeFailed`."""
        await self._bus.watch(self._changed)

    async def host_names(self) -> HostNames:
        """See `api.Resolver`: what systemd-resolved asks, or resolv.conf where programs pass it by."""
        if self._running:
            with contextlib.suppress(HostChangeFailed):
                self._names = await self._first.host_names()
        if self._current is self._first or self._other is None:
            return self._names
        found = await self._other.host_names()
        # Its stub is no server to fall back to: it is us that it would ask, or it does not run.
        servers = tuple(server for server in found.servers if server[0] not in STUBS)
        return HostNames(servers or self._names.servers, found.search, "" if servers else self._names.problem)

    def watch(self, on_change: Callable[[], None]) -> None:
        """See `api.Resolver`."""
        self._on_change = on_change
        self._watch = self._places.watch(self._files_changed)

    def _files_changed(self) -> None:
        asked = self._places.asks_resolved()
        if asked != self._asked:
            self._asked, self._proven, self._rejected = asked, False, ""
            self._follow_soon()
        self._on_change()

    async def apply(self, wanted: ResolverConfig) -> None:
        """See `api.Resolver`."""
        async with self._lock:
            self._wanted = wanted
            await self._bring()

    async def _bring(self) -> None:
        """Make the host be what is wanted, by the first back end if it works, else by the other."""
        if self._wanted.server is None:
            await self._put_back()
            return
        why = self._unfit()
        if not why:
            try:
                await self._first.apply(self._wanted)
                if await self._proves():
                    self._current, self._problem = self._first, ""
                    return
                why = self._rejected = "names did not arrive through systemd-resolved"
            except HostChangeFailed as problem:
                why = problem.message
        with contextlib.suppress(HostChangeFailed):
            await self._first.apply(ResolverConfig())
        await self._use_other(why)

    def _unfit(self) -> str:
        """Say why systemd-resolved is of no use now, "" when it should be tried."""
        if not self._running:
            return "systemd-resolved does not run any more"
        if not self._asked:
            return "neither resolv.conf nor nsswitch.conf leads to systemd-resolved any more"
        return self._rejected

    async def _proves(self) -> bool:
        """The other back end must be off meanwhile, or it would give the proof."""
        if self._other is not None:
            await self._other.apply(ResolverConfig())
        self._proven = self._proven or await self._prove(self._wanted)
        return self._proven

    async def _use_other(self, why: str) -> None:
        try:
            if self._other is None or self._current is self._first:
                self._other = self._make_other(why)
                log.warning("systemd-resolved is not used", why=why, instead=self._other.kind)
            await self._other.apply(self._wanted)
        except InroadError as problem:
            self._problem = problem.message
            raise
        self._current, self._problem = self._other, ""

    async def _put_back(self) -> None:
        try:
            if self._other is not None:
                await self._other.apply(ResolverConfig())
        finally:
            if self._running:
                await self._first.apply(ResolverConfig())

    def _changed(self, running: bool) -> None:
        """systemd-resolved has come or gone; a new one knows nothing of us."""
        self._running, self._proven, self._rejected = running, False, ""
        self._first.forget()
        self._follow_soon()

    def _follow_soon(self) -> None:
        if self._following is None or self._following.done():
            self._following = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        async with self._lock:
            seen = None
            while seen != (self._running, self._asked) and self._wanted.server is not None:
                seen = self._running, self._asked
                try:
                    await self._bring()
                except InroadError as problem:
                    log.error("names could not be led to inroad again", problem=str(problem))
        self._on_change()

    async def close(self) -> None:
        """See `api.Resolver`."""
        if self._watch is not None:
            self._watch.close()
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        if self._other is not None:
            await self._other.close()
        await self._first.close()
