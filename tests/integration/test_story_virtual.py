"""Everything of the cluster behind virtual addresses, both families."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest
from stage import Stage

POOLS = {"-4": ip_network("246.246.0.0/16"), "-6": ip_network("fd00:0:0:246::/64")}
KINDS = {"-4": "A", "-6": "AAAA"}


@pytest.fixture(scope="module")
def moved(sandbox: Stage) -> Iterator[Stage]:
    """Yield the sandbox, connected with no address of its own."""
    sandbox.ask("connect", "-n", "shop", "--vnat", "all")
    yield sandbox
    sandbox.inroad("quit")


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_names_lead_to_virtual_addresses_of_their_family_and_back(moved: Stage, family: str) -> None:
    name = "web.shop.svc.cluster.local"
    (address,) = moved.run("dig", "+short", name, KINDS[family]).stdout.split()
    assert ip_address(address) in POOLS[family]
    assert moved.curl("http://web/", family)["namespace"] == "shop"
    assert moved.run("dig", "+short", "-x", address).stdout.strip() == f"{name}."
    (path,) = moved.ask("explain", address)["paths"]
    (shown,) = [one for one in moved.ask("status")["virtual"] if one["virtual"] == address]
    assert path["way"] == "virtual"
    assert path["stands_for"] == shown["address"]
    assert ip_address(shown["address"]) not in POOLS[family]


def test_headless_pods_and_their_srv_records_are_virtual_too(moved: Stage) -> None:
    found = moved.run("dig", "+short", "db-0.db.shop.svc.cluster.local", "A").stdout.split()
    assert found and all(ip_address(one) in POOLS["-4"] for one in found)
    answer = moved.run("dig", "+noall", "+additional", "_http._tcp.web.shop.svc.cluster.local", "SRV").stdout
    addresses = [line.split()[-1] for line in answer.splitlines() if line.split()[3:4] in (["A"], ["AAAA"])]
    assert all(any(ip_address(one) in pool for pool in POOLS.values()) for one in addresses)


@pytest.mark.parametrize("address", ["246.246.77.77", "fd00:0:0:246::7777"])
def test_a_virtual_address_that_means_nothing_is_refused_at_once(moved: Stage, address: str) -> None:
    url = f"http://[{address}]/" if ":" in address else f"http://{address}/"
    assert moved.run("curl", "-sS", "-m", "10", url, status=None).returncode == 7


def test_a_connection_keeps_its_virtual_address_in_use(moved: Stage) -> None:
    program = (
        "import socket, sys; s = socket.create_connection(('echo', 7), 5); s.sendall(b'x'); s.recv(1);"
        "print(s.getpeername()[0], flush=True); sys.stdin.read()"
    )
    line = moved.command(["python3", "-u", "-c", program], "dev", "workstation")
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip()

    def flows() -> int:
        found = moved.ask("status")["virtual"]
        return int(next(one["flows"] for one in found if one["virtual"] == address))

    assert flows() == 1
    process.communicate("")
    deadline = time.monotonic() + 10
    while flows() and time.monotonic() < deadline:
        pass  # asking takes its time
    assert flows() == 0
