"""Beside VPNs: the rules and tables that WireGuard's wg-quick and Tailscale make, rebuilt on a real kernel.

What they do is taken from wg-quick's linux.bash (`add_default`) and Tailscale's wgengine/router.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from routes_stage import WANTED, Host, dump, ip, settled, way, workstation

from inroad.core.host_config import FWMARK, ROUTE_TABLE, RouteConfig

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")
LOOPS = ("asyncio", "uvloop")


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with workstation(tmp_path) as host:
        yield host


def wg_quick(host: Host, *, full: bool = True) -> None:
    """A full tunnel: everything unmarked goes to a table of its own, except what main has a prefix for."""
    host.device("wg0")
    ip("addr add 10.13.13.2/24 dev wg0")
    if not full:
        ip("route add 10.96.0.0/12 dev wg0")
        return
    ip("route add default dev wg0 table 51820")
    ip("rule add not fwmark 51820 table 51820")
    ip("rule add table main suppress_prefixlength 0")
    ip("-6 route add default dev wg0 table 51820")
    ip("-6 rule add not fwmark 51820 table 51820")
    ip("-6 rule add table main suppress_prefixlength 0")


def tailscale(host: Host) -> None:
    """With an exit node and an accepted subnet route that overlaps the cluster."""
    host.device("tailscale0")
    ip("addr add 100.101.102.103/32 dev tailscale0")
    for family in ("-4", "-6"):
        ip(f"{family} rule add pref 5210 fwmark 0x80000/0xff0000 table main")
        ip(f"{family} rule add pref 5230 fwmark 0x80000/0xff0000 table default")
        ip(f"{family} rule add pref 5250 fwmark 0x80000/0xff0000 type unreachable")
        ip(f"{family} rule add pref 5270 table 52")
        ip(f"{family} route add default dev tailscale0 table 52")
    ip("route add 100.64.0.0/10 dev tailscale0 table 52")
    ip("route add 10.0.0.0/8 dev tailscale0 table 52")
    ip("route add throw 127.0.0.0/8 table 52")
    ip("route add throw 192.168.7.0/24 table 52")


def networkd(host: Host) -> None:
    """Rules of an administrator: source-based routing and one for a single destination."""
    ip("route add default dev eth0 table 100")
    ip("rule add pref 100 from 192.168.7.2 lookup 100")
    ip("rule add pref 200 to 10.96.4.0/24 lookup 100")


LAYOUTS: dict[str, tuple[Callable[[Host], None], str, str]] = {
    # name: (layout, where the internet goes, mark of the VPN's own packets)
    "wg-quick": (wg_quick, "wg0", "0xca6c"),
    "wg-quick split": (lambda host: wg_quick(host, full=False), "eth0", "0xca6c"),
    "tailscale": (tailscale, "tailscale0", "0x80000"),
    "administrator": (networkd, "eth0", "0x1"),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("vpn_first", [True, False], ids=["vpn-first", "inroad-first"])
async def test_cluster_into_the_vif_and_everything_else_as_the_vpn_wants_it(
    host: Host, name: str, vpn_first: bool
) -> None:
    layout, internet, mark = LAYOUTS[name]
    if vpn_first:
        layout(host)
        before = dump()
    routes = await host.routes()
    await routes.apply(WANTED)
    if not vpn_first:
        layout(host)
    await settled(lambda: way("10.96.4.5") == "inroad0")
    for inside in ("10.96.0.5", "10.244.1.9", "fd00:10:96::5"):
        assert way(inside) == "inroad0", inside
    assert way("1.1.1.1") == internet
    assert way("192.168.7.9") == "eth0"
    assert way("10.96.7.7") == way("10.96.7.7", f"mark {FWMARK}"), "never-proxy goes the VPN's way"
    assert way("1.1.1.1", f"mark {mark}") == "eth0", "the VPN's own packets leave by the wire"
    await routes.apply(RouteConfig())
    if vpn_first:
        assert dump() == before
    assert str(ROUTE_TABLE) not in dump()


async def test_a_vpn_that_comes_and_goes_while_connected(host: Host) -> None:
    routes = await host.routes()
    await routes.apply(WANTED)
    heard: list[int] = []
    routes.watch(lambda: heard.append(1))
    tailscale(host)
    await settled(lambda: way("10.96.0.5") == "inroad0" and way("1.1.1.1") == "tailscale0")
    await settled(lambda: bool(heard))
    seen = {str(route) for route in await routes.host_routes()}
    assert "10.0.0.0/8 dev tailscale0 table 52" in seen
    heard.clear()
    host.remove("tailscale0")
    for pref in ("5210", "5230", "5250", "5270"):
        ip(f"rule del pref {pref}")
    await settled(lambda: bool(heard))
    assert way("10.96.0.5") == "inroad0" and way("1.1.1.1") == "eth0"
