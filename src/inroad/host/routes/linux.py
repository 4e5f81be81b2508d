"""Linux: a routing table of our own behind a rule of our own, by netlink.

The main table would lose to VPNs that install rules. In our table a never-proxy subnet is a `throw`
route: the lookup goes on with the next rule as if we were not there, so it follows whatever gateway the
host has or gets. Our own packets carry the mark and never see the table.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from pathlib import Path

import structlog

from inroad.core.errors import HostChangeFailed, InroadError
from inroad.core.host_config import ROUTE_TABLE, Network, RouteConfig
from inroad.host.journal import Entry, Journal
from inroad.host.routes.api import HostRoute
from inroad.host.routes.monitor import Cooldown, Monitor
from inroad.host.routes.netlink import Netlink, NetlinkError
from inroad.host.routes.placement import FAMILIES, is_ours, wanted_rule
from inroad.host.routes.rtnetlink import (
    RT_TABLE_LOCAL,
    RT_TABLE_MAIN,
    RTN_THROW,
    RTN_UNICAST,
    Key,
    Route,
    Rule,
    Shape,
    route_request,
    rule_request,
)

_log = structlog.get_logger("inroad.routes")
PUT_BACK_PAUSE = 0.4
"""Seconds between two times of putting back: somebody may insist."""
_THROW: Shape = (RTN_THROW, 0, 0, False)
_MAX_MTU_METRIC = 65_520
"""The kernel lowers a larger RTAX_MTU to this (ip_metrics_convert)."""


class LinuxRoutes:
    """`Routes` for Linux. Its calls do not wait for anything but the kernel's own work."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._netlink = Netlink()
        self._monitor = Monitor(self._netlink.port, self._touched, self._host_changed)
        self._on_change: Callable[[], None] = lambda: None
        self._wanted = RouteConfig()
        self._entry = 0
        self._put_back = Cooldown(self._heal, PUT_BACK_PAUSE)

    async def apply(self, wanted: RouteConfig) -> None:
        """See `Routes.apply`."""
        changes = self._changes(wanted)
        if changes and not self._entry:
            self._entry = self._journal.record("routes", {"table": ROUTE_TABLE})
        self._do(changes)
        self._wanted = wanted
        if not (wanted.subnets or wanted.never) and self._entry:
            self._journal.done(self._entry)
            self._entry = 0

    async def host_routes(self) -> tuple[HostRoute, ...]:
        """See `Routes.host_routes`."""
        names = dict(socket.if_nameindex())
        return tuple(
            HostRoute(route.network, names[route.oif], route.gateway, _table_name(route.table))
            for route in self._netlink.routes()
            if route.table not in (ROUTE_TABLE, RT_TABLE_LOCAL) and route.oif in names
        )

    def watch(self, on_change: Callable[[], None]) -> None:
        """See `Routes.watch`."""
        self._on_change = on_change

    async def close(self) -> None:
        """See `Routes.close`."""
        self._put_back.close()
        self._monitor.close()
        self._netlink.close()

    def _host_changed(self) -> None:
        self._on_change()

    def _touched(self) -> None:
        if self._wanted.subnets:
            self._put_back()

    def _heal(self) -> None:
        """Make the kernel's state ours again, when it is not."""
        try:
            changes = self._changes(self._wanted)
            self._do(changes)
        except InroadError as error:  # the VIF is gone: its owner hears of that in another way
            _log.warning("routes were touched and can't be put back", error=str(error))
            return
        if changes:
            _log.info("routes were touched by somebody and are put back", changes=len(changes))

    def _changes(self, wanted: RouteConfig) -> list[tuple[bytes, bytes]]:
        """Return (request, its opposite) for what differs, in the order in which it is safe to do.

        Throw routes come first and go last, so that at no moment a never-proxy address enters the VIF;
        the rules come after the routes and go before them.
        """
        routes = _wanted_shapes(wanted)
        there = self._netlink.shapes(ROUTE_TABLE)
        added = sorted((key for key in routes if there.get(key) != routes[key]), key=lambda k: -routes[k][0])
        removed = sorted((key for key in there if key not in routes), key=lambda key: there[key][0])
        add = [_replacing(_route(key, routes[key]), there.get(key)) for key in added]
        gone = [_route(key, there[key]) for key in removed]
        drop = [(route_request(route, remove=True), route_request(route)) for route in gone]
        new_rules, old_rules = self._rule_changes(wanted.subnets)
        put = [(rule_request(rule), rule_request(rule, remove=True)) for rule in new_rules]
        take = [(rule_request(rule, remove=True), rule_request(rule)) for rule in old_rules]
        return add + put + take + drop if routes else take + drop

    def _rule_changes(self, subnets: Sequence[Network]) -> tuple[list[Rule], list[Rule]]:
        """Return our rules that are missing, and those that are there and should not be."""
        rules = self._netlink.rules()
        ours = [rule for rule in rules if is_ours(rule)]
        versions = {net.version for net in subnets if _family_works(net.version)}
        wanted = [
            wanted_rule(rules, FAMILIES[version], [net for net in subnets if net.version == version])
            for version in sorted(versions)
        ]
        return [rule for rule in wanted if rule not in ours], [rule for rule in ours if rule not in wanted]

    def _do(self, changes: Sequence[tuple[bytes, bytes]]) -> None:
        """Make the changes; when one is refused, those before it are taken back."""
        try:
            self._netlink.request([request for request, _ in changes])
        except NetlinkError as error:
            for index in reversed(error.done):
                try:
                    self._netlink.request([changes[index][1]])
                except NetlinkError as second:
                    _log.warning("a route was not taken back", error=str(second))
            raise HostChangeFailed(
                f"the kernel refused a route: {error.strerror}", "sudo ip route show table all"
            ) from error


