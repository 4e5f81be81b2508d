"""What the workstation's name resolution is to the daemon: one of four back ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from inroad.core.host_config import ResolverConfig

Server = tuple[str, int]
"""(address as text, port) of a name server."""

STUBS = frozenset({"127.0.0.53", "127.0.0.54"})
"""Where systemd-resolved itself listens (systemd-resolved.service(8))."""


@dataclass(frozen=True, slots=True)
class HostNames:
    """How the host finds names without us: the servers it asks, the domains it appends.

    `problem`: what is wrong with that, for people; "" mostly.
    """

    servers: tuple[Server, ...] = ()
    search: tuple[str, ...] = ()
    problem: str = ""


class Resolver(Protocol):
    """Leads the host's name lookups to inroad's DNS server, or back."""

    @property
    def kind(self) -> str:
        """Which one: systemd-resolved, overriding, macos or windows; "none" when nothing works any more."""

    @property
    def reason(self) -> str:
        """Why this one was chosen, for people."""

    async def host_names(self) -> HostNames:
        """Return how the host finds names without us, as it is now; what can't be read is as it was."""

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` within 1 s of a change of that.

        Where the system keeps it with its network interfaces (Windows), `Routes.watch` tells of it.
        """

    async def apply(self, wanted: ResolverConfig) -> None:
        """Make the host's resolver be `wanted`, as it has to be beside `host_names`, doing only what differs.

        The empty `ResolverConfig()` puts everything back. Raises `HostChangeFailed` and leaves the
        host's names as they were.
        """

    async def close(self) -> None:
        """Release processes and connections; what `apply` did is removed too. Idempotent."""
