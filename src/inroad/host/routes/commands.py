"""Routes by an operating system's commands, for systems without tables and rules (macOS, Windows).

The cluster's subnets are routes into the VIF among everybody's. A never-proxy subnet gets a route to
where it went before, and follows when that changes: the host's routes are read again at each change. There
is no table to empty after a crash, so every route is journalled by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Protocol

import structlog

from inroad.core.errors import HostChangeFailed
from inroad.core.host_config import Address, Network, RouteConfig
from inroad.host.journal import Entry, Journal
from inroad.host.routes.api import HostRoute
from inroad.host.run import Completed

_log = structlog.get_logger("inroad.routes")

Run = Callable[[Sequence[str]], Awaitable[Completed]]
"""Runs a program to its end (`inroad.host.run.run_async`)."""
Argv = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """Where a route leads: by an interface, or to a gateway on it."""

    network: Network
    interface: str
    gateway: Address | None = None


class RouteCommands(Protocol):
    """One system's words. No I/O."""

    name: str

    def add(self, way: Way) -> Argv:
        """Return the command that adds a route, until the next boot at most."""

    def remove(self, way: Way) -> Argv:
        """Return the command that removes it."""

    def lists(self) -> Sequence[Argv]:
        """Return the commands that print all routes."""

    def parse(self, outputs: Sequence[str]) -> list[HostRoute]:
        """Read what they print; lines that are no unicast route are left out."""


class CommandRoutes:
    """`Routes` by commands."""

    def __init__(
        self,
        journal: Journal,
        commands: RouteCommands,
        run: Run,
        watcher: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
    ) -> None:
        self._journal = journal
        self._commands = commands
        self._run = run
        self._stop_watching = watcher(self._host_changed) if watcher is not None else lambda: None
        self._on_change: Callable[[], None] = lambda: None
        self._wanted = RouteConfig()
        self._entries: dict[Way, int] = {}
        self._turn = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None

    async def apply(self, wanted: RouteConfig) -> None:
        """See `Routes.apply`."""
        async with self._turn:
            await self._apply(wanted)
            self._wanted = wanted

    async def _apply(self, wanted: RouteConfig) -> None:
        ways = await self._ways(wanted)
        added = [way for way in ways if way not in self._entries]
        removed = [way for way in self._entries if way not in ways]
        done: list[tuple[Way, bool]] = []
        try:
            for way in _same_network_first(removed, added):
                await self._remove(way)
                done.append((way, False))
            for way in added:
                await self._add(way)
                done.append((way, True))
            for way in [way for way in removed if way in self._entries]:
                await self._remove(way)
                done.append((way, False))
        except HostChangeFailed:
            await self._take_back(done)
            raise

    async def host_routes(self) -> tuple[HostRoute, ...]:
        """See `Routes.host_routes`."""
        ours = {(way.network, way.interface) for way in self._entries}
        found = await _list(self._commands, self._run)
        return tuple(route for route in found if (route.network, route.interface) not in ours)

    def watch(self, on_change: Callable[[], None]) -> None:
        """See `Routes.watch`."""
        self._on_change = on_change

    def _host_changed(self) -> None:
        if self._following is None or self._following.done():
            self._following = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        """Lead never-proxy to where it goes now, put back what is missing, then tell whom it concerns."""
        try:
            async with self._turn:
                await self._apply(self._wanted)
                await self._put_back()
        except HostChangeFailed as error:
            _log.warning("routes do not follow the host", error=str(error))
        self._on_change()

    async def _put_back(self) -> None:
        """Add again what the host no longer lists. It is announced already, and may be there unlisted."""
        there = {(route.network, route.interface) for route in await _list(self._commands, self._run)}
        for way in self._entries:
            if (way.network, way.interface) in there:
                continue
            done = await _done(self._run, self._commands.add(way))
            if done.ok:
                _log.info(
                    "a route was gone and is put back", network=str(way.network), interface=way.interface
                )

    async def close(self) -> None:
        """See `Routes.close`."""
        self._stop_watching()
        if self._following is not None:
            self._following.cancel()

    async def _ways(self, wanted: RouteConfig) -> list[Way]:
        """Return every route that shall be: never-proxy first, so that none of it ever enters the VIF."""
        if not wanted.subnets:
            return []
        others = [route for route in await self.host_routes() if route.interface != wanted.interface]
        never = [way for network in wanted.never if (way := _way_of_others(network, others)) is not None]
        return never + [Way(network, wanted.interface) for network in wanted.subnets]

    async def _add(self, way: Way) -> None:
        self._entries[way] = self._journal.record("routes", _to_data(way))
        try:
            done = await _done(self._run, self._commands.add(way))
        except HostChangeFailed:
            self._forget(way)
            raise
        if not done.ok:
            self._forget(way)
            raise _refused(done)

    async def _remove(self, way: Way) -> None:
        await _remove(self._commands, self._run, way)
        self._forget(way)

    def _forget(self, way: Way) -> None:
        self._journal.done(self._entries.pop(way))

    async def _take_back(self, done: Sequence[tuple[Way, bool]]) -> None:
        for way, added in reversed(done):
            try:
                await (self._remove(way) if added else self._add(way))
            except HostChangeFailed as error:
                _log.warning("a route was not taken back", error=str(error))


async def undo(entry: Entry, commands: RouteCommands, run: Run) -> str:
    """Remove the route that a crashed daemon announced."""
    way = _from_data(entry.data)
    there = await _remove(commands, run, way)
    return f"removed the route {way.network} dev {way.interface}" if there else ""


async def _list(commands: RouteCommands, run: Run) -> list[HostRoute]:
    return commands.parse([(await _done(run, argv)).stdout for argv in commands.lists()])


async def _remove(commands: RouteCommands, run: Run, way: Way) -> bool:
    """Remove a route; returns whether it was there. What the commands say is in the user's language,
    so when one fails the routes are listed to see whether there is anything left to remove."""
    done = await _done(run, commands.remove(way))
    if done.ok:
        return True
    left = {(route.network, route.interface) for route in await _list(commands, run)}
    if (way.network, way.interface) in left:
        raise _refused(done)
    return False


async def _done(run: Run, argv: Argv) -> Completed:
    try:
        return await run(argv)
    except OSError as error:  # TimeoutError among them
        raise HostChangeFailed(f"{argv[0]} did not run: {error}") from error


def _same_network_first(removed: Sequence[Way], added: Sequence[Way]) -> list[Way]:
    """A network has one route only: where it gets another one, the old one goes before."""
    networks = {way.network for way in added}
    return [way for way in removed if way.network in networks]


def _way_of_others(network: Network, others: Sequence[HostRoute]) -> Way | None:
    """Return the way that packets to `network` take without us, by longest prefix; None when offline."""
    around = [route for route in others if _covers(route.network, network)]
    if not around:
        return None
    best = max(around, key=lambda route: route.network.prefixlen)
    return None if best.network == network else Way(network, best.interface, best.gateway)


def _covers(outer: Network, inner: Network) -> bool:
    return outer.version == inner.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _refused(done: Completed) -> HostChangeFailed:
    words = " ".join((done.stderr or done.stdout).split())
    return HostChangeFailed(f"{' '.join(done.argv)} failed: {words or f'status {done.status}'}")


def _to_data(way: Way) -> dict[str, str]:
    return {"network": str(way.network), "interface": way.interface, "gateway": str(way.gateway or "")}


def _from_data(data: dict[str, str]) -> Way:
    gateway = ip_address(data["gateway"]) if data["gateway"] else None
    return Way(ip_network(data["network"]), data["interface"], gateway)
