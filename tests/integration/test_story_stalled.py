"""A download that nobody reads delays nobody else and costs no more memory than a flow may hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from stage import ROOT, Stage, connected_stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")

SIZE = 1_000_000_000
REQUESTS = 1_000
MOST = 48 << 20
"""Bytes by which a program may grow: a flow's largest window twice, and what a thousand requests leave."""
RESIDENT = """
import pathlib, sys
total = 0
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        if f"serve\\0{sys.argv[1]}".encode() in (process / "cmdline").read_bytes():
            total += int((process / "statm").read_text().split()[1]) * 4096
    except OSError:
        pass
print(total)
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Yield a sandbox with a connected workstation."""
    with connected_stage("t-stalled") as stage:
        yield stage


def resident(stage: Stage) -> dict[str, int]:
    """Return the memory of the daemon, all its processes, and of the manager, in bytes."""
    manager = stage.pods("inroad/traffic-manager")[0]
    places = {"daemon": "workstation", "manager": manager}
    return {
        program: int(stage.run(sys.executable, "-c", RESIDENT, program, user="root", place=place).stdout)
        for program, place in places.items()
    }


def test_a_stalled_download_beside_a_thousand_small_requests(stage: Stage) -> None:
    program = str(ROOT / "tests/integration/stalled_reader.py")
    line = stage.command([sys.executable, program, "web", str(SIZE), str(REQUESTS)], "dev", "workstation")
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin
        assert client.stdout

        def answer() -> str:
            said = client.stdout.readline()
            assert said, "the client ended early"
            return said.strip()

        def go_on() -> None:
            client.stdin.write("\n")
            client.stdin.flush()

        try:
            assert answer() == "ready"
            before = resident(stage)
            assert min(before.values()) > 10 << 20, before
            go_on()
            assert json.loads(answer()) == REQUESTS
            grown = {name: after - before[name] for name, after in resident(stage).items()}
            assert max(grown.values()) < MOST, grown
            go_on()
            assert json.loads(answer()) == (4 << 20) + (32 << 20)
        finally:
            client.kill()
