"""A workstation's routing that exists in memory only; it prints as text."""

from __future__ import annotations

from collections.abc import Callable

from inroad.core.host_config import RouteConfig
from inroad.host.routes.api import HostRoute


class FakeRoutes:
    """`Routes` without a host: `wanted` is what was applied last, `others` what somebody else has."""

    def __init__(self, others: tuple[HostRoute, ...] = ()) -> None:
        self.others = others
        self.wanted = RouteConfig()
        self.closed = False
        self._watchers: list[Callable[[], None]] = []

    async def apply(self, wanted: RouteConfig) -> None:
        """Remember `wanted`."""
        self.wanted = wanted

    async def host_routes(self) -> tuple[HostRoute, ...]:
        """Return `others`."""
        return self.others

    def watch(self, on_change: Callable[[], None]) -> None:
        """Remember whom to tell: `changed()` does."""
        self._watchers.append(on_change)

    def changed(self, *others: HostRoute) -> None:
        """Have somebody change the host's routes to these."""
        self.others = others
        for watcher in self._watchers:
            watcher()

    async def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True

    def __str__(self) -> str:
        lines = [f"{net} dev {self.wanted.interface}" for net in self.wanted.subnets]
        lines += [f"throw {net}" for net in self.wanted.never]
        return "\n".join(sorted(lines) + [str(route) for route in self.others])
