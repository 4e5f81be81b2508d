"""The daemon of a Mac, as far as Linux can be one: run in a sandbox's workstation by test_story_macos.

A utun, `ifconfig`, `route` and `netstat` are fakes that do with Linux what they do on a Mac. No socket has a
mark. Names: the resolver writes its files, and this program leads the C library to the server that they name.
The rest is the daemon.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from inroad.host import choose as host_choose

host_choose.OWN_MARK, host_choose.ROUTES_IN = 0, "main"  # before anybody takes it

from foreign_stage import FakeMac, Shell  # noqa: E402
from vif_stage import ip  # noqa: E402

from inroad.core.host_config import ResolverConfig  # noqa: E402
from inroad.host.journal import Journal  # noqa: E402
from inroad.host.resolver import choose as resolver_choose  # noqa: E402
from inroad.host.resolver.macos import MacosResolver  # noqa: E402
from inroad.host.resolver.places import Places  # noqa: E402
from inroad.host.routes import choose as routes_choose  # noqa: E402
from inroad.host.routes.commands import CommandRoutes  # noqa: E402
from inroad.host.routes.macos import MacRoutes  # noqa: E402
from inroad.host.routes.watching import watch_output  # noqa: E402
from inroad.host.run import Completed  # noqa: E402
from inroad.host.vif import choose as vif_choose  # noqa: E402
from inroad.host.vif.api import Vif, VifConfig, VifEvents  # noqa: E402
from inroad.host.vif.one_device import begin  # noqa: E402
from inroad.host.vif.utun import open_macos  # noqa: E402

STATE = Path("/run/inroad-mac")
RESOLV_CONF = Path("/etc/resolv.conf")


class MacShell(Shell):
    """Knows `route delete`, gateways, and what `netstat -rn` prints, too. Writes every command to a file."""

    async def __call__(self, argv: Sequence[str]) -> Completed:
        if argv[0].endswith("netstat"):
            return Completed(tuple(argv), 0, netstat(argv[-1]), "")
        with (STATE / "commands").open("a") as file:
            file.write(" ".join(argv) + "\n")
        return await super().__call__(argv)

    def act(self, argv: list[str]) -> None:
        match argv:
            case ["/sbin/route", "-n", verb, _, "-net", network, "-interface", name]:
                ip("route", {"delete": "del"}.get(verb, verb), network, "dev", name)
            case ["/sbin/route", "-n", verb, _, "-net", network, gateway]:
                ip("route", {"delete": "del"}.get(verb, verb), network, "via", gateway)
            case _:
                super().act(argv)


def netstat(family: str) -> str:
    """The routing table of one family, in a Mac's words."""
    lines = ["Destination        Gateway            Flags               Netif Expire"]
    for route in json.loads(ip("-6" if family == "inet6" else "-4", "-j", "route")):
        network = route["dst"]
        if network != "default" and "/" not in network:
            network += "/128" if family == "inet6" else "/32"
        gateway = route.get("gateway", "link#4")
        if network == "default" or not network.startswith("fe80"):
            lines.append(
                f"{network:20} {gateway:20} {'UGSc' if 'gateway' in route else 'UCS'} {route['dev']}"
            )
    return "\n".join(lines)


class LinuxMac(MacosResolver):
    """Linux's C library knows no /etc/resolver: it is shown the same server."""

    async def apply(self, wanted: ResolverConfig) -> None:
        await super().apply(wanted)
        if wanted.server is None:
            RESOLV_CONF.write_text((STATE / "resolv.conf").read_text())
            return
        search = " ".join((*wanted.search, "inroad.local"))
        RESOLV_CONF.write_text(f"nameserver {wanted.server[0]}\nsearch {search}\noptions ndots:1\n")


shell = MacShell()


async def open_vif(config: VifConfig, events: VifEvents, journal: Journal | None = None) -> Vif:
    return await begin(await open_macos(config, FakeMac(), shell), config, events, "utun", "as on macOS")


async def open_routes(journal: Journal) -> CommandRoutes:
    monitor = partial(watch_output, ("ip", "monitor", "route", "link"))
    return CommandRoutes(journal, MacRoutes(), shell, monitor)


async def open_resolver(journal: Journal) -> MacosResolver:
    places = Places(resolv_conf=STATE / "resolv.conf", macos_directory=STATE / "resolver")
    return LinuxMac(journal, places, reason="as on macOS")


if __name__ == "__main__":
    STATE.mkdir(exist_ok=True)
    (STATE / "resolv.conf").write_text(RESOLV_CONF.read_text())
    vif_choose.open_vif = open_vif
    routes_choose.open_routes = open_routes
    resolver_choose.open_resolver = open_resolver
    from inroad.daemon.main import main

    sys.exit(main(sys.argv[1:]))
