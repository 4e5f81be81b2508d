"""The daemon of a Mac or of Windows, as far as Linux can be one; test_story_foreign runs it in a sandbox.

Devices, commands and settings are fakes that do with Linux what they do there, and write down what they are
asked. No socket has a mark. Names: the resolver does its part, and this program leads the C library to the
server that it names. On "Windows" the local API is in a second event loop. The rest is the daemon.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from inroad.host.routes import choose as routes_choose

routes_choose.OWN_MARK, routes_choose.ROUTES_IN = 0, "main"  # before anybody takes it

from foreign_stage import FakeMac, FakeWaits, FakeWintun, Shell  # noqa: E402
from side_listener import listen_on  # noqa: E402
from vif_stage import ip  # noqa: E402

from inroad.core.host_config import ResolverConfig  # noqa: E402
from inroad.host.journal import Journal  # noqa: E402
from inroad.host.resolver import choose as resolver_choose  # noqa: E402
from inroad.host.resolver.macos import MacosResolver  # noqa: E402
from inroad.host.resolver.places import Places  # noqa: E402
from inroad.host.resolver.windows import WindowsResolver  # noqa: E402
from inroad.host.routes.commands import CommandRoutes  # noqa: E402
from inroad.host.routes.macos import MacRoutes  # noqa: E402
from inroad.host.routes.watching import watch_output  # noqa: E402
from inroad.host.routes.windows import WindowsRoutes  # noqa: E402
from inroad.host.run import Completed  # noqa: E402
from inroad.host.vif import choose as vif_choose  # noqa: E402
from inroad.host.vif.api import Vif, VifConfig, VifEvents  # noqa: E402
from inroad.host.vif.one_device import begin  # noqa: E402
from inroad.host.vif.utun import open_macos  # noqa: E402
from inroad.host.vif.wintun_setup import open_windows  # noqa: E402

STATE = Path("/run/inroad-foreign")
RESOLV_CONF, BEFORE = Path("/etc/resolv.conf"), STATE / "resolv.conf"


def host_routes(family: str) -> list[tuple[str, str, str]]:
    """Every route of Linux's main table: network, gateway or "", interface."""
    found = []
    for route in json.loads(ip(family, "-j", "route")):
        network = {"default": "0.0.0.0/0" if family == "-4" else "::/0"}.get(route["dst"], route["dst"])
        found.append((str(ip_network(network)), route.get("gateway", ""), route["dev"]))
    return found


def lead_to(server: str, search: Sequence[str]) -> None:
    """Have the C library ask this server first, as the other system would."""
    RESOLV_CONF.write_text(f"nameserver {server}\nsearch {' '.join(search)}\noptions ndots:1\n")


class HostShell(Shell):
    """Removes routes, knows gateways and lists the host's routes, too. Writes every command to a file."""

    async def __call__(self, argv: Sequence[str]) -> Completed:
        if argv[0].endswith("netstat"):
            return Completed(tuple(argv), 0, self.netstat(argv[-1]), "")
        if argv[0].endswith("powershell.exe"):
            return Completed(tuple(argv), 0, self.get_net_route(), "")
        with (STATE / "commands").open("a") as file:
            file.write(" ".join(argv) + "\n")
        return await super().__call__(argv)

    def act(self, argv: list[str]) -> None:
        words = dict(word.split("=", 1) for word in argv if "=" in word)
        match argv:
            case ["/sbin/route", "-n", verb, _, "-net", network, *where]:
                way = ("via", where[0]) if len(where) == 1 else ("dev", where[1])
                ip("route", {"delete": "del"}.get(verb, verb), network, *way)
            case [_, "interface", _, "add" | "delete" as verb, "route", *_]:
                way = ("via", words["nexthop"]) if "nexthop" in words else ()
                ip("route", verb, words["prefix"], *way, "dev", words["interface"])
            case _:
                super().act(argv)

    def netstat(self, family: str) -> str:
        lines = ["Destination        Gateway            Flags               Netif Expire"]
        for network, gateway, device in host_routes("-6" if family == "inet6" else "-4"):
            name = "default" if network in ("0.0.0.0/0", "::/0") else network
            lines.append(f"{name:20} {gateway or 'link#4':20} {'UGSc' if gateway else 'UCS'} {device}")
        return "\n".join(lines)

    def get_net_route(self) -> str:
        names = ("DestinationPrefix", "NextHop", "InterfaceAlias", "Metric")
        rows = [
            (network, gateway or ("::" if family == "-6" else "0.0.0.0"), device, 25)
            for family in ("-4", "-6")
            for network, gateway, device in host_routes(family)
        ]
        return json.dumps([dict(zip(names, row, strict=True)) for row in rows])


