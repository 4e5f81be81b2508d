"""Which back end sets the routes: there is one for each operating system. And what leads past them."""

from __future__ import annotations

import sys
from functools import partial

from inroad.core.errors import HostChangeFailed
from inroad.core.host_config import FWMARK, ROUTE_TABLE
from inroad.host.journal import Entry, Journal
from inroad.host.routes.api import Routes

OWN_MARK = FWMARK if sys.platform == "linux" else 0
"""Mark on the daemon's own sockets; 0 where there are none, and never-proxy routes alone have to do."""
ROUTES_IN = str(ROUTE_TABLE) if sys.platform == "linux" else "main"
"""The routing table that our routes are in: elsewhere than on Linux there is one for all."""

# Each platform imports its own back end only, when it is needed.
# ruff: noqa: PLC0415


async def open_routes(journal: Journal) -> Routes:
    """Return the back end of this operating system. Raises `HostChangeFailed` where there is none."""
    if sys.platform == "linux":
        from inroad.host.routes.linux import LinuxRoutes

        return LinuxRoutes(journal)
    if sys.platform == "darwin":
        from inroad.host.routes.commands import CommandRoutes
        from inroad.host.routes.macos import MONITOR, MacRoutes
        from inroad.host.routes.watching import watch_output
        from inroad.host.run import run_async

        return CommandRoutes(journal, MacRoutes(), run_async, partial(watch_output, MONITOR))
    if sys.platform == "win32":
        from inroad.host.routes.commands import CommandRoutes
        from inroad.host.routes.watching_windows import watch_routes
        from inroad.host.routes.windows import WindowsRoutes
        from inroad.host.run import run_async

        return CommandRoutes(journal, WindowsRoutes(), run_async, watch_routes)
    raise HostChangeFailed(f"routes can't be set on {sys.platform}")


async def undo(entry: Entry) -> str:
    """Undo what a crashed daemon announced in the journal; see `inroad.host.cleanup`."""
    if sys.platform == "linux":
        from inroad.host.routes import linux

        return await linux.undo(entry)
    if sys.platform in ("darwin", "win32"):
        from inroad.host.routes import commands
        from inroad.host.routes.macos import MacRoutes
        from inroad.host.routes.windows import WindowsRoutes
        from inroad.host.run import run_async

        system = MacRoutes() if sys.platform == "darwin" else WindowsRoutes()
        return await commands.undo(entry, system, run_async)
    raise HostChangeFailed(f"routes can't be removed on {sys.platform}")
