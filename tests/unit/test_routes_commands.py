"""Routes on macOS and Windows as the commands that are run, against systems made of text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from inroad.core.errors import HostChangeFailed
from inroad.core.host_config import Network, RouteConfig
from inroad.host.journal import Journal
from inroad.host.routes.commands import CommandRoutes, RouteCommands, undo
from inroad.host.routes.macos import MacRoutes
from inroad.host.routes.windows import LIST, WindowsRoutes
from inroad.host.run import Completed

MAC_INET = """Routing tables

Internet:
Destination        Gateway            Flags               Netif Expire
default            192.168.7.1        UGScg                 en0
default            link#18            UCSIg             bridge100      !
10.8/16            10.8.0.1           UGSc                utun3
127                127.0.0.1          UCS                   lo0
127.0.0.1          127.0.0.1          UH                    lo0
169.254            link#12            UCS                   en0      !
172.16.5/24        link#20            UC                 vmnet1      !
192.168.7          link#12            UCS                   en0      !
192.168.7.1/32     link#12            UCS                   en0      !
192.168.7.1        a4:5e:60:c1:2:3    UHLWIir               en0   1187
224.0.0/4          link#12            UmCS                  en0      !
255.255.255.255/32 link#12            UCS                   en0      !
"""
MAC_INET6 = """Routing tables

