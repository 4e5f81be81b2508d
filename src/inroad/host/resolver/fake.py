"""A resolver back end in memory, for tests: it holds state and prints as text."""

from __future__ import annotations

from inroad.core.errors import HostChangeFailed
from inroad.core.host_config import ResolverConfig
from inroad.host.resolver.api import Server


class FakeResolver:
    """Takes any wanted state; `refuse` makes the next `apply` fail as an operating system would."""

    kind = "fake"
    reason = "a test chose it"

    def __init__(self, fallback: tuple[Server, ...] = (("192.0.2.53", 53),)) -> None:
        self.wanted = ResolverConfig()
        self.refuse = ""
        self.closed = False
        self._fallback = fallback

    async def fallback(self) -> tuple[Server, ...]:
        """See `api.Resolver`."""
        return self._fallback

    async def apply(self, wanted: ResolverConfig) -> None:
        """See `api.Resolver`."""
        if self.refuse:
            problem, self.refuse = self.refuse, ""
            raise HostChangeFailed(problem)
        self.wanted = wanted

    async def close(self) -> None:
        """See `api.Resolver`."""
        self.wanted = ResolverConfig()
        self.closed = True

    def __str__(self) -> str:
        if self.wanted.server is None:
            return "names: as before"
        address, port = self.wanted.server
        lines = [f"names: {address} port {port} on {self.wanted.interface or 'no interface'}"]
        lines += [f"  search {domain}" for domain in self.wanted.search]
        lines += [f"  routed {domain}" for domain in self.wanted.routed]
        lines += [f"  reverse {network}" for network in self.wanted.reverse]
        return "\n".join(lines)
