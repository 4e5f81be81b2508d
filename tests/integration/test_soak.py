"""A soak: random kinds of flows through the whole chain at once, every byte checked; nothing stays.

`make soak` runs it for ten minutes, then compares memory and descriptors; among the tests it is short.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import Stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")

HERE = Path(__file__).resolve().parent
SHORT = 6.0
"""Seconds, among the other tests."""

WARM_UP = 30.0
"""Seconds of the same flows before memory is looked at first: pools and caches have their size then."""

UDP_IDLE = 75.0
"""Seconds after which no association is left (they end after 60 idle ones)."""

GROWTH = 16 << 20
"""Bytes that a process may be larger after the soak than after the warm-up: what the allocator keeps."""

IDLE_FLOWS = 10_000
IDLE_COST = 150 << 20
"""Bytes that so many idle flows may cost the daemon, all its processes together, and as many the manager."""

PEER = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: peer, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: peer}}}}
  template:
    metadata: {{labels: {{app: peer}}}}
    spec:
      containers:
      - name: peer
        command: ["{sys.executable}", "{HERE / "soak_peer.py"}"]
        readinessProbe: {{tcpSocket: {{port: 7000}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: peer, namespace: shop}}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {{app: peer}}
  ports: [{{name: tcp, port: 7000}}, {{name: udp, port: 7000, protocol: UDP}}]
"""

USAGE = """
import json, os, pathlib
found = {}
for one in pathlib.Path("/proc").glob("[0-9]*"):
    line = (one / "cmdline").read_bytes().split(b"\\0")
    name = b" ".join(word for word in line[1:] if not word.startswith((b"-", b"{"))).decode()
    if one.name != str(os.getpid()) and ("inroad serve" in name or "inroad.host.vif" in name):
        memory = int((one / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        found[name] = [memory, len(os.listdir(one / "fd"))]
print(json.dumps(found))
"""


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Yield a sandbox with a peer in namespace `shop`."""
    stage = Stage(f"t-soak-{os.getpid()}")
    stage.up()
    try:
        stage.run("kubectl", "apply", "-f", "-", user="root", stdin=PEER)
        stage.run("kubectl", "-n", "shop", "rollout", "status", "deploy/peer", "--timeout=30s", user="root")
        yield stage
    finally:
        stage.down()


def usage(stage: Stage) -> dict[str, tuple[int, int]]:
    """Return memory in bytes and number of descriptors of inroad's processes at both ends, by command."""
    [manager] = stage.pods("inroad/traffic-manager")
    found = {}
    for place in ("workstation", manager):
        text = stage.run(sys.executable, "-c", USAGE, user="root", place=place).stdout
        found |= {name: (memory, files) for name, (memory, files) in json.loads(text).items()}
    assert len(found) >= 3, found
    return found


def soak(stage: Stage, seconds: float, seed: int) -> dict:
    """Run flows for a while and return what they did; nothing may have gone wrong."""
    [peer] = stage.refresh().pods("shop/peer")
    where = ("peer.shop.svc.cluster.local", stage.address(peer))
    running = stage.start(sys.executable, str(HERE / "soak_flows.py"), *where, str(seconds), str(seed))
    assert running.stdout is not None and running.stderr is not None
    told: dict = {}
    for line in running.stdout:
        told = json.loads(line)
        print(f"{told['seconds']:5} s  {told['flows']:7} flows  {told['bytes'] / 1e9:8.2f} GB", flush=True)
    assert running.wait() == 0, running.stderr.read()
    print(", ".join(f"{kind} {count}" for kind, count in sorted(told["kinds"].items())), flush=True)
    assert told["failures"] == [], f"seed {seed}"
    assert told["told_unreachable"] or not told["kinds"].get("unreachable"), f"seed {seed}"
    datagrams = told["kinds"].get("datagrams", 0)
    assert told["unanswered"] <= datagrams / 10, "more than one datagram in a hundred was lost"
    return told


def settle(stage: Stage, seconds: float, *counters: str) -> None:
    """Wait until the named counters of the VIF, and the flows of the tunnel if `flows` is named, are 0."""
    deadline = time.monotonic() + seconds
    while True:
        status = stage.ask("status")
        left = {name: (status["vif"]["counters"] | status["tunnel"])[name] for name in counters}
        if not any(left.values()):
            return
        assert time.monotonic() < deadline, f"still there after {seconds:.0f} s: {left}"
        time.sleep(0.5)


@pytest.mark.timeout(0)
def test_flows_of_every_kind_at_once(stage: Stage, pytestconfig: pytest.Config) -> None:
    minutes = pytestconfig.getoption("soak_minutes")
    seed = random.SystemRandom().getrandbits(32)
    before = stage.dump()
    stage.inroad("connect", "-n", "shop")
    if not minutes:
        soak(stage, SHORT, seed)
        settle(stage, 20, "tcp-flows")
    else:
        soak(stage, WARM_UP, seed)
        settle(stage, UDP_IDLE, "tcp-flows", "associations", "flows")
        first = usage(stage)
        soak(stage, minutes * 60, seed + 1)
        settle(stage, UDP_IDLE, "tcp-flows", "associations", "flows")
        last = usage(stage)
        for name, (memory, files) in last.items():
            was, had = first[name]
            print(f"{name}: {was >> 20} -> {memory >> 20} MB, {had} -> {files} descriptors", flush=True)
            assert files <= had, name
            assert memory < was + GROWTH, name
    stage.inroad("quit")
    assert stage.dump() == before


@pytest.mark.timeout(0)
def test_ten_thousand_idle_flows(stage: Stage, pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("soak_minutes"):
        pytest.skip("a part of make soak")
    stage.inroad("connect", "-n", "shop")
    first = usage(stage)
    argv = stage.command(
        [sys.executable, str(HERE / "soak_idle.py"), "peer.shop.svc.cluster.local", str(IDLE_FLOWS)],
        "root",
        "workstation",
    )
    holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == f"{IDLE_FLOWS}\n"
        last = usage(stage)
    finally:
        holder.communicate("")
    grown = {name: memory - first[name][0] for name, (memory, _) in last.items()}
    for name, more in grown.items():
        print(f"{name}: {more / 1e6:.1f} MB for {IDLE_FLOWS} idle flows", flush=True)
    manager = sum(more for name, more in grown.items() if "manager" in name)
    assert manager < IDLE_COST
    assert sum(grown.values()) - manager < IDLE_COST
    settle(stage, 60, "tcp-flows", "flows")
    stage.inroad("quit")
