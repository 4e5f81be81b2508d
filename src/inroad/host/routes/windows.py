"""Windows: `netsh` and PowerShell's `Get-NetRoute`. Seen as recorded calls only.

Source: netsh interface ipv4/ipv6 add route, NetTCPIP module. `store=active` routes end with the boot.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import msgspec

from inroad.host.routes.api import HostRoute
from inroad.host.routes.commands import Argv, Way

SYSTEM = r"C:\Windows\System32"
NETSH = rf"{SYSTEM}\netsh.exe"
POWERSHELL = rf"{SYSTEM}\WindowsPowerShell\v1.0\powershell.exe"
LIST = (
    "Get-NetRoute -PolicyStore ActiveStore | Select-Object DestinationPrefix,NextHop,InterfaceAlias,"
    "@{n='Metric';e={$_.RouteMetric+$_.InterfaceMetric}} | ConvertTo-Json -Compress"
)


class _Route(msgspec.Struct, rename="pascal"):
    destination_prefix: str
    next_hop: str
    interface_alias: str
    metric: int = 0


class WindowsRoutes:
    """See `RouteCommands`."""

    name = "windows"

    def add(self, way: Way) -> Argv:
        """Return `netsh interface ipvX add route`; metric 0 beats what others have for the same prefix."""
        hop = (f"nexthop={way.gateway}",) if way.gateway is not None else ()
        return (*_netsh("add", way), *hop, "metric=0", "store=active")

    def remove(self, way: Way) -> Argv:
        """Return `netsh interface ipvX delete route`."""
        hop = (f"nexthop={way.gateway}",) if way.gateway is not None else ()
        return (*_netsh("delete", way), *hop, "store=active")

    def lists(self) -> Sequence[Argv]:
        """Return one call for both families."""
        return ((POWERSHELL, "-NoProfile", "-NonInteractive", "-Command", LIST),)

    def parse(self, outputs: Sequence[str]) -> list[HostRoute]:
        """Read the JSON, an object when there is one route only; of equal prefixes the least metric wins."""
        text = "".join(outputs).strip()
        if not text:
            return []
        rows = msgspec.json.decode(text, type=list[_Route] | _Route)
        found: dict[str, _Route] = {}
        for row in [rows] if isinstance(rows, _Route) else rows:
            there = found.get(row.destination_prefix)
            if there is None or row.metric < there.metric:
                found[row.destination_prefix] = row
        routes = (_route(row) for row in found.values())
        return [route for route in routes if route is not None]


def _netsh(verb: str, way: Way) -> Argv:
    family = "ipv4" if way.network.version == 4 else "ipv6"
    return (NETSH, "interface", family, verb, "route", f"prefix={way.network}", f"interface={way.interface}")


def _route(row: _Route) -> HostRoute | None:
    """Return a route of somebody; multicast, broadcast and the host's own addresses are none."""
    network = ip_network(row.destination_prefix, strict=False)
    own = network.prefixlen == network.max_prefixlen and row.next_hop in ("0.0.0.0", "::")
    if network.is_multicast or network.is_loopback or own or "Loopback" in row.interface_alias:
        return None
    hop = ip_address(row.next_hop.partition("%")[0])
    return HostRoute(network, row.interface_alias, None if hop.is_unspecified else hop)
