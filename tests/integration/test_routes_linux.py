"""Routes and rules on a real kernel."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from routes_stage import WANTED, Host, dump, ip, nets, settled, way, workstation

from inroad.core.errors import HostChangeFailed
from inroad.core.host_config import FWMARK, ROUTE_TABLE, RouteConfig
from inroad.host.cleanup import clean_up
from inroad.host.routes.linux import LinuxRoutes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")
LOOPS = ("asyncio", "uvloop")


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with workstation(tmp_path) as host:
        yield host


@pytest.fixture
async def routes(host: Host) -> LinuxRoutes:
    return await host.routes()


async def test_subnets_lead_into_the_vif_to_their_edges_and_nothing_else_does(routes: LinuxRoutes) -> None:
    await routes.apply(WANTED)
    inside = ["10.96.0.0", "10.96.255.255", "10.244.1.0", "10.244.1.255", "10.9.9.9", "fd00:10:96::ffff"]
    outside = ["10.95.255.255", "10.97.0.0", "10.244.2.0", "10.9.9.8", "fd00:10:96::1:0", "1.1.1.1"]
    never = ["10.96.7.0", "10.96.7.255", "fd00:10:244:1::53"]
    assert {address: way(address) for address in inside} == dict.fromkeys(inside, "inroad0")
    assert {address: way(address) for address in outside + never} == dict.fromkeys(outside + never, "eth0")
    assert way("10.96.0.5", f"mark {FWMARK:#x}") == "eth0", "our own packets pass by"
    assert "quickack 1" in ip("route get 10.96.0.5") and "src 246.246.0.1" in ip("route get 10.96.0.5")


async def test_a_never_proxy_address_keeps_gateway_and_source_and_follows_a_new_gateway(
    routes: LinuxRoutes,
) -> None:
    before = ip("route get 10.96.7.7")
    await routes.apply(WANTED)
    assert ip("route get 10.96.7.7") == before
    ip("route replace default via 192.168.7.9")
    assert "via 192.168.7.9" in ip("route get 10.96.7.7")


async def test_applying_twice_changes_nothing_and_empty_removes_everything(routes: LinuxRoutes) -> None:
    before = dump()
    await routes.apply(WANTED)
    once = dump()
    await routes.apply(WANTED)
    assert dump() == once
    assert routes._changes(WANTED) == [], "nothing was even sent"
    await routes.apply(RouteConfig())
    assert dump() == before


async def test_only_the_difference_is_sent(routes: LinuxRoutes) -> None:
    await routes.apply(WANTED)
    grown = replace(WANTED, subnets=(*WANTED.subnets, *nets("10.244.2.0/24")), never=nets("10.96.7.0/24"))
    assert len(routes._changes(grown)) == 2
    await routes.apply(grown)
    assert way("10.244.2.1") == "inroad0" and way("fd00:10:244:1::53") == "inroad0"
    swapped = replace(WANTED, subnets=nets("10.96.7.0/24"), never=nets("10.96.0.0/16"))
    await routes.apply(swapped)
    assert way("10.96.7.1") == "inroad0" and way("10.96.0.1") == "eth0"


async def test_a_refused_route_leaves_the_routes_as_they_were(routes: LinuxRoutes) -> None:
    await routes.apply(WANTED)
    before = dump()
    ip("link set inroad0 down")
    ip("link set inroad0 up")  # the kernel dropped the VIF's routes with it
    without = dump()
    assert without != before
    with pytest.raises(HostChangeFailed, match="inroad1"):
        await routes.apply(replace(WANTED, interface="inroad1"))
    assert dump() == without
    await routes.apply(WANTED)
    assert way("10.96.0.5") == "inroad0"


async def test_after_a_crash_the_journal_is_enough_to_clean_up(routes: LinuxRoutes, host: Host) -> None:
    before = dump()
    await routes.apply(WANTED)
    lines = await clean_up(host.journal)
    assert lines == ["removed 2 rules and 7 routes"]
    assert dump() == before
    assert await clean_up(host.journal) == []


async def test_hundreds_of_routes(routes: LinuxRoutes) -> None:
    many = tuple(ip_network((0x0A000000 + (number << 8), 24)) for number in range(2_000))
    await routes.apply(RouteConfig("inroad0", many, mtu=1500))
    assert ip(f"route show table {ROUTE_TABLE}").count("\n") == 2_000
    await routes.apply(RouteConfig())
    assert ip("rule").count("\n") == 3


async def test_host_routes_are_those_of_others(routes: LinuxRoutes) -> None:
    ip("route add blackhole 10.66.0.0/16")
    ip("route add 10.77.0.0/16 via 192.168.7.3 table 52")
    await routes.apply(WANTED)
    seen = {str(route) for route in await routes.host_routes()}
    assert "0.0.0.0/0 via 192.168.7.1 dev eth0 table main" in seen
    assert "10.77.0.0/16 via 192.168.7.3 dev eth0 table 52" in seen
    assert not [text for text in seen if "10.96" in text or "10.66" in text]


@pytest.mark.parametrize(
    "damage",
    [
        f"rule del table {ROUTE_TABLE}",
        f"-6 rule del table {ROUTE_TABLE}",
        "rule flush",
        f"route flush table {ROUTE_TABLE}",
        f"route del throw 10.96.7.0/24 table {ROUTE_TABLE}",
    ],
)
async def test_what_others_remove_is_put_back_within_a_second(routes: LinuxRoutes, damage: str) -> None:
    await routes.apply(WANTED)
    whole = dump()
    ip(damage)
    if damage == "rule flush":  # it leaves `from all lookup local` only
        ip("rule add pref 32766 lookup main")
        ip("rule add pref 32767 lookup default")
    assert dump() != whole
    await settled(lambda: dump() == whole)


async def test_a_rule_that_comes_before_ours_is_overtaken(routes: LinuxRoutes) -> None:
    await routes.apply(WANTED)
    ip("route add default dev eth0 table 51820")
    ip("rule add pref 500 not fwmark 0xca6c lookup 51820")
    assert way("10.96.0.5") == "eth0"
    await settled(lambda: way("10.96.0.5") == "inroad0")
    await routes.apply(RouteConfig())
    assert "41133" not in ip("rule")


async def test_watchers_hear_of_others_changes_and_not_of_ours(routes: LinuxRoutes) -> None:
    heard: list[str] = []
    await asyncio.sleep(0.1)  # what the fixture did is told of first
    routes.watch(lambda: heard.append("changed"))
    await routes.apply(WANTED)
    await routes.apply(RouteConfig())
    await asyncio.sleep(0.15)
    assert heard == []
    for words in ("route add 10.8.0.0/16 dev eth0", "route del 10.8.0.0/16", "addr add 10.8.0.1/32 dev eth0"):
        ip(words)
    await settled(lambda: heard == ["changed"])
    ip("link set eth0 down")
    await settled(lambda: len(heard) == 2)
