"""Which data plane this host gets, and why."""

from __future__ import annotations

import sys

from inroad.core.errors import ConfigInvalid, NoTunDevice
from inroad.host.vif.api import Vif, VifConfig, VifEvents


def choose(mode: str) -> tuple[str, str]:
    """Return the kind of VIF for the configured mode, and the reason in words."""
    if mode not in ("auto", "tun", "veth"):
        raise ConfigInvalid(f"vif.mode is {mode}", "it must be auto, veth or tun")
    if mode != "auto":
        return mode, f"vif.mode is {mode}"
    return "tun", "tun works on every Linux"


async def open_vif(config: VifConfig, events: VifEvents) -> Vif:
    """Make the VIF; it is there, with its addresses, when this returns. Routes are the caller's.

    Raises `NoTunDevice`, `NoPrivilege`, `HostChangeFailed` or `ConfigInvalid`.
    """
    kind, reason = choose(config.mode)
    if sys.platform == "linux":
        from inroad.host.vif.process_linux import ProcessVif  # noqa: PLC0415  only where it exists

        vif = ProcessVif(config, events, kind, reason)
        await vif.open()
        return vif
    raise NoTunDevice(f"there is no VIF for {sys.platform} yet")
