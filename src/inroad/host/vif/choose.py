"""Which data plane this host gets, and why.

`choose` is a pure function; what it goes by is in `Probes`. On Linux, whether a private namespace can be
made, and whether the kernel takes veth mode's rules, is found out by trying: a failure is a probe like any
other, and the choice is made again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from inroad.core.errors import ConfigInvalid, HostChangeFailed, NoTunDevice
from inroad.host.journal import Entry, Journal
from inroad.host.run import run_async, tool
from inroad.host.vif.api import NoNamespace, Vif, VifConfig, VifEvents

if TYPE_CHECKING:
    from inroad.host.vif.one_device import Opened

log = structlog.get_logger()

MODES = ("auto", "veth", "tun")
DEVICES = {"darwin": ("macOS", "utun"), "win32": ("Windows", "wintun")}
VETH_TOOLS = {"nft": "nftables", "nsenter": "util-linux"}


@dataclass(frozen=True, slots=True)
class Probes:
    """What is known of the host. `platform`: as in `sys.platform`; the rest is about Linux.

    `missing`: tools of veth mode that are not installed. `no_namespace`: why no private network namespace
    can be made, "" while it seems possible. `no_veth`: why veth mode did not work when tried.
    """

    missing: tuple[str, ...] = ()
    no_namespace: str = ""
    no_veth: str = ""
    platform: str = "linux"


@dataclass(frozen=True, slots=True)
class Choice:
    """`plane`: veth, tun (two TUNs and a private namespace), or on one device one-tun, utun or wintun."""

    plane: str
    reason: str


def choose(mode: str, probes: Probes) -> Choice:
    """Return the data plane for a configured mode; raises `ConfigInvalid`, `HostChangeFailed`."""
    if mode not in MODES:
        raise ConfigInvalid(f"vif.mode is {mode}", f"it must be one of {', '.join(MODES)}")
    if probes.platform != "linux":
        return _choose_elsewhere(mode, probes.platform)
    obstacle = probes.no_namespace or probes.no_veth
    if not obstacle and probes.missing:
        obstacle = f"{' and '.join(probes.missing)} not installed"
    if mode == "veth" and obstacle:
        packages = " ".join(VETH_TOOLS[name] for name in probes.missing)
        remedy = f"apt-get install {packages}" if packages else "set vif.mode to auto or tun"
        raise HostChangeFailed(f"veth mode is not possible: {obstacle}", remedy)
    if mode != "tun" and not obstacle:
        reason = "the kernel redirects established connections" if mode == "auto" else "vif.mode is veth"
        return Choice("veth", reason)
    wanted = "vif.mode is tun" if mode == "tun" else f"no veth mode: {obstacle}"
    if probes.no_namespace:
        return Choice("one-tun", f"reflection on one device; {wanted}; {probes.no_namespace}")
    return Choice("tun", wanted)


def _choose_elsewhere(mode: str, platform: str) -> Choice:
    if platform not in DEVICES:
        raise NoTunDevice(f"there is no VIF for {platform}", "Linux, macOS and Windows have one")
    if mode == "veth":
        raise HostChangeFailed("veth mode needs Linux", "set vif.mode to auto or tun")
    system, device = DEVICES[platform]
    return Choice(device, f"{system} has {device} devices; reflection on one of them")


async def open_vif(config: VifConfig, events: VifEvents, journal: Journal | None = None) -> Vif:
    """Make the VIF; it is there, with its addresses, when this returns. Routes are the caller's.

    Its name is `config.name`, or the system's choice where names are not free (macOS). `journal`: for what
    does not go with the device. Raises `NoTunDevice`, `NoPrivilege`, `HostChangeFailed`, `ConfigInvalid`.
    """
    if sys.platform == "linux":
        vif = await _open_linux(config, events)
    else:
        from inroad.host.vif.one_device import begin  # noqa: PLC0415 - only where there is no better

        choice = choose(config.mode, Probes(platform=sys.platform))
        opened = await _open_device(config, journal)
        vif = await begin(opened, config, events, choice.plane, choice.reason)
    log.info("vif opened", name=vif.name, mode=vif.kind, reason=vif.reason)
    return vif


async def undo(entry: Entry) -> str:
    """Undo what a crashed daemon announced in the journal; see `inroad.host.cleanup`."""
    from inroad.host.vif import wintun_setup  # noqa: PLC0415

    if entry.kind == wintun_setup.KIND:
        return await wintun_setup.undo(entry, run_async)
    raise HostChangeFailed(f"nobody knows how to undo {entry.kind}")


async def _open_device(config: VifConfig, journal: Journal | None) -> Opened:
    """Open the one device of this system."""
    if sys.platform == "darwin":
        from inroad.host.vif.utun import open_macos  # noqa: PLC0415
        from inroad.host.vif.utun_macos import Mac  # noqa: PLC0415

        return await open_macos(config, Mac(), run_async)
    if sys.platform == "win32":
        from inroad.host.vif.wintun_setup import open_windows  # noqa: PLC0415
        from inroad.host.vif.wintun_windows import Events, load  # noqa: PLC0415

        return await open_windows(config, load(), Events(), run_async, journal)
    raise NoTunDevice(f"there is no VIF for {sys.platform}")


async def _open_linux(config: VifConfig, events: VifEvents) -> Vif:
    if sys.platform != "linux":
        raise NoTunDevice(f"{sys.platform} is not Linux")
    from inroad.host.vif import process_linux  # noqa: PLC0415 - only where it exists

    probes = Probes(missing=tuple(name for name in VETH_TOOLS if tool(name) is None))
    while True:
        choice = choose(config.mode, probes)
        vif = process_linux.ProcessVif(config, events, choice.plane, choice.reason)
        try:
            await vif.open()
        except NoNamespace as problem:
            probes = replace(probes, no_namespace=problem.message)
        except HostChangeFailed as problem:
            if choice.plane != "veth" or config.mode == "veth":
                raise
            probes = replace(probes, no_veth=problem.message)
        else:
            return vif
