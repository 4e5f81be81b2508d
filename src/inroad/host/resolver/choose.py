"""Which of the resolver back ends a workstation gets, and why: a pure function of what was probed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from inroad.core import resolv_conf
from inroad.core.errors import HostChangeFailed, ToolMissing
from inroad.core.host_config import FWMARK
from inroad.host import run
from inroad.host.journal import Entry, Journal
from inroad.host.resolver.api import Resolver, Server

RESOLV_CONF = Path("/etc/resolv.conf")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Probes:
    """What was found on the workstation."""

    platform: str
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
    if probes.platform != "linux":
        raise HostChangeFailed(f"names can't be led to inroad on {probes.platform}")
    if probes.nft:
        return Choice("overriding", "nft", "systemd-resolved does not run here; nft redirects port 53")
    if probes.iptables:
        return Choice(
            "overriding",
            "iptables",
            "systemd-resolved does not run here, nor is there nft; iptables redirects",
        )
    raise ToolMissing("neither nft nor iptables is installed", "apt-get install nftables")


def probe() -> Probes:
    """Look at the workstation."""
    return Probes(
        platform=sys.platform,
        nft=run.tool("nft") is not None,
        iptables=run.tool("iptables-restore") is not None,
    )


async def open_resolver(
    journal: Journal,
    *,
    preferred: Sequence[Server] = (),
    path: Path = RESOLV_CONF,
    mark: int = FWMARK,
) -> Resolver:
    """Open the back end that fits this workstation; nothing is changed before `apply`.

    `preferred`: the fallback servers that the user named (`--dns`, else `dns.localAddresses`).
    """
    choice = choose(probe())
    log.info("resolver chosen", kind=choice.kind, tool=choice.tool, reason=choice.reason)
    if sys.platform == "linux":
        return _overriding(choice, journal, preferred, path, mark)
    raise HostChangeFailed(f"names can't be led to inroad on {sys.platform}")


def _overriding(
    choice: Choice, journal: Journal, preferred: Sequence[Server], path: Path, mark: int
) -> Resolver:
    from inroad.host.resolver.iptables import IptablesRedirect  # noqa: PLC0415
    from inroad.host.resolver.nft import NftRedirect  # noqa: PLC0415
    from inroad.host.resolver.overriding import OverridingResolver  # noqa: PLC0415

    try:
        conf = resolv_conf.parse(path.read_text(errors="replace"))
    except OSError as error:
        log.warning("resolv.conf can't be read", path=str(path), problem=str(error))
        conf = resolv_conf.ResolvConf()
    redirect = NftRedirect() if choice.tool == "nft" else IptablesRedirect(journal)
    return OverridingResolver(redirect, conf, reason=choice.reason, mark=mark, preferred=preferred)


async def undo(entry: Entry) -> str:
    """Undo what a crashed daemon announced in the journal; see `inroad.host.cleanup`."""
    from inroad.host.resolver import iptables  # noqa: PLC0415

    if entry.kind == iptables.KIND:
        return await iptables.undo(entry)
    raise HostChangeFailed(f"nobody knows how to undo {entry.kind}")
