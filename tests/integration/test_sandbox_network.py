"""What a sandbox's network does: who reaches whom, and what is refused, dropped or answered."""

from __future__ import annotations

import json
import time

import pytest
from stage import Stage

CONNECT = """
import json, socket, sys, time
host, port = sys.argv[1], int(sys.argv[2])
start = time.monotonic()
try:
    socket.create_connection((host, port), 0.7).close()
    outcome = "connected"
except TimeoutError:
    outcome = "silence"
except ConnectionRefusedError:
    outcome = "refused"
except OSError as error:
    outcome = str(error)
print(json.dumps([outcome, time.monotonic() - start]))
"""


def connect(sandbox: Stage, place: str, host: str, port: int) -> str:
    """Return what became of a TCP connection: connected, refused (at once) or silence (for 0.7 s)."""
    done = sandbox.run("python3", "-c", CONNECT, host, str(port), place=place)
    outcome, seconds = json.loads(done.stdout)
    assert outcome == "silence" or seconds < 0.5, (outcome, seconds)
    return str(outcome)


def addresses(sandbox: Stage, name: str, kind: str = "A") -> list[str]:
    """Return what a name means in a pod of namespace `shop`."""
    done = sandbox.run("dig", "+short", "+search", kind, name, place=sandbox.pods("shop/echo")[0])
    return done.stdout.split()


def test_the_workstation_reaches_the_api_server_and_nothing_else(sandbox: Stage) -> None:
    assert connect(sandbox, "workstation", "192.168.50.20", 6443) == "connected"
    for host, port in (("10.96.0.1", 443), ("10.244.1.2", 53), ("172.18.0.3", 22), ("172.18.0.2", 6443)):
        assert connect(sandbox, "workstation", host, port) == "silence"


@pytest.mark.parametrize("kind", ["A", "AAAA"])
@pytest.mark.parametrize("place", ["pod", "node-1", "node-2", "control-plane"])
def test_service_addresses(sandbox: Stage, place: str, kind: str) -> None:
    place = sandbox.pods("default/web")[0] if place == "pod" else place
    (web,) = addresses(sandbox, "web", kind)
    (empty,) = addresses(sandbox, "empty", kind)
    unallocated = "10.96.255.254" if kind == "A" else "fd00:10:96::fffe"
    assert connect(sandbox, place, web, 80) == "connected"
    assert connect(sandbox, place, web, 81) == "refused"
    assert connect(sandbox, place, empty, 80) == "refused"
    assert connect(sandbox, place, unallocated, 80) == "silence"


def test_a_service_spreads_over_its_pods(sandbox: Stage) -> None:
    script = "for n in $(seq 40); do curl -sS http://web/; done"
    done = sandbox.run("sh", "-c", script, place=sandbox.pods("shop/echo")[0])
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(seen) == 40, done.stderr
    assert {page["pod"] for page in seen} == {place.split("/")[2] for place in sandbox.pods("shop/web")}
    assert {page["namespace"] for page in seen} == {"shop"}
    assert {page["node"] for page in seen} == {"node-1", "node-2"}


def test_a_pod_sees_the_pod_that_asks(sandbox: Stage) -> None:
    asking = sandbox.pods("shop/echo")[0]
    for kind, flag in (("A", "-4"), ("AAAA", "-6")):
        page = json.loads(sandbox.run("curl", "-s", flag, "http://web.default/x?y", place=asking).stdout)
        family = 0 if kind == "A" else 1
        assert page["client_ip"] == sandbox.state["places"][asking]["addresses"][family]
        assert (page["namespace"], page["host"], page["path"]) == ("default", "web.default", "/x?y")


def test_a_pod_reaches_itself_through_its_service(sandbox: Stage) -> None:
    place = sandbox.pods("shop/echo")[0]
    script = "printf hello | timeout 2 nc -N echo 7"
    assert sandbox.run("sh", "-c", script, place=place).stdout == "hello"


def test_udp_through_a_service(sandbox: Stage) -> None:
    place = sandbox.pods("default/web")[0]
    script = "printf hello | timeout 2 nc -u -w 1 echo.shop 7"
    assert sandbox.run("sh", "-c", script, place=place, status=None).stdout == "hello"


def test_pods_reach_the_world_outside_from_their_node(sandbox: Stage) -> None:
    place = sandbox.pods("shop/echo")[0]
    node = json.loads(sandbox.run("curl", "-s", "http://web/", place=place).stdout)
    assert node["namespace"] == "shop"
    page = json.loads(sandbox.run("curl", "-s", "http://192.168.50.1/", place=place).stdout)
    assert page["client_ip"] in {sandbox.address("node-1"), sandbox.address("node-2")}


def test_names_outside_the_cluster_on_the_workstation(sandbox: Stage) -> None:
    assert "192.168.50.1" in sandbox.run("getent", "ahostsv4", "intranet.example").stdout
    page = json.loads(sandbox.run("curl", "-s", "-4", "http://intranet.example/").stdout)
    assert page["client_ip"] == "192.168.50.10"
    big = sandbox.run("dig", "+noedns", "big.example").stdout
    assert "ANSWER: 40" in big and "retrying in TCP mode" in big


def test_downloads_keep_every_byte(sandbox: Stage) -> None:
    place = sandbox.pods("shop/echo")[0]
    script = "curl -s http://web/bytes/20000000 | sha256sum | cut -c-64; curl -s http://web/sha256/20000000"
    first, second = sandbox.run("sh", "-c", script, place=place).stdout.split()
    assert first == second
    script = "head -c 3000001 /dev/urandom | tee /run/up | sha256sum; curl -s -T /run/up http://web/up"
    sent, answer = sandbox.run("sh", "-c", script, place=place).stdout.splitlines()
    page = json.loads(answer)
    assert (page["bytes"], page["sha256"]) == (3000001, sent[:64])


def test_service_rules_follow_the_pods(sandbox: Stage) -> None:
    """A pod that is killed comes back, and the service never sends anybody to a pod that is not ready."""
    (place,) = sandbox.pods("shop/echo")
    sandbox.run("pkill", "-f", "workloads.echo", place=place)
    (echo,) = addresses(sandbox, "web") and addresses(sandbox, "echo.shop.svc.cluster.local.")
    deadline = time.monotonic() + 10
    while (outcome := connect(sandbox, "node-1", echo, 7)) != "connected":
        assert outcome == "refused"
        assert time.monotonic() < deadline
