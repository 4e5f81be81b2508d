"""Which data plane this host gets, and why.

`choose` is a pure function; what it goes by is in `Probes`. Whether a private namespace can be made, and
whether the kernel takes veth mode's rules, is found out by trying: a failure is a probe like any other,
and the choice is made again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import structlog

from inroad.core.errors import ConfigInvalid, HostChangeFailed, NoTunDevice
from inroad.host.run import tool
from inroad.host.vif.api import NoNamespace, Vif, VifConfig, VifEvents

log = structlog.get_logger()

MODES = ("auto", "veth", "tun")
VETH_TOOLS = {"nft": "nftables", "nsenter": "util-linux"}


@dataclass(frozen=True, slots=True)
class Probes:
    """What is known of the host.

    `missing`: tools of veth mode that are not installed. `no_namespace`: why no private network namespace
    can be made, "" while it seems possible. `no_veth`: why veth mode did not work when tried.
    """

    missing: tuple[str, ...] = ()
    no_namespace: str = ""
    no_veth: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """`plane`: veth, tun (two TUNs and a private namespace) or one-tun (reflection on one device)."""

    plane: str
    reason: str


def choose(mode: str, probes: Probes) -> Choice:
    """Return the data plane for a configured mode; raises `ConfigInvalid`, `HostChangeFailed`."""
    if mode not in MODES:
        raise ConfigInvalid(f"vif.mode is {mode}", f"it must be one of {', '.join(MODES)}")
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


async def open_vif(config: VifConfig, events: VifEvents) -> Vif:
    """Make the VIF; it is there, with its addresses, when this returns. Routes are the caller's.

    Raises `NoTunDevice`, `NoPrivilege`, `HostChangeFailed` or `ConfigInvalid`.
    """
    if sys.platform != "linux":
        raise NoTunDevice(f"there is no VIF for {sys.platform} yet")
    from inroad.host.vif import process_linux  # noqa: PLC0415  only where it exists

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
            log.info("vif opened", name=vif.name, mode=vif.kind, reason=vif.reason)
            return vif
