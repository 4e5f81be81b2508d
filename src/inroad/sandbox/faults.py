"""What can go wrong on demand. The API server's faults are in `apiserver.faults`, the network's here:

* `cut`: pull a place's cable (its interface loses its carrier), for `seconds` or until `mend` or `clear`
* `blackhole`: swallow everything on that cable, while it looks fine
* `mend`: both are over; `clear`: so is everything else

`place` is workstation (the default), lan, control-plane or a node; `segment` is office or nodes, where the
place stands in both.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import asyncio
import logging
from typing import Any

from inroad.core.errors import SandboxFailed
from inroad.sandbox import network
from inroad.sandbox.apiserver.faults import Faults
from inroad.sandbox.apiserver.status import ApiError
from inroad.sandbox.state import Home
from inroad.sandbox.topology import Link, Topology

Json = dict[str, Any]
log = logging.getLogger(__name__)
_running: set[asyncio.Task[None]] = set()


async def apply(home: Home, topology: Topology, api: Faults, request: Json) -> Json:
    """Do what a request says and return what goes on at the API server."""
    wanted = {key: value for key, value in request.items() if key != "verb"}
    name = wanted.get("fault")
    if name in ("cut", "blackhole"):
        links = _links(topology, wanted)
        await _break(home, links, cut=name == "cut")
        if "seconds" in wanted:
            task = asyncio.create_task(_mend_after(home, links, float(wanted["seconds"])))
            _running.add(task)
            task.add_done_callback(_running.discard)
        return api.state()
    if name in ("mend", "clear"):
        for task in _running:
            task.cancel()
        await _mend(home, list(topology.links()))
        if name == "mend":
            return api.state()
    try:
        return await api.apply(wanted)
    except ApiError as error:
        raise SandboxFailed(error.message) from None


def _links(topology: Topology, wanted: Json) -> list[Link]:
    place, segment = wanted.get("place", "workstation"), wanted.get("segment")
    found = [link for link in topology.links() if link.place == place and segment in (None, link.segment)]
    if not found:
        raise SandboxFailed(f"{place!r} has no cable" + (f" in {segment!r}" if segment else ""))
    return found


async def _break(home: Home, links: list[Link], *, cut: bool) -> None:
    how = "down" if cut else "nomaster"
    await network.batch([f"link set {link.port} {how}" for link in links], namespace=home.namespace("switch"))


async def _mend(home: Home, links: list[Link]) -> None:
    lines = [f"link set {link.port} master {link.segment} up" for link in links]
    await network.batch(lines, namespace=home.namespace("switch"))


async def _mend_after(home: Home, links: list[Link], seconds: float) -> None:
    await asyncio.sleep(seconds)
    await _mend(home, links)
