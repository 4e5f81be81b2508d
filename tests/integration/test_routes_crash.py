"""A daemon that was killed, and a new one that takes over its routes; see `test_host_crash` for clean-up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from routes_stage import WANTED, Host, dump, way, workstation

from inroad.core.host_config import RouteConfig

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")

DAEMON = """
import asyncio, os, signal, sys
sys.path.insert(0, sys.argv[1])
from routes_stage import WANTED
from inroad.host.journal import Journal
from inroad.host.routes import netlink
from inroad.host.routes.choose import open_routes

left, send = 3, netlink.Netlink._send_batch

def kill_at_last(*arguments):
    global left
    left -= 1
    return send(*arguments) if left else os.kill(os.getpid(), signal.SIGKILL)

netlink._BATCH = 1
netlink.Netlink._send_batch = kill_at_last

async def main():
    await (await open_routes(Journal(sys.argv[2]))).apply(WANTED)

asyncio.run(main())
"""


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with workstation(tmp_path) as host:
        yield host


async def test_a_new_daemon_takes_over_what_a_killed_one_left(host: Host) -> None:
    """Without clean-up first, as when the journal was lost: applying makes the state whole again."""
    before = dump()
    argv = [sys.executable, "-c", DAEMON, str(Path(__file__).parent), str(host.journal)]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    assert dump() != before
    host.journal.unlink()
    routes = await host.routes()

    await routes.apply(WANTED)
    assert way("10.96.0.5") == "inroad0" and way("10.96.7.7") == "eth0"

    await routes.apply(RouteConfig())
    assert dump() == before
