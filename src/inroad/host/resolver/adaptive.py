"""systemd-resolved as long as it works, the overriding resolver when it does not.

It must prove itself: after the configuration is applied, a name must arrive at our server. It may be
restarted (then everything is applied anew), stopped, or the bus may go: then the other back end
takes over, so that the host has names at all, until it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from inroad.core.errors import HostChangeFailed, InroadError
from inroad.core.host_config import ResolverConfig
from inroad.host.resolver.api import Resolver, Server
from inroad.host.resolver.resolved import Bus, ResolvedResolver

Prove = Callable[[ResolverConfig], Awaitable[bool]]

log = structlog.get_logger()


class AdaptiveResolver:
    """Two back ends, one of which leads names to us at any time."""

    def __init__(
        self, first: ResolvedResolver, bus: Bus, other: Callable[[str], Resolver], prove: Prove
    ) -> None:
        self._first = first
        self._bus = bus
        self._make_other = other
        self._prove = prove
        self._other: Resolver | None = None
        self._current: Resolver = first
        self._wanted = ResolverConfig()
        self._running = True
        self._proven = False
        self._lock = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None

    @property
    def kind(self) -> str:
        """The back end in use."""
        return self._current.kind

    @property
    def reason(self) -> str:
        """Why that one."""
        return self._current.reason

    async def start(self) -> None:
        """Follow what becomes of systemd-resolved; raises `HostChangeFailed`."""
        await self._bus.watch(self._changed)

    async def fallback(self) -> tuple[Server, ...]:
        """See `api.Resolver`: the servers that systemd-resolved asks."""
        return await self._first.fallback()

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
        why = "systemd-resolved does not run any more"
        if self._running:
            try:
                await self._first.apply(self._wanted)
                if await self._proves():
                    self._current = self._first
                    return
                why = "names did not arrive through systemd-resolved"
            except HostChangeFailed as problem:
                why = problem.message
        with contextlib.suppress(HostChangeFailed):
            await self._first.apply(ResolverConfig())
        await self._use_other(why)

    async def _proves(self) -> bool:
        """The other back end must be off meanwhile, or it would give the proof."""
        if self._other is not None:
            await self._other.apply(ResolverConfig())
        self._proven = self._proven or await self._prove(self._wanted)
        return self._proven

    async def _use_other(self, why: str) -> None:
        if self._other is None:
            self._other = self._make_other(why)
        log.warning("systemd-resolved is not used", why=why, instead=self._other.kind)
        await self._other.apply(self._wanted)
        self._current = self._other

    async def _put_back(self) -> None:
        try:
            if self._other is not None:
                await self._other.apply(ResolverConfig())
        finally:
            if self._running:
                await self._first.apply(ResolverConfig())

    def _changed(self, running: bool) -> None:
        """systemd-resolved has come or gone; a new one knows nothing of us."""
        self._running, self._proven = running, False
        self._first.forget()
        if self._following is None or self._following.done():
            self._following = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        async with self._lock:
            seen = None
            while seen != self._running and self._wanted.server is not None:
                seen = self._running
                try:
                    await self._bring()
                except InroadError as problem:
                    log.error("names could not be led to inroad again", problem=str(problem))

    async def close(self) -> None:
        """See `api.Resolver`."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        if self._other is not None:
            await self._other.close()
        await self._first.close()
