"""Clusters on the developer's own machine: the nodes' way out, and their names, lead to the workstation."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import pytest
from stage import Stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")
LISTEN = """
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", 53))
    sock.settimeout(20)
    print("on", flush=True)
    for _ in range(int(sys.argv[1])):
        packet, client = sock.recvfrom(4096)
        end = packet.index(0, 12) + 5
        print(packet[13:end - 5].decode("latin-1"), flush=True)
        answer = bytes((0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 9))
        sock.sendto(packet[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + packet[12:end] + answer, client)
"""


@pytest.fixture(
    scope="module", params=[(), ("--upstream-fold", "--upstream-cache", "30")], ids=["plain", "fold+cache"]
)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Yield a sandbox whose cluster lives on the workstation, with one way or another of forwarding."""
    found = Stage(f"u{os.getpid()}")
    found.up("--on-host", "--upstream", "workstation", "--nodes", "1", "--without-manager", *request.param)
    found.state["folds"] = bool(request.param)
    try:
        yield found
    finally:
        found.down()


def test_pods_go_out_through_the_workstation(stage: Stage) -> None:
    place = stage.pods("shop/echo")[0]
    page = json.loads(stage.run("curl", "-sS", "-4", "http://www.example/", place=place).stdout)
    assert page["client_ip"] == stage.address("workstation")


def test_names_outside_come_from_the_workstation_s_resolver(stage: Stage) -> None:
    place = stage.pods("shop/echo")[0]
    assert stage.run("dig", "+short", "intranet.example", place=place).stdout.split()[0] == "192.168.50.1"
    assert "status: NXDOMAIN" in stage.run("dig", "nope.example", place=place).stdout
    assert "ANSWER: 40" in stage.run("dig", "+tcp", "big.example", place=place).stdout
    inside = stage.run("dig", "+short", "web.shop.svc.cluster.local", place=place).stdout
    assert re.match(r"10\.96\.", inside)


def test_what_the_forwarder_does_to_queries(stage: Stage) -> None:
    """Letters kept or folded, asked every time or remembered; the client always sees the letters it sent."""
    place = stage.pods("shop/echo")[0]
    queries = 1 if stage.state["folds"] else 2
    stage.run("sh", "-c", "echo nameserver 127.0.0.1 > /etc/resolv.conf", user="root")
    listener = stage.start("sudo", "-n", "python3", "-c", LISTEN, str(queries))
    assert listener.stdout is not None
    assert listener.stdout.readline() == "on\n"
    for name in ("MiXed.Example", "mixeD.exAmple"):
        output = stage.run("dig", "+noedns", name, place=place).stdout
        assert f";{name}." in output
        assert "203.0.113.9" in output
    out, _ = listener.communicate(timeout=20)
    seen = [re.sub(r"[^\w.]", ".", line) for line in out.splitlines()]
    assert seen == (["mixed.example"] if stage.state["folds"] else ["MiXed.Example", "mixeD.exAmple"])
