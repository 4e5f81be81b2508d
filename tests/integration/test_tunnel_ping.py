"""Pings through the tunnel, in a network namespace whose `ping_group_range` the test sets."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tunnel_stage import Tunnel

from inroad.tunnel.api import Refusal

NAMESPACE = f"iv-t-ping-{os.getpid()}"


@pytest.fixture
def namespace():
    """A namespace with loopback only, and a route to nowhere."""
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        inside("ip", "link", "set", "lo", "up")
        inside("ip", "route", "add", "unreachable", "10.9.9.0/24")
        yield
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=True)


def inside(*command: str) -> str:
    return subprocess.run(
        ["ip", "netns", "exec", NAMESPACE, *command], check=True, capture_output=True, text=True, timeout=30
    ).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
def test_real_answers_only(namespace) -> None:
    inside("sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")
    answers = json.loads(inside(sys.executable, str(Path(__file__))).splitlines()[-1])
    assert answers["127.0.0.1"] == answers["::1"] == [[1, 0], [2, 56], [65535, 1400], [7, 40_000]]
    assert answers["10.9.9.1"] in ("HOST_UNREACHABLE", "NET_UNREACHABLE")


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
def test_where_pings_are_not_permitted(namespace) -> None:
    inside("sysctl", "-qw", "net.ipv4.ping_group_range=1 0")
    answers = json.loads(inside(sys.executable, str(Path(__file__))).splitlines()[-1])
    assert answers["127.0.0.1"] == "PROHIBITED"
    assert "ping_group_range" in answers["problem"]


async def ping_all() -> dict:
    """Run in the namespace: ping with several sizes, collect (sequence, payload size) of the answers."""
    found: dict = {}
    async with Tunnel() as tunnel:
        for host in ("127.0.0.1", "::1", "10.9.9.1"):
            flow, verdict = tunnel.ask(host, 0, "ping")
            answer = await asyncio.wait_for(verdict.future, 5)
            if answer != "opened":
                found[host] = Refusal(answer).name
                continue
            found[host] = []
            for sequence, size in ((1, 0), (2, 56), (65535, 1400), (7, 40_000)):
                payload = os.urandom(size)
                flow.send_datagram(sequence.to_bytes(2, "big") + payload)
                data = await asyncio.wait_for(verdict.datagrams.get(), 5)
                assert data[2:] == payload
                found[host].append([int.from_bytes(data[:2], "big"), len(data) - 2])
            flow.reset()
        found["problem"] = tunnel.dialler.ping_problem
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ping_all())))
