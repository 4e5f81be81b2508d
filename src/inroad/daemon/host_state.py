"""The workstation's side of a session: routes and resolver, told the whole wanted state at once.

Names follow routes when something is added and go before them when it is removed, so that no name ever
resolves to an address that does not lead anywhere.
"""

from __future__ import annotations

from dataclasses import replace

from inroad.core.host_config import HostConfig, ResolverConfig, RouteConfig
from inroad.host.journal import Journal
from inroad.host.resolver.api import HostNames, Resolver, Server
from inroad.host.routes.api import Routes


class HostState:
    """Applies `HostConfig`s; remembers the last one to tell what is there."""

    def __init__(self, routes: Routes, journal: Journal) -> None:
        self.routes = routes
        self.journal = journal
        self.resolver: Resolver | None = None
        self.names = HostNames()
        self.fallback: tuple[Server, ...] = ()
        self.applied = HostConfig()

    async def look(self, preferred: tuple[Server, ...]) -> None:
        """Find out how the host finds names without us, and whom we ask for all other names therefore.

        `preferred`: the name servers that the user named, if any.
        """
        if self.resolver is not None:
            self.names = await self.resolver.host_names()
        self.fallback = preferred or self.names.servers

    async def apply(self, wanted: HostConfig) -> None:
        """Make the host be `wanted`; raises `HostChangeFailed`."""
        if wanted.routes != self.applied.routes:
            await self.routes.apply(wanted.routes)
            self.applied = replace(self.applied, routes=wanted.routes)
        if self.resolver is not None:
            await self.resolver.apply(wanted.resolver)
        self.applied = wanted

    async def restore(self) -> None:
        """Put everything back; the second half is done even when the first one fails."""
        try:
            if self.resolver is not None:
                await self.resolver.apply(ResolverConfig())
        finally:
            await self.routes.apply(RouteConfig())
            self.applied = HostConfig()

    async def close(self) -> None:
        """Release what watching and changing needed; `restore` comes first."""
        if self.resolver is not None:
            await self.resolver.close()
        await self.routes.close()
