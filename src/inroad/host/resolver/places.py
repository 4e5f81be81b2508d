"""Where a workstation keeps what says how it finds names, and hearing of changes there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from inroad.core import resolv_conf
from inroad.core.resolv_conf import ResolvConf
from inroad.host.file_watch import FileWatch
from inroad.host.resolver.api import STUBS

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Places:
    """Where the workstation keeps what is looked at; tests have other places.

    `uplinks`: the file that systemd-resolved writes anew whenever name servers or search domains of any
    link change; its bus (seen in 252) tells of the servers alone.
    """

    resolv_conf: Path = Path("/etc/resolv.conf")
    nsswitch_conf: Path = Path("/etc/nsswitch.conf")
    macos_directory: Path = Path("/etc/resolver")
    bus: str | None = None
    uplinks: Path = Path("/run/systemd/resolve/resolv.conf")

    def read_resolv_conf(self) -> ResolvConf:
        """Return what resolv.conf says, nothing where it can't be read."""
        try:
            return resolv_conf.parse(self.resolv_conf.read_text(errors="replace"))
        except OSError as error:
            log.warning("resolv.conf can't be read", path=str(self.resolv_conf), problem=str(error))
            return ResolvConf()

    def asks_resolved(self) -> bool:
        """Tell whether programs ask systemd-resolved."""
        if any(address in STUBS for address, _ in self.read_resolv_conf().servers):
            return True
        try:
            lines = self.nsswitch_conf.read_text(errors="replace").splitlines()
        except OSError:
            return False
        return any(line.startswith("hosts:") and "resolve" in line.split() for line in lines)

    def watch(self, on_change: Callable[[], None]) -> FileWatch:
        """Call `on_change` after any of that may have changed."""
        return FileWatch((self.resolv_conf, self.nsswitch_conf, self.uplinks), on_change)