async def undo(entry: Entry) -> str:
    """Remove our rules and our table's routes, whatever a crashed daemon had come to."""
    netlink = Netlink()
    try:
        rules = [rule for rule in netlink.rules() if is_ours(rule)]
        routes = netlink.routes(int(entry.data.get("table", ROUTE_TABLE)))
        netlink.request([rule_request(rule, remove=True) for rule in rules])
        netlink.request([route_request(route, remove=True) for route in routes])
    finally:
        netlink.close()
    return f"removed {len(rules)} rules and {len(routes)} routes" if rules or routes else ""


def _wanted_shapes(wanted: RouteConfig) -> dict[Key, Shape]:
    """Return the table's routes; a subnet that is also in `never` is never routed."""
    if wanted.subnets and not wanted.interface:
        raise HostChangeFailed("routes without an interface were asked for")
    into = (RTN_UNICAST, _index(wanted.interface) if wanted.subnets else 0, min(wanted.mtu, _MAX_MTU_METRIC))
    works = {version: _family_works(version) for version in (4, 6)}
    shapes: dict[Key, Shape] = {}
    for networks, value in ((wanted.subnets, (*into, wanted.quickack)), (wanted.never, _THROW)):
        for network in networks:
            if works[network.version]:
                shapes[network.network_address.packed, network.prefixlen] = value
    return shapes


def _route(key: Key, value: Shape) -> Route:
    kind, oif, mtu, quickack = value
    return Route(ip_network(key), kind, oif, table=ROUTE_TABLE, mtu=mtu, quickack=quickack)


def _replacing(route: Route, there: Shape | None) -> tuple[bytes, bytes]:
    if there is None:
        return route_request(route), route_request(route, remove=True)
    before = _route((route.network.network_address.packed, route.network.prefixlen), there)
    return route_request(route), route_request(before)


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:
        raise HostChangeFailed(
            f"the interface {interface} is gone", "inroad quit, then inroad connect"
        ) from error


def _family_works(version: int) -> bool:
    """False for IPv6 on a host that has none: then there is nothing to lead into the VIF either."""
    return version == 4 or Path("/proc/net/if_inet6").exists()


def _table_name(table: int) -> str:
    return {RT_TABLE_MAIN: "main", 253: "default"}.get(table, str(table))
