"""macOS: `route` and `netstat`. Seen as recorded calls only; the words are those of route(8), netstat(1)."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from inroad.core.host_config import Address, Network
from inroad.host.routes.api import HostRoute
from inroad.host.routes.commands import Argv, Way

ROUTE, NETSTAT = "/sbin/route", "/usr/sbin/netstat"
MONITOR: Argv = (ROUTE, "-n", "monitor")
"""Prints a message for each change until it is ended."""


class MacRoutes:
    """See `RouteCommands`."""

    name = "macos"

    def add(self, way: Way) -> Argv:
        """Return `route add`."""
        return (ROUTE, "-n", "add", *_destination(way.network), *_target(way))

    def remove(self, way: Way) -> Argv:
        """Return `route delete`."""
        return (ROUTE, "-n", "delete", *_destination(way.network), *_target(way))

    def lists(self) -> Sequence[Argv]:
        """Return `netstat -rn` for both families."""
        return ((NETSTAT, "-rn", "-f", "inet"), (NETSTAT, "-rn", "-f", "inet6"))

    def parse(self, outputs: Sequence[str]) -> list[HostRoute]:
        """Read the two tables."""
        return [route for text in outputs for line in text.splitlines() if (route := _line(line)) is not None]


def _destination(network: Network) -> Argv:
    return ("-inet" if network.version == 4 else "-inet6", "-net", str(network))


def _target(way: Way) -> Argv:
    if way.gateway is None:
        return ("-interface", way.interface)
    scope = f"%{way.interface}" if way.gateway.version == 6 and way.gateway.is_link_local else ""
    return (f"{way.gateway}{scope}",)


def _line(line: str) -> HostRoute | None:
    """Read `Destination Gateway Flags Netif [Expire]`.

    Host entries of neighbours (flag L), the loopback, cloned (W) and reject or blackhole routes (R, B) are
    no routes of anybody; an interface-scoped default (I) is only for sockets bound to it.
    """
    words = line.split()
    if len(words) < 4:
        return None
    destination, gateway, flags, interface = words[:4]
    if "U" not in flags or set("LWRBIm") & set(flags) or interface.startswith("lo"):
        return None
    try:
        return HostRoute(_network(destination, gateway), interface, _gateway(gateway))
    except ValueError:
        return None


def _network(text: str, gateway: str) -> Network:
    """Read a destination as netstat shortens it: `10`, `192.168.1`, `172.16/12`, `fe80::%en0/64`."""
    if text == "default":
        six = ":" in gateway
        return IPv6Network("::/0") if six else IPv4Network("0.0.0.0/0")
    address, slash, length = text.partition("/")
    address = address.partition("%")[0]
    if ":" in address:
        return ip_network(f"{address}/{length or 128}", strict=False)
    octets = address.split(".")
    prefix = length if slash else str(8 * len(octets))
    return ip_network(f"{'.'.join(octets + ['0'] * (4 - len(octets)))}/{prefix}", strict=False)


def _gateway(text: str) -> Address | None:
    """Return a gateway's address; `link#5` and hardware addresses mean: on the link."""
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None
