"""A cluster on the workstation itself sends what it can't place back to us: no dial may go round."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from stage import Stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")

UNASSIGNED = "10.96.255.77"
"""In the service subnet, and nobody's."""
ALSO = "198.51.100.9"
"""In a subnet that only the cluster leads to, as far as the workstation knows."""
TWO_AT_ONCE = """
import asyncio, sys

async def main():
    tried = [asyncio.open_connection(sys.argv[1], 80) for _ in range(2)]
    for found in await asyncio.gather(*tried, return_exceptions=True):
        print(type(found).__name__)

asyncio.run(main())
"""
UDP = """
import socket, sys
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.settimeout(float(sys.argv[2]))
sock.connect((sys.argv[1], 9))
sock.send(b"hello")
try:
    sock.recv(100)
except TimeoutError:
    print("silence")
except OSError as error:
    print(error.strerror)
"""
PING = """
import socket, struct, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR: tell of every ICMP error
sock.settimeout(float(sys.argv[2]))
sock.connect((sys.argv[1], 0))
sock.send(struct.pack("!BBHHH", 8, 0, 0, 0, 1) + b"hello")
try:
    sock.recv(100)
except TimeoutError:
    print("silence")
except OSError as error:
    print(error.strerror)
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Yield a connected sandbox whose node lives on the workstation, as kind's does.

    Its node lets packets to unassigned service addresses out, as kube-proxy does in its iptables mode.
    """
    stage = Stage(f"t-loops-{os.getpid()}")
    stage.up("--on-host", "--family", "ipv4", "--nodes", "1")
    try:
        chain = ("inet", "inroad-services", "filter-forward")
        stage.run("nft", "flush", "chain", *chain, place="node-1", user="root")
        stage.ask("connect", "-n", "shop", "--also-proxy", f"{ALSO}/32")
        yield stage
    finally:
        stage.inroad("quit", status=None)
        stage.down()


Gained = dict[str, int]


def counters(stage: Stage) -> Gained:
    found: Gained = stage.ask("status")["vif"]["counters"]
    return found


def tried(stage: Stage, *argv: str, place: str = "workstation") -> tuple[int, str, Gained]:
    """Run a command; return its exit status, what it printed, and what the counters gained."""
    before = counters(stage)
    done = stage.run(*argv, place=place, user="dev" if place == "workstation" else "root", status=None)
    after = counters(stage)
    return done.returncode, done.stdout, {name: count - before.get(name, 0) for name, count in after.items()}


def dial(stage: Stage, patience: int) -> tuple[int, Gained]:
    """Connect to the unassigned address; return curl's exit status and what the counters gained."""
    status, _, gained = tried(stage, "curl", "-sS", "-m", str(patience), f"http://{UNASSIGNED}/")
    return status, gained


def test_a_masqueraded_dial_comes_back_once_and_is_refused(stage: Stage) -> None:
    status, gained = dial(stage, patience=10)
    assert status == 7  # refused, and so at once
    assert (gained["dials"], gained["recursions"]) == (1, 1)
    assert gained["packets"] < 10


def test_two_containers_that_connect_at_once_are_both_dialled(stage: Stage) -> None:
    """Their packets were forwarded like ours, and go to what is being dialled: still they are not ours."""
    _, said, gained = tried(stage, sys.executable, "-c", TWO_AT_ONCE, ALSO, place="node-1")
    assert said.split() == ["ConnectionRefusedError"] * 2
    assert (gained["dials"], gained["recursions"]) == (2, 2)


def test_a_masqueraded_datagram_comes_back_once_and_its_port_is_unreachable(stage: Stage) -> None:
    _, said, gained = tried(stage, sys.executable, "-c", UDP, UNASSIGNED, "10")
    assert said == "Connection refused\n"
    assert gained["recursions"] == 1
    assert gained["packets"] < 10


def test_a_masqueraded_ping_comes_back_once_and_its_host_is_unreachable(stage: Stage) -> None:
    _, said, gained = tried(stage, sys.executable, "-c", PING, UNASSIGNED, "10")
    assert said == "No route to host\n"
    assert gained["recursions"] == 1
    assert gained["packets"] < 10


def test_the_next_connect_to_a_real_service_is_not_disturbed(stage: Stage) -> None:
    assert stage.curl("http://web/")["namespace"] == "shop"


@pytest.fixture(scope="module")
def unmasked(stage: Stage) -> Stage:
    """Yield the sandbox with nobody masquerading what the node's pods send."""
    chain = ("inet", "inroad-services", "nat-postrouting")
    stage.run("nft", "flush", "chain", *chain, place="node-1", user="root")
    stage.run("nft", "delete", "table", "inet", "inroad-sandbox-host", user="root")
    return stage


def test_without_masquerading_it_times_out_in_few_packets(unmasked: Stage) -> None:
    """The refusal itself then goes to a pod's address, which leads into the VIF and not to the node."""
    status, gained = dial(unmasked, patience=4)
    assert status in (7, 28)
    assert gained["recursions"] > 0
    assert gained["dials"] <= 2  # one, and another should the application's SYN be sent again after it
    assert gained["packets"] < 40


@pytest.mark.parametrize("program", [UDP, PING], ids=["udp", "ping"])
def test_without_masquerading_datagrams_are_lost_in_few_packets(unmasked: Stage, program: str) -> None:
    _, said, gained = tried(unmasked, sys.executable, "-c", program, UNASSIGNED, "1")
    assert said == "silence\n"
    assert gained["recursions"] == 1
    assert gained["packets"] < 10
