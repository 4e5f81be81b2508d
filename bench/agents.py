"""Paths through a sandbox: dialled by the traffic-manager, by an agent it relays to, by an agent directly.

Each has a sandbox of its own, all alike: the workstation's connection goes through the API server's
port-forward, the target is a pod. And how long connections are in want of an origin when an agent is killed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import servers
from bench.lanes import cut_bulk_lane, narrow_cable
from bench.measures import Measure, Row
from bench.paths import INROAD, OpenPath, Way
from bench.places import BenchFailed, Place, Slow

NO_FORWARD = "get,create:pods/portforward:shop"
PATIENCE = 60.0
"""Seconds for an agent to be there; one that is killed again and again is restarted ever later."""
PROBE_TIME = 3.0
PROBE = """
import socket, sys, time
host, port, end = sys.argv[1], int(sys.argv[2]), time.time() + float(sys.argv[3])
print("ready", flush=True)
while (begun := time.time()) < end:
    try:
        socket.create_connection((host, port), 10).close()
        print(begun, time.time(), flush=True)
    except OSError:
        pass
    time.sleep(0.005)
"""
"""Prints when each connection was begun and made, for some seconds."""
KILL = "import os, signal, sys, time; os.kill(int(sys.argv[1]), signal.SIGKILL); print(time.time())"


def command(*arguments: str) -> str:
    """Run `inroad sandbox ...`; raises `BenchFailed`."""
    argv = [*INROAD, "sandbox", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise BenchFailed(f"inroad sandbox {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def place(name: str, where: str) -> Place:
    """Return a place of the sandbox `name`."""
    prefix = (*INROAD, "sandbox", "exec", "--name", name, "--in", where, "--user", "root", "--")
    return Place(where, prefix)


def status(workstation: Place) -> dict[str, Any]:
    """Ask the daemon of a workstation."""
    found: dict[str, Any] = json.loads(workstation.run(*INROAD, "status", "-o", "json"))
    return found


def wait_for_origin(workstation: Place, path: str) -> None:
    """Return when connections start at an agent that is reached like this."""
    deadline = time.monotonic() + PATIENCE
    while (origin := status(workstation)["origin"])["path"]["kind"] != path:
        if time.monotonic() > deadline:
            raise BenchFailed(f"no agent is reached like this: {path}; the origin is {origin}")
        time.sleep(0.1)


@contextlib.contextmanager
def through(path: str, directory: Path, slow: Slow | None = None) -> Iterator[Way]:
    """Open a path: `sandbox` or `one-lane` without agents, `relayed` or `direct` to one of the namespace."""
    if slow and slow.round_trip_ms:
        raise BenchFailed("the sandbox has no long cables")
    name = f"bench-{path}-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        stack.callback(command, "down", "--name", name)
        restricted = ("--restrict", NO_FORWARD) if path == "relayed" else ()
        state = json.loads(command("up", "--name", name, "--json", *restricted))
        pod = next(where for where in sorted(state["places"]) if where.startswith("pod/shop/web"))
        workstation, server = place(name, "workstation"), place(name, pod)
        if slow:
            narrow_cable(workstation, place(name, "control-plane"), slow.mbit)
        workstation.run(*INROAD, "connect", "-n", "shop", "-o", "json")
        agent = None
        if path == "one-lane":
            cut_bulk_lane(workstation)
        if path in ("relayed", "direct"):
            workstation.run(*INROAD, "agent", "add", "-o", "json")
            wait_for_origin(workstation, path)
            agent = place(name, f"pod/shop/{status(workstation)['origin']['pod']}")
        manager = next(where for where in state["places"] if where.startswith("pod/inroad/"))
        for each in (workstation, server, place(name, manager), *((agent,) if agent else ())):
            each.tune()
        stack.enter_context(servers.targets(server, directory))
        found = status(workstation)
        services = ("web.shop", "web.default", "echo.shop", "empty.shop")
        names = tuple(f"{service}.svc.{found['cluster_domain']}" for service in services)
        target: str = state["places"][pod]["addresses"][0]
        who = {
            "sandbox": "the manager dials",
            "one-lane": "the manager dials, the bulk lane is cut",
            "relayed": "an agent dials, relayed",
            "direct": "an agent dials",
        }
        note = f"{found['vif']['mode']} mode, through the sandbox's API server; {who[path]}"
        title = "agent" if path == "direct" else path
        yield Way(title, workstation, target, str(found["dns"]["address"]), names, note, agent=agent)
        workstation.run(*INROAD, "quit")


def switch(way: Way, seconds: int, directory: Path) -> dict[str, float]:
    """Kill the agent's process and measure until a new connection succeeds."""
    del seconds, directory
    if way.agent is None:
        return {}
    path = "direct" if way.name == "agent" else "relayed"
    wait_for_origin(way.client, path)
    pid = way.agent.run("pgrep", "-o", "-f", "serve agent").split()[0]
    probe = (sys.executable, "-c", PROBE, way.target, str(servers.HTTP), str(PROBE_TIME))
    with way.client.ready(*probe) as process:
        killed = float(way.agent.run(sys.executable, "-c", KILL, pid))
        lines = process.stdout.read().splitlines() if process.stdout is not None else []
    made = [made for begun, made in (map(float, line.split()) for line in lines) if begun >= killed]
    if not made:
        raise BenchFailed(f"no connection was made within {PROBE_TIME:.0f} s of the agent's end")
    return {"switch": (min(made) - killed) * 1000}


SWITCH = Measure(
    "switch",
    (Row("switch", "first connection after the agent is killed", "ms", more_is_better=False),),
    switch,
)
PATHS: dict[str, OpenPath] = {
    "sandbox": functools.partial(through, "sandbox"),
    "relayed": functools.partial(through, "relayed"),
    "agent": functools.partial(through, "direct"),
    "one-lane": functools.partial(through, "one-lane"),
}