shell = HostShell()


class MacNames(MacosResolver):
    async def apply(self, wanted: ResolverConfig) -> None:
        await super().apply(wanted)
        if wanted.server is None:
            RESOLV_CONF.write_text(BEFORE.read_text())
        else:
            lead_to(str(wanted.server[0]), (*wanted.search, "inroad.local"))


class WindowsNames:
    """See `DnsSettings`; Windows asks the servers of the interface with the lowest metric first."""

    search = ("office.example",)

    def set_interface(self, alias: str, servers: tuple[str, ...], domain: str) -> None:
        if servers:
            lead_to(servers[0], (domain, *self.search))
        else:
            RESOLV_CONF.write_text(BEFORE.read_text())

    def search_list(self) -> tuple[str, ...]:
        return self.search

    def set_search_list(self, domains: tuple[str, ...]) -> None:
        self.search = domains

    def servers(self, without: str) -> tuple[str, ...]:
        lines = map(str.split, BEFORE.read_text().splitlines())
        return tuple(words[1] for words in lines if words[:1] == ["nameserver"])


async def open_vif(config: VifConfig, events: VifEvents, journal: Journal | None = None) -> Vif:
    if SYSTEM == "macos":
        return await begin(await open_macos(config, FakeMac(), shell), config, events, "utun", "as there")
    wintun = FakeWintun()
    opened = await open_windows(config, wintun.library(), FakeWaits(wintun), shell, journal)
    return await begin(opened, config, events, "wintun", "as there")


async def open_routes(journal: Journal) -> CommandRoutes:
    monitor = partial(watch_output, ("ip", "monitor", "route", "link"))
    commands = MacRoutes() if SYSTEM == "macos" else WindowsRoutes()
    return CommandRoutes(journal, commands, shell, monitor)


async def open_resolver(journal: Journal) -> Any:
    if SYSTEM == "macos":
        places = Places(resolv_conf=BEFORE, macos_directory=STATE / "resolver")
        return MacNames(journal, places, reason="as there")
    return WindowsResolver(journal, WindowsNames(), reason="as there", interface="inroad0")


async def open_endpoint(runner: Any, path: Path, owner: str, group: str) -> Any:
    """A second event loop has the connections, of a socket in the pipe's place."""
    from inroad.daemon.choose import caller
    from inroad.daemon.side_loop import SideLoop

    side = SideLoop(asyncio.SelectorEventLoop, listen_on(path, int(owner)), caller)
    await side.start(runner.server)
    return side.close


if __name__ == "__main__":
    SYSTEM = sys.argv[1]
    STATE.mkdir(exist_ok=True)
    BEFORE.write_text(RESOLV_CONF.read_text())
    vif_choose.open_vif = open_vif
    routes_choose.open_routes = open_routes
    resolver_choose.open_resolver = open_resolver
    from inroad.daemon import local_api
    from inroad.daemon.main import main

    if SYSTEM == "windows":
        local_api.open_endpoint = open_endpoint
        local_api.caller = lambda transport: transport.get_extra_info("caller")
    sys.exit(main(sys.argv[2:]))