Internet6:
Destination                             Gateway                         Flags               Netif Expire
default                                 fe80::1%en0                     UGcg                  en0
default                                 fe80::%utun0                    UGcIg               utun0
::1                                     ::1                             UHL                   lo0
2001:db8::/64                           link#12                         UC                    en0
fe80::%en0/64                           link#12                         UCI                   en0
fe80::1%en0                             a4:5e:60:c1:2:3                 UHLWIir               en0
ff00::/8                                ::1                             UmCI                  lo0
"""


def windows_rows(*more: tuple[str, str, str, int]) -> str:
    rows = [
        ("0.0.0.0/0", "192.168.7.1", "Wi-Fi", 35),
        ("0.0.0.0/0", "10.8.0.1", "VPN", 300),
        ("10.8.0.0/16", "10.8.0.1", "VPN", 1),
        ("127.0.0.0/8", "0.0.0.0", "Loopback Pseudo-Interface 1", 331),
        ("192.168.7.0/24", "0.0.0.0", "Wi-Fi", 291),
        ("192.168.7.2/32", "0.0.0.0", "Wi-Fi", 291),
        ("224.0.0.0/4", "0.0.0.0", "Wi-Fi", 291),
        ("::/0", "fe80::1", "Wi-Fi", 51),
        ("2001:db8::/64", "::", "Wi-Fi", 51),
        *more,
    ]
    names = ("DestinationPrefix", "NextHop", "InterfaceAlias", "Metric")
    return json.dumps([dict(zip(names, row, strict=True)) for row in rows])


GATEWAYS = {"192.168.7.1": "en0", "192.168.7.254": "en0", "10.8.0.1": "utun3"}


class System:
    """An operating system: prints its routes and those that were added, notes the commands, refuses some."""

    def __init__(self, *listings: str) -> None:
        self.listings = list(listings)
        self.added: dict[str, tuple[str, str]] = {}  # interface and gateway by network
        self.calls: list[str] = []
        self.refuse: tuple[str, ...] = ()

    async def run(self, argv: Sequence[str]) -> Completed:
        program = argv[0].rpartition("/")[2].rpartition("\\")[2]
        if program == "netstat":
            six = argv[-1] == "inet6"
            lines = [
                f"{n} {g or 'link#9'} {'UGSc' if g else 'UCS'} {i}\n" for n, (i, g) in self.added.items()
            ]
            text = self.listings[six] + "".join(line for line in lines if (":" in line.split()[0]) == six)
            return Completed(tuple(argv), 0, text, "")
        if program == "powershell.exe":
            assert argv[-1] == LIST
            names = ("DestinationPrefix", "NextHop", "InterfaceAlias", "Metric")
            rows = [(n, g or ("::" if ":" in n else "0.0.0.0"), i, 0) for n, (i, g) in self.added.items()]
            listed = json.loads(self.listings[0]) + [dict(zip(names, row, strict=True)) for row in rows]
            return Completed(tuple(argv), 0, json.dumps(listed), "")
        self.calls.append(" ".join([program, *argv[1:]]))
        if any(word in self.calls[-1] for word in self.refuse):
            return Completed(tuple(argv), 1, "", "Zugriff verweigert\n")
        self.act(list(argv))
        return Completed(tuple(argv), 0, "", "")

    def act(self, argv: list[str]) -> None:
        words = dict(word.split("=", 1) for word in argv if "=" in word)
        if "-net" in argv:
            network, where = argv[5], argv[6:]
            way = (where[1], "") if len(where) == 2 else (GATEWAYS[where[0]], where[0])
        else:
            network, way = words["prefix"], (words["interface"], words.get("nexthop", ""))
        if "add" in argv:
            self.added[network] = way
        else:
            self.added.pop(network, None)

    def said(self) -> list[str]:
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def mac(journal: Journal) -> tuple[System, CommandRoutes]:
    system = System(MAC_INET, MAC_INET6)
    return system, CommandRoutes(journal, MacRoutes(), system.run)


def windows(journal: Journal) -> tuple[System, CommandRoutes]:
    system = System(windows_rows())
    return system, CommandRoutes(journal, WindowsRoutes(), system.run)


def nets(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


WANTED = RouteConfig(
    "utun9", nets("10.96.0.0/16", "10.8.4.0/22", "fd00:10:96::/112"), nets("10.96.7.0/24", "10.8.4.9/32")
)


async def test_mac_commands(journal: Journal) -> None:
    system, routes = mac(journal)
    await routes.apply(WANTED)
    assert system.said() == [
        "route -n add -inet -net 10.96.7.0/24 192.168.7.1",
        "route -n add -inet -net 10.8.4.9/32 10.8.0.1",
        "route -n add -inet -net 10.96.0.0/16 -interface utun9",
        "route -n add -inet -net 10.8.4.0/22 -interface utun9",
        "route -n add -inet6 -net fd00:10:96::/112 -interface utun9",
    ]
    await routes.apply(WANTED)
    assert system.said() == []
    await routes.apply(replace(WANTED, subnets=nets("10.96.0.0/16"), never=nets("10.96.7.0/24")))
    assert system.said() == [
        "route -n delete -inet -net 10.8.4.9/32 10.8.0.1",
        "route -n delete -inet -net 10.8.4.0/22 -interface utun9",
        "route -n delete -inet6 -net fd00:10:96::/112 -interface utun9",
    ]
    await routes.apply(RouteConfig())
    assert system.said() == [
        "route -n delete -inet -net 10.96.7.0/24 192.168.7.1",
        "route -n delete -inet -net 10.96.0.0/16 -interface utun9",
    ]
    assert journal.pending() == []


async def test_never_proxy_follows_a_new_gateway(journal: Journal) -> None:
    system = System(MAC_INET, MAC_INET6)
    changed: list[Callable[[], None]] = []

    def watcher(on_change: Callable[[], None]) -> Callable[[], None]:
        changed.append(on_change)
        return changed.clear

    routes = CommandRoutes(journal, MacRoutes(), system.run, watcher)
    told = asyncio.Event()
    routes.watch(told.set)
    await routes.apply(WANTED)
    system.said()
    system.listings[0] = MAC_INET.replace("192.168.7.1        UGScg", "192.168.7.254      UGScg")
    changed[0]()
    await told.wait()
    assert system.said() == [
        "route -n delete -inet -net 10.96.7.0/24 192.168.7.1",
        "route -n add -inet -net 10.96.7.0/24 192.168.7.254",
    ]
    await routes.close()
    assert changed == []


@pytest.mark.parametrize("make", [mac, windows])
async def test_what_somebody_removes_is_put_back_and_nothing_else(journal: Journal, make: object) -> None:
    system, routes = make(journal)  # type: ignore[operator]
    told = asyncio.Event()
    routes.watch(told.set)
    await routes.apply(WANTED)
    commands = system.said()
    del system.added["10.96.0.0/16"], system.added["10.96.7.0/24"]
    routes._host_changed()
    await told.wait()
    assert system.said() == [one for one in commands if "10.96.0.0/16" in one or "10.96.7.0/24" in one]
    told.clear()
    routes._host_changed()
    await told.wait()
    assert system.said() == []
    assert len(journal.pending()) == 5, "each is announced once"
    await routes.apply(RouteConfig())
    assert (system.added, journal.pending()) == ({}, [])


async def test_a_route_that_can_not_be_put_back_is_tried_again(journal: Journal) -> None:
    system, routes = mac(journal)
    told = asyncio.Event()
    routes.watch(told.set)
    await routes.apply(WANTED)
    system.added.clear()
    system.refuse = ("add",)
    for expected in (5, 5):
        system.said()
        told.clear()
        routes._host_changed()
        await told.wait()
        assert len(system.said()) == expected
    system.refuse = ()
    told.clear()
    routes._host_changed()
    await told.wait()
    assert len(system.added) == 5
    await routes.close()


async def test_windows_commands(journal: Journal) -> None:
    system, routes = windows(journal)
    await routes.apply(replace(WANTED, interface="inroad0"))
    assert system.said() == [
        f"netsh.exe interface {words} metric=0 store=active"
        for words in (
            "ipv4 add route prefix=10.96.7.0/24 interface=Wi-Fi nexthop=192.168.7.1",
            "ipv4 add route prefix=10.8.4.9/32 interface=VPN nexthop=10.8.0.1",
            "ipv4 add route prefix=10.96.0.0/16 interface=inroad0",
            "ipv4 add route prefix=10.8.4.0/22 interface=inroad0",
            "ipv6 add route prefix=fd00:10:96::/112 interface=inroad0",
        )
    ]
    await routes.apply(RouteConfig())
    assert len(system.said()) == 5


async def test_host_routes(journal: Journal) -> None:
    _, routes = mac(journal)
    assert [str(route) for route in await routes.host_routes()] == [
        "0.0.0.0/0 via 192.168.7.1 dev en0 table main",
        "10.8.0.0/16 via 10.8.0.1 dev utun3 table main",
        "169.254.0.0/16 dev en0 table main",
        "172.16.5.0/24 dev vmnet1 table main",
        "192.168.7.0/24 dev en0 table main",
        "192.168.7.1/32 dev en0 table main",
        "255.255.255.255/32 dev en0 table main",
        "::/0 via fe80::1 dev en0 table main",
        "2001:db8::/64 dev en0 table main",
    ]
    _, routes = windows(journal)
    assert [str(route) for route in await routes.host_routes()] == [
        "0.0.0.0/0 via 192.168.7.1 dev Wi-Fi table main",
        "10.8.0.0/16 via 10.8.0.1 dev VPN table main",
        "192.168.7.0/24 dev Wi-Fi table main",
        "::/0 via fe80::1 dev Wi-Fi table main",
        "2001:db8::/64 dev Wi-Fi table main",
    ]


@pytest.mark.parametrize("make", [mac, windows])
async def test_a_refused_route_takes_the_others_back(journal: Journal, make: object) -> None:
    system, routes = make(journal)  # type: ignore[operator]
    system.refuse = ("10.8.4.0/22",)
    with pytest.raises(HostChangeFailed, match=r"10\.8\.4\.0/22.* failed: Zugriff verweigert"):
        await routes.apply(WANTED)
    added = [call for call in system.calls if " add " in call and "10.8.4.0/22" not in call]
    removed = [call for call in system.calls if " delete " in call]
    assert len(added) == len(removed) == 3
    assert journal.pending() == []


@pytest.mark.parametrize(
    ("commands", "listings"), [(MacRoutes(), (MAC_INET, MAC_INET6)), (WindowsRoutes(), (windows_rows(),))]
)
async def test_after_a_crash_each_route_is_removed_once(
    journal: Journal, tmp_path: Path, commands: RouteCommands, listings: tuple[str, ...]
) -> None:
    system = System(*listings)
    await CommandRoutes(journal, commands, system.run).apply(WANTED)
    left = Journal(tmp_path / "journal").pending()
    assert len(left) == 5
    system.said()
    lines = [await undo(entry, commands, system.run) for entry in left]
    assert lines[-1] == "removed the route fd00:10:96::/112 dev utun9"
    assert len(system.said()) == 5
    system.refuse = ("delete",)
    assert await undo(left[-1], commands, system.run) == "", "it is not in the list: nothing to remove"
    stuck = next(entry for entry in left if entry.data["network"] == "10.8.4.9/32")
    if commands.name == "windows":
        system.listings = [
            windows_rows(("10.8.4.9/32", "10.8.0.1", "utun3", 1), ("10.8.4.9/32", "10.8.0.1", "VPN", 0))
        ]
    else:
        system.listings[0] += "10.8.4.9/32        10.8.0.1           UGSc                utun3\n"
    with pytest.raises(HostChangeFailed, match="Zugriff verweigert"):
        await undo(stuck, commands, system.run)
