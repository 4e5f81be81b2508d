"""The main job on a real cluster: real clients on a connected workstation."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.e2e.cluster import network
from tests.e2e.stage import Stage

SIZE = 100_000_000
UDP_ECHO = """
import socket, sys
family = socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as sock:
    sock.settimeout(3)
    sock.connect(socket.getaddrinfo("echo", 7, family)[0][4])
    for size in (0, 1, 1200, 9000):
        sock.send(b"x" * size)
        assert sock.recv(65535) == b"x" * size, size
"""
HALF_CLOSE = """
import socket
with socket.create_connection(("echo", 7), 3) as sock:
    sock.sendall(b"y" * 200_000)
    sock.shutdown(socket.SHUT_WR)
    received = 0
    while data := sock.recv(65536):
        received += len(data)
print(received)
"""
MANY = """
import selectors, socket, sys
count = int(sys.argv[1])
address = (socket.gethostbyname("echo"), 7)
selector = selectors.DefaultSelector()
socks = []
for number in range(count):
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(address)
    selector.register(sock, selectors.EVENT_WRITE, number)
    socks.append(sock)
right = 0
while selector.get_map():
    events = selector.select(20)
    if not events:
        break
    for key, mask in events:
        text = b"flow %d" % key.data
        if mask & selectors.EVENT_WRITE:
            error = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                selector.unregister(key.fileobj)
                continue
            key.fileobj.send(text)
            selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
        else:
            right += key.fileobj.recv(100) == text
            selector.unregister(key.fileobj)
