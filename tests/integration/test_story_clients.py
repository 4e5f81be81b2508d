"""The main job: real clients on a connected workstation, as its ordinary user."""

import os
from collections.abc import Iterator

import pytest
from stage import Stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")

SIZE = 100_000_000
UDP_ECHO = """
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    sock.settimeout(3)
    sock.connect((sys.argv[1], 7))
    for size in (0, 1, 1200):
        sock.send(b"x" * size)
        assert sock.recv(65535) == b"x" * size, size
"""
HALF_CLOSE = """
import socket, sys
with socket.create_connection((sys.argv[1], 7), 3) as sock:
    sock.sendall(b"y" * 200_000)
    sock.shutdown(socket.SHUT_WR)
    received = 0
    while data := sock.recv(65536):
        received += len(data)
print(received)
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Yield a sandbox whose workstation is connected to namespace `shop`."""
    stage = Stage("t-clients")
    stage.up()
    try:
        outcome = stage.ask("connect", "-n", "shop")
        assert outcome["change"] == "connected"
        yield stage
        stage.inroad("quit")
    finally:
        stage.down()


@pytest.mark.parametrize(
    ("url", "namespace"),
    [
        ("http://web/", "shop"),
        ("http://web.shop/", "shop"),
        ("http://web.default/", "default"),
        ("http://web.shop.svc/", "shop"),
        ("http://web.shop.svc.cluster.local/", "shop"),
        ("http://WEB.Default.svc.cluster.local./", "default"),
    ],
)
def test_names(stage: Stage, url: str, namespace: str) -> None:
    page = stage.curl(url)
    assert page["namespace"] == namespace
    assert page["host"] == url.removeprefix("http://").removesuffix("/")


def test_a_connection_starts_at_the_manager(stage: Stage) -> None:
    [manager] = stage.pods("inroad/traffic-manager")
    for flag in ("-4", "-6"):
        assert stage.curl("http://web/", flag)["client_ip"] in stage.addresses(manager)


def test_a_pod_and_a_service_by_address(stage: Stage) -> None:
    for pod in stage.pods("shop/web"):
        for address in stage.addresses(pod):
            page = stage.curl(f"http://{bracketed(address)}:8080/")
            assert f"pod/shop/{page['pod']}" == pod
    for kind, network in (("A", "10.96."), ("AAAA", "fd00:10:96::")):
        service = stage.run("dig", "+short", "web.shop.svc.cluster.local", kind).stdout.strip()
        assert service.startswith(network)
        assert stage.curl(f"http://{bracketed(service)}/")["namespace"] == "shop"


def bracketed(address: str) -> str:
    """Return an address as it stands in a URL."""
    return f"[{address}]" if ":" in address else address


def test_dig_and_getent(stage: Stage) -> None:
    service = stage.run("dig", "+short", "web.default.svc.cluster.local").stdout.strip()
    assert stage.run("getent", "ahostsv4", "web.default").stdout.split()[0] == service
    assert service in stage.run("getent", "ahosts", "web.default").stdout.split()
    assert (
        stage.run("getent", "hosts", "web.default").stdout.split()[0].startswith(("10.96.", "fd00:10:96::"))
    )
    assert stage.run("dig", "+tcp", "+short", "web.default.svc.cluster.local").stdout.strip() == service
    nodata = stage.run("dig", "web.shop.svc.cluster.local", "MX").stdout
    assert "status: NOERROR" in nodata
    assert "ANSWER: 0" in nodata
    absent = stage.run("dig", "absent.shop.svc.cluster.local").stdout
    assert "status: NXDOMAIN" in absent


def test_udp(stage: Stage) -> None:
    stage.run("python3", "-c", UDP_ECHO, "echo")
    stage.run("python3", "-c", UDP_ECHO, "echo.shop.svc.cluster.local")


def test_half_close(stage: Stage) -> None:
    assert stage.run("python3", "-c", HALF_CLOSE, "echo").stdout == "200000\n"


def test_a_download_arrives_as_it_was_sent(stage: Stage) -> None:
    wanted = stage.run("curl", "-sS", f"http://web/sha256/{SIZE}").stdout.split()[0]
    fetched = stage.run("sh", "-c", f"curl -sS -m 60 http://web/bytes/{SIZE} | sha256sum").stdout.split()[0]
    assert fetched == wanted


def test_an_upload_arrives_as_it_was_sent(stage: Stage) -> None:
    command = (
        "head -c 30000000 /dev/urandom | tee /tmp/up | curl -sS -m 60 -T - http://web/; sha256sum < /tmp/up"
    )
    answer, _, digest = stage.run("sh", "-c", command).stdout.partition("\n")
    assert digest.split()[0] in answer
    assert "30000000" in answer


@pytest.mark.parametrize("url", ["http://web:81/", "http://empty/"])
def test_what_nobody_serves_is_refused_at_once(stage: Stage, url: str) -> None:
    done = stage.run("curl", "-sS", "-m", "10", "-w", "%{time_total}", url, status=7)
    assert float(done.stdout) < 1.0


def test_nc_tells_the_truth(stage: Stage) -> None:
    stage.run("nc", "-z", "-w", "5", "web", "80")
    stage.run("nc", "-z", "-w", "5", "web", "81", status=1)


def test_other_names_resolve_as_before(stage: Stage) -> None:
    assert stage.address("lan") in stage.run("dig", "+short", "intranet.example").stdout.split()
    assert stage.address("lan") in stage.run("getent", "ahosts", "www.example").stdout.split()
    assert "status: NXDOMAIN" in stage.run("dig", "absent.example").stdout
    assert stage.run("curl", "-sS", "-m", "5", "http://www.example/").stdout


def test_status_tells_what_is(stage: Stage) -> None:
    status = stage.ask("status")
    assert status["connected"] is True
    assert status["namespace"] == "shop"
    assert status["context"]
    assert status["resolver"]["kind"] == "overriding"
    assert status["resolver"]["reason"]
    assert {subnet["cidr"] for subnet in status["subnets"]} == set(
        stage.state["service_cidrs"] + stage.state["pod_cidrs"]
    )
    assert all(subnet["family"] in (4, 6) and subnet["source"] for subnet in status["subnets"])
    assert (status["dns"]["address"], status["dns"]["port"]) == ("246.246.0.1", 53)
    text = stage.inroad("status").stdout
    assert text.startswith("Connected\n")
    assert "shop" in text


def test_connecting_again_reports_and_switches(stage: Stage) -> None:
    assert stage.ask("connect", "-n", "shop")["change"] == "unchanged"
    assert stage.ask("connect")["change"] == "unchanged"
    try:
        assert stage.ask("connect", "-n", "default")["change"] == "namespace"
        assert stage.curl("http://web/")["namespace"] == "default"
    finally:
        stage.ask("connect", "-n", "shop")
    assert stage.curl("http://web/")["namespace"] == "shop"


def test_the_session_is_its_users(stage: Stage) -> None:
    stage.inroad("quit", user="guest", status=10)
    assert stage.ask("status")["connected"] is True
