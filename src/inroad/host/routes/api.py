"""What the workstation's routing is to the daemon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from inroad.core.host_config import Address, Network, RouteConfig


@dataclass(frozen=True, slots=True)
class HostRoute:
    """A route that somebody else put on the workstation, as conflict detection needs it."""

    network: Network
    interface: str
    gateway: Address | None = None
    table: str = "main"

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        return f"{self.network}{via} dev {self.interface} table {self.table}"


class Routes(Protocol):
    """Puts routes on the host. What it does is journalled before it is done."""

    async def apply(self, wanted: RouteConfig) -> None:
        """Make the host's routes of ours be `wanted`, doing only what differs.

        The empty `RouteConfig()` removes all of them. Raises `HostChangeFailed` and leaves the
        routes as they were before the call.
        """

    async def host_routes(self) -> tuple[HostRoute, ...]:
        """Return the routes that are not ours; routes that vanish during the scan are left out."""

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` after others changed links, addresses, routes or rules of the host.

        Many changes make one call. What `apply` put there is watched from then on anyway, and put back
        within 1 s when somebody removes it or puts something before it.
        """

    async def close(self) -> None:
        """Stop watching; `apply(RouteConfig())` is the caller's to call first."""
