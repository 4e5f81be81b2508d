"""Which of the resolver back ends a workstation gets, and why: a pure function of what was probed."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from inroad.core.errors import HostChangeFailed, ToolMissing
from inroad.core.host_config import FWMARK
from inroad.host import run
from inroad.host.journal import Entry, Journal
from inroad.host.resolver.api import Resolver
from inroad.host.resolver.places import Places
from inroad.host.resolver.self_check import Resolve, names_arrive, resolve_as_programs_do

if TYPE_CHECKING:
    from inroad.host.resolver.resolved import Bus


PLACES = Places()

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Probes:
    """What was found on the workstation.

    `resolved_runs`: systemd-resolved is on the system bus. `resolved_asked`: programs do ask it, by its
    stub in resolv.conf or by its module in nsswitch.conf. `nft`: it is there and can own tables.
    """

    platform: str
    resolved_runs: bool = False
    resolved_asked: bool = False
    nft: bool = False
    iptables: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """A back end, its tool where it has several, and the reason for people."""

    kind: str
    tool: str
    reason: str


def choose(probes: Probes) -> Choice:
    """Pick the back end. Raises `HostChangeFailed` or `ToolMissing` where there is none."""
    if probes.platform == "darwin":
        return Choice("macos", "", "macOS reads a file for each domain in /etc/resolver")
    if probes.platform == "win32":
        return Choice("windows", "", "Windows asks the DNS servers of each interface")
    if probes.platform != "linux":
        raise HostChangeFailed(f"names can't be led to inroad on {probes.platform}")
    if probes.resolved_runs and probes.resolved_asked:
        return Choice("systemd-resolved", "", "systemd-resolved is this host's resolver")
    return override(probes, _why_not(probes))


def _why_not(probes: Probes) -> str:
    if not probes.resolved_runs:
        return "systemd-resolved does not run here"
    return "systemd-resolved runs, but neither resolv.conf nor nsswitch.conf leads to it"


def override(probes: Probes, why: str) -> Choice:
    """Pick the overriding resolver's tool; raises `ToolMissing` where there is none."""
    if probes.nft:
        return Choice("overriding", "nft", f"{why}; nft redirects port 53")
    if probes.iptables:
        return Choice(
            "overriding", "iptables", f"{why}, and nft can't own a table; iptables redirects port 53"
        )
    raise ToolMissing(
        f"{why}, and neither nft (with table owners) nor iptables can be used", "apt-get install nftables"
    )


async def open_resolver(
    journal: Journal,
    *,
    interface: str = "inroad0",
    places: Places = PLACES,
    mark: int = FWMARK,
    resolve: Resolve = resolve_as_programs_do,
) -> Resolver:
    """Open the back end that fits this workstation; nothing is changed before `apply`.

    `interface`: the VIF. `resolve`: how the host's programs look names up.
    """
    if sys.platform == "linux":
        return await _open_linux(journal, interface, places, mark, resolve)
    choice = choose(Probes(sys.platform))
    if sys.platform == "win32":
        from inroad.host.resolver.windows import WindowsResolver  # noqa: PLC0415
        from inroad.host.resolver.windows_api import WindowsSettings  # noqa: PLC0415

        return WindowsResolver(journal, WindowsSettings(), reason=choice.reason, interface=interface)
    if choice.kind == "macos":
        from inroad.host.resolver.macos import MacosResolver  # noqa: PLC0415

        return MacosResolver(journal, places, reason=choice.reason)
    raise HostChangeFailed(f"names can't be led to inroad on {sys.platform}")


async def _open_linux(
    journal: Journal,
    interface: str,
    places: Places,
    mark: int,
    resolve: Resolve,
) -> Resolver:
    from inroad.host.resolver import nft  # noqa: PLC0415
    from inroad.host.resolver.iptables import IptablesRedirect  # noqa: PLC0415
    from inroad.host.resolver.overriding import OverridingResolver  # noqa: PLC0415

    asked = places.asks_resolved()
    bus = await _running_resolved(places.bus) if asked else None
    probes = Probes(
        platform="linux",
        resolved_runs=bus is not None,
        resolved_asked=asked,
        nft=await nft.can_own(),
        iptables=run.tool("iptables-restore") is not None,
    )

    def overriding(why: str) -> Resolver:
        choice = override(probes, why)
        redirect = nft.NftRedirect() if choice.tool == "nft" else IptablesRedirect(journal)
        return OverridingResolver(redirect, places, reason=choice.reason, mark=mark)

    choice = choose(probes)
    log.info("resolver chosen", kind=choice.kind, tool=choice.tool, reason=choice.reason)
    if bus is None:
        return overriding(_why_not(probes))
    from inroad.host.resolver.adaptive import AdaptiveResolver  # noqa: PLC0415
    from inroad.host.resolver.resolved import ResolvedResolver  # noqa: PLC0415

    first = ResolvedResolver(bus, reason=choice.reason, interface=interface)
    resolver = AdaptiveResolver(first, bus, overriding, places, lambda wanted: names_arrive(wanted, resolve))
    await resolver.start()
    return resolver


async def _running_resolved(address: str | None) -> Bus | None:
    """Connect to the bus that systemd-resolved is on, None where it is not."""
    from inroad.host.resolver.resolved import Bus  # noqa: PLC0415 - only hosts that have it pay for it

    try:
        bus = await Bus.connect(address)
    except OSError as error:
        log.debug("no system bus", problem=str(error))
        return None
    with contextlib.suppress(HostChangeFailed):
        if await bus.owned():
            return bus
    bus.close()
    return None


async def undo(entry: Entry) -> str:
    """Undo what a crashed daemon announced in the journal; see `inroad.host.cleanup`."""
    from inroad.host.resolver import iptables, macos, windows  # noqa: PLC0415

    match entry.kind:
        case iptables.KIND:
            return await iptables.undo(entry)
        case macos.KIND:
            return await macos.undo(entry)
        case windows.KIND if sys.platform == "win32":
            from inroad.host.resolver.windows_api import WindowsSettings  # noqa: PLC0415

            return await windows.undo(entry, WindowsSettings())
    raise HostChangeFailed(f"nobody knows how to undo {entry.kind}")
