"""What happens to connections to services, by curl and nc from a pod: kube-proxy's side of the cluster.

kubernetes.io "Virtual IPs and Service Proxies", and KEP-3866 for the nftables mode.
"""

from __future__ import annotations

import json
import time

import pytest
from cluster_target import PROXY_MODE, Target


def url(address: str, port: int = 80) -> str:
    """Return a URL; IPv6 addresses are bracketed."""
    return f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"


def curl(target: Target, *argv: str, pod: str = "db-0") -> tuple[int, str, float]:
    """Run curl; return its exit status, its output and how long it took."""
    start = time.monotonic()
    done = target.inside("curl", "-sS", "--max-time", "3", *argv, pod=pod)
    return done.returncode, done.stdout, time.monotonic() - start


@pytest.fixture(params=[4, 6])
def family(request: pytest.FixtureRequest, target: Target) -> int:
    """Yield each address family that services have here."""
    if request.param not in target.families():
        pytest.skip("this cluster has one address family")
    number: int = request.param
    return number


def test_a_service_reaches_all_its_pods(target: Target, family: int) -> None:
    address = url(target.facts[f"web{family}"])
    seen = set()
    for _ in range(40):
        status, page, _ = curl(target, address)
        assert status == 0
        seen.add(json.loads(page)["pod"])
        if len(seen) == 2:
            break
    assert seen == set(target.facts["web.pods"].split(","))


def test_every_port_leads_somewhere(target: Target, family: int) -> None:
    assert curl(target, url(target.facts[f"web{family}"], 8888))[0] == 0


@pytest.mark.parametrize(("service", "port"), [("web", 81), ("empty", 80), ("echo", 80)])
def test_refused(target: Target, family: int, service: str, port: int) -> None:
    """A port that the service does not have, and a service without endpoints: at once."""
    status, _, _ = curl(target, url(target.facts[f"{service}{family}"], port))
    assert status == 7  # CURLE_COULDNT_CONNECT; 28 would be a time-out


@pytest.mark.skipif(PROXY_MODE != "nftables", reason="only kube-proxy's nftables mode drops these")
def test_an_address_that_no_service_has_is_silent(target: Target, family: int) -> None:
    address = "10.96.255.253" if family == 4 else "fd00:10:96::fffd"
    assert curl(target, url(address))[0] == 28


def test_a_pod_reaches_itself_through_its_service(target: Target) -> None:
    pod = target.facts["web.pods"].split(",")[0]
    seen = {json.loads(curl(target, "http://web/", pod=pod)[1])["pod"] for _ in range(20)}
    assert pod in seen


def test_a_pod_is_seen_by_its_own_address(target: Target, family: int) -> None:
    status, page, _ = curl(target, url(target.facts[f"web{family}"]))
    assert status == 0
    assert json.loads(page)["client_ip"] == target.facts[f"db-0.{family}"]


def test_headless_services_lead_to_the_pods(target: Target) -> None:
    for pod in ("db-0", "db-1"):
        status, page, _ = curl(target, f"http://{pod}.db:8080/")
        assert (status, json.loads(page)["pod"]) == (0, pod)


def test_an_alias(target: Target) -> None:
    status, page, _ = curl(target, "http://ext/")
    assert status == 0
    assert json.loads(page)["host"] == "ext"


def test_node_ports_on_every_node(target: Target) -> None:
    nodes = target.get("nodes", ".items[*].status.addresses[?(@.type=='InternalIP')].address")
    families = target.families()
    for address in nodes:
        if (6 if ":" in address else 4) in families:
            assert curl(target, url(address, int(target.facts["nodeport"])))[0] == 0, address


ECHO = """
import socket, sys
host, kind = sys.argv[1], sys.argv[2]
info = socket.getaddrinfo(host, 7, type=socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)[0]
with socket.socket(info[0], info[1]) as sock:
    sock.settimeout(3)
    sock.connect(info[4])
    for size in (1, 1000, 8000):
        sock.sendall(b"x" * size)
        got = b""
        while len(got) < size:
            got += sock.recv(65535)
        assert got == b"x" * size
print("same")
"""


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_tcp_and_udp_on_one_port(target: Target, family: int, kind: str) -> None:
    done = target.inside("python3", "-c", ECHO, target.facts[f"echo{family}"], kind)
    assert done.stdout == "same\n", done


def test_a_service_follows_its_pods(target: Target) -> None:
    """Scaled to nothing it refuses, scaled up again it answers; the address stays."""
    target.kubectl("scale", "deployment/echo", "--replicas=0")
    target.kubectl("wait", "--for=delete", "pod", "-l", "app=echo", "--timeout=60s")
    deadline = time.monotonic() + 10
    while curl(target, url(target.facts["echo4"], 7))[0] != 7:
        assert time.monotonic() < deadline
    target.kubectl("scale", "deployment/echo", "--replicas=1")
    target.kubectl("rollout", "status", "deployment/echo", "--timeout=60s")
    deadline = time.monotonic() + 10
    while target.inside("python3", "-c", ECHO, target.facts["echo4"], "tcp").stdout != "same\n":
        assert time.monotonic() < deadline
