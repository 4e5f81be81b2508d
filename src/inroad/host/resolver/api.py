"""What the workstation's name resolution is to the daemon: one of four back ends."""

from __future__ import annotations

from typing import Protocol

from inroad.core.host_config import ResolverConfig

Server = tuple[str, int]
"""(address as text, port) of a name server."""

STUBS = frozenset({"127.0.0.53", "127.0.0.54"})
"""Where systemd-resolved itself listens (systemd-resolved.service(8))."""


class Resolver(Protocol):
    """Leads the host's name lookups to inroad's DNS server, or back."""

    @property
    def kind(self) -> str:
        """Which one: systemd-resolved, overriding, macos or windows."""

    @property
    def reason(self) -> str:
        """Why this one was chosen, for people."""

    async def fallback(self) -> tuple[Server, ...]:
        """Return the name servers that the host had before, to be asked for all other names."""

    async def apply(self, wanted: ResolverConfig) -> None:
        """Make the host's resolver be `wanted`, doing only what differs.

        The empty `ResolverConfig()` puts everything back. Raises `HostChangeFailed` and leaves the
        host's names as they were.
        """

    async def close(self) -> None:
        """Release processes and connections; what `apply` did is removed too. Idempotent."""
