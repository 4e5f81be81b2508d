"""Which back end sets the routes: there is one for each operating system."""

from __future__ import annotations

import sys

from inroad.core.errors import HostChangeFailed
from inroad.host.journal import Entry, Journal
from inroad.host.routes.api import Routes


async def open_routes(journal: Journal) -> Routes:
    """Return the back end of this operating system. Raises `HostChangeFailed` where there is none."""
    if sys.platform == "linux":
        from inroad.host.routes.linux import LinuxRoutes  # noqa: PLC0415

        return LinuxRoutes(journal)
    raise HostChangeFailed(f"routes can't be set on {sys.platform}")


async def undo(entry: Entry) -> str:
    """Undo what a crashed daemon announced in the journal; see `inroad.host.cleanup`."""
    if sys.platform == "linux":
        from inroad.host.routes import linux  # noqa: PLC0415

        return await linux.undo(entry)
    raise HostChangeFailed(f"routes can't be removed on {sys.platform}")
