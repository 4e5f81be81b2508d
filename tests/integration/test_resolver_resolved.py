"""The systemd-resolved back end with the real systemd-resolved: its settings, restarts, absence, doubts."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from tests.integration import resolver_worlds
from tests.integration.names_stage import TableDns, private_network, serving, sh
from tests.integration.resolved_stage import ResolvedHost, resolved_host
from tests.integration.resolver_worlds import AFTER, BEFORE, OURS, Names, Resolved

from inroad.core.errors import ToolMissing
from inroad.core.host_config import ResolverConfig
from inroad.host.journal import Journal
from inroad.host.resolver.api import Resolver
from inroad.host.resolver.choose import Probes, open_resolver, override
from inroad.host.resolver.places import Places

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


@pytest.fixture
def namespaces():
    with private_network():
        resolver_worlds.network()
        yield


@pytest.fixture
async def names(namespaces: None, tmp_path: Path) -> AsyncIterator[Names]:
    async with resolver_worlds.names(tmp_path, ((BEFORE, 53),)) as served:
        yield served


@pytest.fixture
async def host(names: Names, tmp_path: Path) -> AsyncIterator[ResolvedHost]:
    async with resolved_host(tmp_path, f"DNS={BEFORE}\\n") as running:
        yield running


@pytest.fixture
async def world(host: ResolvedHost, tmp_path: Path) -> AsyncIterator[Resolved]:
    made = Resolved(host, tmp_path)
    await made.open()
    yield made
    await made.resolver.close()


def wanted(names: Names, *namespaces: str) -> ResolverConfig:
    policy = replace(names.policy(*namespaces), routed_subnets=(ip_network("10.96.0.0/16"),))
    names.server.configure(policy)
    return replace(names.wanted(policy), reverse=policy.routed_subnets)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_what_resolvectl_shows(world: Resolved, names: Names):
    await world.resolver.apply(wanted(names, "shop", "dev"))
    said = await world.host.ctl("status", "inroad0")
    assert "Current Scopes: DNS" in said
    assert re.search(r"Protocols: -DefaultRoute -LLMNR -mDNS -DNSOverTLS DNSSEC=no", said)
    assert re.search(rf"DNS Servers:? {OURS}\n", said)
    domains = " ".join(said.split("DNS Domain: ")[1].split())
    marker = r"~[0-9a-f]{8}\.search\.inroad\.invalid"
    assert re.fullmatch(rf"shop ~dev ~private ~svc ~cluster.local ~96.10.in-addr.arpa {marker}", domains)


async def test_programs_search_another_namespace_at_once(world: Resolved, names: Names):
    """systemd-resolved does not write resolv.conf anew when a domain it has becomes a search domain."""
    await world.resolver.apply(wanted(names, "shop", "default"))
    assert await world.lookup("web") == ["10.96.0.10"]
    policy = replace(names.server.policy, namespace="default")
    names.server.configure(policy)
    await world.resolver.apply(names.wanted(policy))
    assert "search default" in await world.host.run("cat", "/etc/resolv.conf")
    assert await world.lookup("web") == ["10.96.0.11"]


async def test_pointers_of_routed_subnets(world: Resolved, names: Names):
    await world.resolver.apply(wanted(names, "shop"))
    assert await world.host.run("getent", "hosts", "10.96.0.1") == (
        "10.96.0.1       kubernetes.default.svc.cluster.local\n"
    )


async def test_a_port_of_ones_own(world: Resolved, names: Names):
    await names.server.start([(OURS, 5300)])
    await world.resolver.apply(replace(wanted(names, "shop"), server=(ip_address(OURS), 5300)))
    assert await world.lookup("web.shop") == ["10.96.0.10"]
    assert f"{OURS}:5300" in await world.host.ctl("status", "inroad0")


@pytest.mark.parametrize("option", ["DNSOverTLS=yes", "DNSSEC=yes", "LLMNR=yes"])
async def test_what_is_on_for_the_whole_host_is_off_for_our_link(names: Names, tmp_path: Path, option: str):
    async with resolved_host(tmp_path, f"DNS={BEFORE}\\n{option}\\n") as host:
        world = Resolved(host, tmp_path)
        await world.open()
        await world.resolver.apply(wanted(names, "shop"))
        assert world.resolver.kind == "systemd-resolved"
        assert await world.lookup("web.shop") == ["10.96.0.10"]
        await world.resolver.close()


async def test_the_fallback_is_what_the_host_asked_before(names: Names, tmp_path: Path):
    options = "DNS=10.99.0.53 10.99.0.54:5454 fd99::53\\n"
    async with resolved_host(tmp_path, options) as host:
        await host.ctl("dns", "up0", "10.99.1.1")
        await host.ctl("default-route", "up0", "true")
        await host.ctl("dns", "inroad0", OURS)
        world = Resolved(host, tmp_path)
        await world.open()
        assert (await world.resolver.host_names()).servers == (
            ("10.99.1.1", 53),
            ("10.99.0.53", 53),
            ("10.99.0.54", 5454),
            ("fd99::53", 53),
        )
        await world.resolver.close()


async def test_a_restart_is_followed(world: Resolved, names: Names):
    await world.resolver.apply(wanted(names, "shop"))
    await world.host.stop_resolved()
    await world.host.start_resolved()

    async def back() -> bool:
        return world.resolver.kind == "systemd-resolved" and await world.lookup("web.shop") == ["10.96.0.10"]

    await until(back)
    await until(lambda: shows(world, "~cluster.local"))
    assert await world.lookup("example.com") == ["192.0.2.1"]


async def shows(world: Resolved, text: str) -> bool:
    return text in await world.host.ctl("status", "inroad0")


async def test_while_it_is_away_the_other_back_end_gives_the_host_all_names(world: Resolved, names: Names):
    await world.resolver.apply(wanted(names, "shop"))
    await world.host.stop_resolved()

    async def taken_over() -> bool:
        return world.resolver.kind == "overriding"

    await until(taken_over)
    assert "does not run any more" in world.resolver.reason
    assert await world.lookup("web.shop") == ["10.96.0.10"]
    assert await world.lookup("web") == ["10.96.0.10"]
    assert await world.lookup("example.com") == ["192.0.2.1"]
    await world.host.start_resolved()

    async def back() -> bool:
        return world.resolver.kind == "systemd-resolved"

    await until(back)
    assert "inroad_dns" not in sh("nft list ruleset")
    assert await world.lookup("web.shop") == ["10.96.0.10"]
    await world.resolver.apply(ResolverConfig())
    assert await world.lookup("example.com") == ["192.0.2.1"]
    assert await world.lookup("web.shop") == []


async def test_the_bus_goes_half_way(world: Resolved, names: Names):
    await world.resolver.apply(wanted(names, "shop"))
    bus = world.host.bus.removeprefix("unix:path=")
    assert Path(bus).exists()
    world.resolver._bus._bus.disconnect()  # what the end of the daemon looks like from here

    async def taken_over() -> bool:
        return world.resolver.kind == "overriding"

    await until(taken_over)
    assert await world.lookup("web.shop") == ["10.96.0.10"]
    assert await world.lookup("example.com") == ["192.0.2.1"]
    await world.resolver.apply(ResolverConfig())
    assert "inroad_dns" not in sh("nft list ruleset")


async def test_names_that_do_not_arrive_are_no_proof(host: ResolvedHost, names: Names, tmp_path: Path):
    """nsswitch.conf asks systemd-resolved, but the module is not installed: programs ask somebody else."""
    await host.run("sh", "-c", f"rm /etc/resolv.conf; echo nameserver {BEFORE} > /etc/resolv.conf")
    await host.run("sh", "-c", "echo 'hosts: resolve dns' > /etc/nsswitch.conf")
    world = Resolved(host, tmp_path)
    await world.open()
    assert world.resolver.kind == "systemd-resolved"
    await world.resolver.apply(wanted(names, "shop"))
    assert world.resolver.kind == "overriding"
    assert "did not arrive" in world.resolver.reason
    assert await world.lookup("web.shop") == ["10.96.0.10"]
    assert await world.lookup("example.com") == ["192.0.2.1"]
    assert not await shows(world, "cluster.local")
    await world.resolver.close()


async def test_a_vpn_that_leads_past_it_and_back(world: Resolved, names: Names):
    """A VPN client replaces resolv.conf, the link to the stub, by a file of its own, and puts it back."""
    changed = asyncio.Event()
    world.resolver.watch(changed.set)
    await world.resolver.apply(wanted(names, "shop"))
    sh(f"ip addr add {AFTER}/32 dev lo")
    async with serving(TableDns({"intranet.corp": ["A 192.0.2.9"]}, soa=False), AFTER, 53):
        await world.host.run("sh", "-c", f"rm /etc/resolv.conf; echo nameserver {AFTER} > /etc/resolv.conf")

        async def taken_over() -> bool:
            return world.resolver.kind == "overriding"

        await until(taken_over)
        assert "leads to systemd-resolved any more" in world.resolver.reason
        found = await world.resolver.host_names()
        assert found.servers == ((AFTER, 53),)
        names.server.set_fallback(found.servers)
        assert await world.lookup("web.shop") == ["10.96.0.10"]
        assert await world.lookup("intranet.corp") == ["192.0.2.9"]
        changed.clear()
        await world.host.run("ln", "-sf", "../run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf")
        await until(lambda: uses(world, "systemd-resolved"))
        await asyncio.wait_for(changed.wait(), 5)
        assert (await world.resolver.host_names()).servers == ((BEFORE, 53),)
        assert await world.lookup("web.shop") == ["10.96.0.10"]
    assert "inroad_dns" not in sh("nft list ruleset")


async def uses(world: Resolved, kind: str) -> bool:
    return world.resolver.kind == kind


async def test_neither_it_nor_a_tool_is_left(world: Resolved, names: Names, monkeypatch):
    """Nothing can lead names to us any more: the host keeps its names, and is told."""
    await world.resolver.apply(wanted(names, "shop"))
    monkeypatch.setattr(world.resolver, "_make_other", none_left)
    await world.host.stop_resolved()
    await until(lambda: uses(world, "none"))
    assert "nor iptables can be used" in world.resolver.reason
    with pytest.raises(ToolMissing):
        await world.resolver.apply(wanted(names, "shop", "dev"))
    await world.host.start_resolved()
    await until(lambda: uses(world, "systemd-resolved"))
    assert await world.lookup("web.shop") == ["10.96.0.10"]
    assert await world.lookup("example.com") == ["192.0.2.1"]


def none_left(why: str) -> Resolver:
    override(Probes("linux"), why)
    raise AssertionError("a tool was found")


async def test_where_nothing_leads_to_it_it_is_left_alone(host: ResolvedHost, tmp_path: Path):
    await host.run("sh", "-c", f"rm /etc/resolv.conf; echo nameserver {BEFORE} > /etc/resolv.conf")
    resolver = await open_resolver(Journal(tmp_path / "journal.json"), places=host.places)
    assert resolver.kind == "overriding"
    await resolver.close()


async def test_a_host_without_a_bus(namespaces: None, tmp_path: Path):
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.53\n")
    places = Places(tmp_path / "resolv.conf", tmp_path / "none", bus=f"unix:path={tmp_path}/none")
    resolver = await open_resolver(Journal(tmp_path / "journal.json"), places=places)
    assert resolver.kind == "overriding"
    assert "does not run" in resolver.reason
    await resolver.close()


async def test_names_that_do_not_change_never_fail_while_others_do(world: Resolved, names: Names):
    """A client asks as fast as it can while namespaces come and go."""
    await world.resolver.apply(wanted(names, "shop"))
    asked = failed = 0
    stop = asyncio.Event()

    async def ask() -> None:
        nonlocal asked, failed
        while not stop.is_set():
            for name in ("web.shop", "web.shop.svc.cluster.local", "example.com"):
                failed += not await resolver_worlds.ask("127.0.0.53", name)
                asked += 1

    clients = [asyncio.create_task(ask()) for _ in range(8)]
    for number in range(40):
        await world.resolver.apply(wanted(names, "shop", *(["dev"] if number % 2 else [])))
        await asyncio.sleep(0.05)
    assert await world.lookup("web.dev") == ["10.96.0.20"]
    stop.set()
    await asyncio.gather(*clients)
    assert asked > 1_000
    assert failed == 0
