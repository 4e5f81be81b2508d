"""One suite for all resolver back ends: what a program on the workstation sees, whatever the system."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration import resolver_worlds
from tests.integration.names_stage import TableDns, private_network, serving, sh
from tests.integration.resolver_worlds import AFTER, BEFORE, Macos, Names, Windows, World

from inroad.core.host_config import ResolverConfig
from inroad.host import run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")
FLUSHES = ("flush-cache", "flushcache", "flushdns", "killall", "nscd", "restart", "clear-dnsclientcache")
KINDS = ["systemd-resolved", "nft", "iptables", "macos", "windows"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every program that is started through `host.run`."""
    seen: list[list[str]] = []
    for name in ("run", "run_async", "spawn"):
        original = getattr(run, name)

        def recorded(argv, *args, original=original, **kwargs):
            seen.append(list(argv))
            return original(argv, *args, **kwargs)

        monkeypatch.setattr(run, name, recorded)
    return seen


@pytest.fixture
def namespaces():
    with private_network():
        resolver_worlds.network()
        yield


@pytest.fixture
async def stage(kind: str, namespaces: None, tmp_path: Path) -> AsyncIterator[tuple[World, Names]]:
    async with (
        resolver_worlds.names(tmp_path, ((BEFORE, 53),)) as names,
        resolver_worlds.world(kind, tmp_path) as world,
    ):
        assert (await world.resolver.host_names()).servers == ((BEFORE, 53),)
        yield world, names


async def apply(
    world: World,
    names: Names,
    *namespaces: str,
    include: tuple[str, ...] = ("private",),
    attached: tuple[str, ...] = (),
) -> None:
    policy = names.policy(*namespaces, include=include, attached=attached)
    names.server.configure(policy)
    await world.resolver.apply(names.wanted(policy))


async def test_applied(stage, kind):
    world, names = stage
    assert await world.lookup("example.com") == ["192.0.2.1"]
    assert await world.lookup("web.shop") == []
    await apply(world, names, "shop")
    expected = {"nft": "overriding", "iptables": "overriding"}.get(kind, kind)
    assert world.resolver.kind == expected, world.resolver.reason
    assert world.resolver.reason
    assert await world.lookup("web") == ["10.96.0.10"]
    assert await world.lookup("web.shop") == ["10.96.0.10"]
    assert await world.lookup("web.shop.svc") == ["10.96.0.10"]
    assert await world.lookup("web.shop.svc.cluster.local") == ["10.96.0.10"]
    assert await world.lookup("db.private") == ["10.9.9.9"]
    assert await world.lookup("example.com") == ["192.0.2.1"]
    assert await world.lookup("nothing.shop.svc.cluster.local") == []


async def test_a_namespace_added_and_a_suffix_removed(stage):
    world, names = stage
    await apply(world, names, "shop")
    assert await world.lookup("web.dev") == ["192.0.2.66"]
    await apply(world, names, "shop", "dev", include=())
    assert await world.lookup("web.dev") == ["10.96.0.20"]
    assert await world.lookup("pkg.go.dev") == ["192.0.2.2"]
    assert await world.lookup("shopify.dev") == ["192.0.2.4"]
    assert await world.lookup("db.private") == ["192.0.2.9"]
    assert await world.lookup("web.shop") == ["10.96.0.10"]


async def test_attached_to_another_namespace_and_detached(stage):
    """Its names without dots are found behind those of the connected namespace, as long as it lasts."""
    world, names = stage
    await apply(world, names, "shop", "default")
    assert await world.lookup("kubernetes") == []
    await apply(world, names, "shop", "default", attached=("default",))
    assert await world.lookup("kubernetes") == ["10.96.0.1"]
    assert await world.lookup("web") == ["10.96.0.10"]
    assert await world.lookup("nothing") == []
    await apply(world, names, "shop", "default")
    assert await world.lookup("kubernetes") == []
    assert await world.lookup("web") == ["10.96.0.10"]