print(right)
"""


@pytest.fixture(scope="module")
def connected(stage: Stage) -> Iterator[Stage]:
    """The stage with its workstation connected to namespace `shop`."""
    stage.inroad("quit", status=None)
    before = stage.dump()
    assert stage.ask("connect", "-n", "shop")["change"] == "connected"
    yield stage
    stage.inroad("quit")
    assert stage.dump() == before


@pytest.mark.own_cluster
def test_the_workstation_reaches_the_api_server_and_nothing_else(clean_host: Stage) -> None:
    stage = clean_host
    assert stage.run("nc", "-z", "-w", "2", network.API_ADDRESS, str(network.API_PORT)).returncode == 0
    for address, port in (
        (network.API_ADDRESS, "10250"),
        ("172.18.0.2", "6443"),
        (network.CLUSTER_DNS, "53"),
    ):
        assert stage.run("nc", "-z", "-w", "1", address, port, status=None).returncode != 0


@pytest.mark.parametrize(
    ("url", "namespace"),
    [
        ("http://web/", "shop"),
        ("http://web.shop/", "shop"),
        ("http://web.default/", "default"),
        ("http://web.shop.svc.cluster.local/", "shop"),
        ("http://WEB.Default.svc.cluster.local./", "default"),
    ],
)
@pytest.mark.parametrize("family", ["-4", "-6"])
def test_names(connected: Stage, url: str, namespace: str, family: str) -> None:
    page = connected.curl(url, family)
    assert page["namespace"] == namespace
    assert page["host"] == url.removeprefix("http://").removesuffix("/")


def test_a_connection_starts_at_the_manager(connected: Stage) -> None:
    [manager] = connected.manager_pods()
    addresses = {one["ip"] for one in manager["status"]["podIPs"]}
    assert {connected.curl("http://web/", family)["client_ip"] for family in ("-4", "-6")} == addresses


def test_pods_by_address(connected: Stage) -> None:
    for pod in connected.objects("pods", "-n", "shop", "-l", "app=web"):
        for address in (one["ip"] for one in pod["status"]["podIPs"]):
            host = f"[{address}]" if ":" in address else address
            assert connected.curl(f"http://{host}:8080/")["pod"] == pod["metadata"]["name"]


def test_answers_are_those_of_cluster_dns(connected: Stage) -> None:
    services = {s["metadata"]["name"]: s["spec"] for s in connected.objects("services", "-n", "shop")}
    v4, v6 = sorted(services["web"]["clusterIPs"], key=lambda ip: ":" in ip)
    name = "web.shop.svc.cluster.local"
    assert connected.run("dig", "+short", name).stdout.split() == [v4]
    assert connected.run("dig", "+short", name, "AAAA").stdout.split() == [v6]
    assert connected.run("dig", "+tcp", "+short", name).stdout.split() == [v4]
    port = connected.run("dig", "+short", f"_http._tcp.{name}", "SRV").stdout
    assert port.strip() == f"0 50 80 {name}."
    assert connected.run("dig", "+short", "-x", v4).stdout.strip() == f"{name}."
    for absent, status in (("absent.shop.svc.cluster.local", "NXDOMAIN"), (f"{name}. TXT", "NOERROR")):
        assert f"status: {status}" in connected.run("dig", *absent.split()).stdout


@pytest.mark.parametrize("family", ["4", "6"])
def test_udp(connected: Stage, family: str) -> None:
    connected.python(UDP_ECHO, family)


def test_half_close(connected: Stage) -> None:
    assert connected.python(HALF_CLOSE) == "200000\n"


def test_a_download_arrives_as_it_was_sent(connected: Stage) -> None:
    wanted = connected.run("curl", "-sS", f"http://web/sha256/{SIZE}").stdout.split()[0]
    command = f"curl -sS -m 60 http://web/bytes/{SIZE} | sha256sum"
    assert connected.run("sh", "-c", command).stdout.split()[0] == wanted


def test_an_upload_arrives_as_it_was_sent(connected: Stage) -> None:
    command = (
        "head -c 30000000 /dev/urandom | tee /run/up | curl -sS -m 60 -T - http://web/; sha256sum < /run/up"
    )
    answer, _, digest = connected.run("sh", "-c", command).stdout.partition("\n")
    page = json.loads(answer)
    assert (page["bytes"], page["sha256"]) == (30_000_000, digest.split()[0])


@pytest.mark.parametrize("url", ["http://web:81/", "http://empty/"])
def test_what_nobody_serves_is_refused_at_once(connected: Stage, url: str) -> None:
    done = connected.run("curl", "-4", "-sS", "-m", "10", "-w", "%{time_total}", url, status=7)
    assert float(done.stdout) < 1.0


def test_a_closed_port_of_a_pod_is_refused(connected: Stage) -> None:
    pod = connected.objects("pods", "-n", "shop", "-l", "app=web")[0]
    for address in (one["ip"] for one in pod["status"]["podIPs"]):
        host = f"[{address}]" if ":" in address else address
        done = connected.run("curl", "-sS", "-m", "10", "-w", "%{time_total}", f"http://{host}:9/", status=7)
        assert float(done.stdout) < 1.0


@pytest.mark.own_cluster
def test_other_names_resolve_as_before(connected: Stage) -> None:
    assert connected.run("dig", "+short", "intranet.example.test").stdout.strip() == "192.168.190.80"
    assert connected.run("getent", "hosts", "intranet").stdout.split()[0] == "192.168.190.80"
    assert "status: NXDOMAIN" in connected.run("dig", "absent.example.test").stdout


def test_a_thousand_flows(connected: Stage) -> None:
    assert connected.python(MANY, "1000") == "1000\n"


@pytest.mark.own_cluster
def test_status_names_its_sources(connected: Stage) -> None:
    status = connected.ask("status")
    assert status["connected"] is True
    assert status["resolver"]["kind"] == "overriding"
    found = {subnet["cidr"]: subnet["source"] for subnet in status["subnets"]}
    pods = {cidr for node in connected.objects("nodes") for cidr in node["spec"]["podCIDRs"]}
    assert found == dict.fromkeys(pods, "node podCIDR") | dict.fromkeys(
        network.SERVICE_CIDRS.split(","), "ServiceCIDR"
    )
