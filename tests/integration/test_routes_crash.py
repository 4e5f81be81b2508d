"""`kill -9` at each step of applying, then clean-up: the host is as it was."""

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
from inroad.host.cleanup import clean_up
from inroad.host.journal import Journal

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")

DAEMON = """
import asyncio, os, signal, sys
from dataclasses import replace
sys.path.insert(0, {here!r})
from routes_stage import WANTED, nets
from inroad.core.host_config import RouteConfig
from inroad.host import journal
from inroad.host.routes import netlink
from inroad.host.routes.choose import open_routes

left = int(sys.argv[1])

def step(work):
    def stepped(*arguments):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return work(*arguments)
    return stepped

netlink._BATCH = 1  # one step for each request
netlink.Netlink._send_batch = step(netlink.Netlink._send_batch)
journal._write = step(journal._write)
journal._sync_directory = step(journal._sync_directory)

async def main():
    routes = await open_routes(journal.Journal(sys.argv[2]))
    await routes.apply(WANTED)
    grown = replace(WANTED, subnets=(*WANTED.subnets[1:], *nets("10.244.2.0/24")), never=())
    await routes.apply(grown)
    await routes.apply(RouteConfig())
    print("went through")

asyncio.run(main())
"""


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with workstation(tmp_path) as host:
        yield host


def run(steps: int, journal: Path) -> subprocess.CompletedProcess[str]:
    code = DAEMON.format(here=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, str(steps), str(journal)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


async def test_killed_at_each_step(host: Host) -> None:
    before = dump()
    steps = changed = 0
    while True:
        done = run(steps, host.journal)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        touched = dump() != before
        changed += touched
        if touched:
            assert Journal(host.journal).pending(), "no change is ever made unannounced"
        said = await clean_up(host.journal)
        assert dump() == before, f"step {steps}: {said}"
        assert bool(said) == touched
        assert await clean_up(host.journal) == []
        steps += 1
    assert "went through" in done.stdout
    assert dump() == before and not host.journal.exists()
    assert steps > 20 and changed > 18


async def test_a_new_daemon_takes_over_what_a_killed_one_left(host: Host) -> None:
    """Without clean-up first, as when the journal was lost: applying makes the state whole again."""
    before = dump()
    assert run(9, host.journal).returncode == -signal.SIGKILL
    host.journal.unlink()
    routes = await host.routes()

    await routes.apply(WANTED)
    assert way("10.96.0.5") == "inroad0" and way("10.96.7.7") == "eth0"

    await routes.apply(RouteConfig())
    assert dump() == before