async def test_another_network(stage, kind):
    """The workstation gets other name servers: we hear of it, ask those, and are still asked ourselves."""
    world, names = stage
    await apply(world, names, "shop")
    told = asyncio.Event()
    world.resolver.watch(told.set)
    sh(f"ip addr add {AFTER}/32 dev lo")
    async with serving(TableDns({"intranet.corp": ["A 192.0.2.9"]}, soa=False), AFTER, 53):
        await world.move(AFTER, "new.example")
        if kind != "windows":  # there it is the interfaces that tell
            async with asyncio.timeout(5):
                await told.wait()
        found = await world.resolver.host_names()
        assert found.servers[0] == (AFTER, 53)
        assert "new.example" in found.search
        assert not {"shop", "only.routed"} & set(found.search)
        names.server.set_fallback(found.servers)
        await apply(world, names, "shop")
        assert await world.lookup("intranet.corp") == ["192.0.2.9"]
        assert await world.lookup("web") == ["10.96.0.10"]
        assert await world.lookup("web.shop") == ["10.96.0.10"]
        await world.resolver.apply(ResolverConfig())
        assert await world.lookup("intranet.corp") == ["192.0.2.9"]
        assert await world.lookup("web.shop") == []


async def test_twice_is_once(stage, commands):
    world, names = stage
    await apply(world, names, "shop")
    settings = await world.settings()
    commands.clear()
    await apply(world, names, "shop")
    assert await world.settings() == settings
    assert commands == []


async def test_removed(stage):
    world, names = stage
    before = await world.settings()
    await apply(world, names, "shop", "dev")
    assert await world.settings() != before
    await world.resolver.apply(ResolverConfig())
    await world.resolver.apply(ResolverConfig())
    assert significant(await world.settings()) == significant(before)
    assert await world.lookup("web.dev") == ["192.0.2.66"]
    assert await world.lookup("web.shop.svc.cluster.local") == []
    assert await world.lookup("example.com") == ["192.0.2.1"]


def significant(settings: str) -> list[str]:
    """iptables leaves its empty tables and chains behind: they do nothing."""
    noise = ("table ", "chain ", "type ", "}", "*", "COMMIT", "#")
    return [line for line in map(str.strip, settings.splitlines()) if line and not line.startswith(noise)]


async def test_after_a_crash(stage):
    world, names = stage
    before = await world.settings()
    await apply(world, names, "shop", "dev")
    await world.crash()
    assert await world.lookup("example.com") == ["192.0.2.1"]
    await apply(world, names, "shop")
    assert await world.lookup("web.shop") == ["10.96.0.10"]
    assert await world.lookup("web.dev") == ["192.0.2.66"]
    await world.resolver.apply(ResolverConfig())
    assert significant(await world.settings()) == significant(before)


async def test_the_hosts_caches_are_never_flushed(stage, commands):
    world, names = stage
    await apply(world, names, "shop")
    await apply(world, names, "shop", "dev")
    await world.resolver.close()
    for argv in commands:
        words = " ".join(argv).lower()
        assert not any(
            bad in words for bad in ("flush-cache", "flushcache", "flushdns", "killall", "nscd", "restart")
        )


@pytest.mark.parametrize("kind", ["macos"])
async def test_the_exact_files_of_macos(stage, kind):
    world, names = stage
    assert isinstance(world, Macos)
    await apply(world, names, "shop")
    head = "# Made by inroad and removed when it disconnects.\n"
    server = "nameserver 10.99.0.1\nport 53\n"
    assert world.files() == {
        "corp.example": "nameserver 192.0.2.200\n",
        "inroad.cluster.local": f"{head}domain cluster.local\n{server}",
        "inroad.local": f"{head}domain inroad.local\nsearch shop\n{server}",
        "inroad.private": f"{head}domain private\n{server}",
        "inroad.shop": f"{head}domain shop\n{server}",
        "inroad.svc": f"{head}domain svc\n{server}",
    }
    await world.resolver.close()
    assert world.files() == {"corp.example": "nameserver 192.0.2.200\n"}


@pytest.mark.parametrize("kind", ["windows"])
async def test_the_exact_calls_on_windows(stage, kind):
    world, names = stage
    assert isinstance(world, Windows)
    await apply(world, names, "shop")
    await apply(world, names, "shop", "dev")
    world.os.set_search_list(("new.example", *world.os.search))  # somebody else, meanwhile
    await world.resolver.close()
    assert world.os.calls == [
        "SetInterfaceDnsSettings('inroad0', NameServer='10.99.0.1', Domain='shop')",
        "SetDnsSettings(SearchList='shop,corp.example,lan.example')",
        "SetDnsSettings(SearchList='new.example,shop,corp.example,lan.example')",
        "SetInterfaceDnsSettings('inroad0', NameServer='', Domain='')",
        "SetDnsSettings(SearchList='new.example,corp.example,lan.example')",
    ]
