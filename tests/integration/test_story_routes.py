"""Which way packets leave a connected workstation: nodes come and go, and what must stay out does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from stage import Stage

OFFICE = "192.168.48.0/20"
"""Around the workstation's own network, with its name server and the API server in it."""
NEVER = "10.96.200.0/24"
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "late"}}


def way(stage: Stage, address: str) -> str:
    return stage.run("ip", "route", "get", address).stdout


@pytest.fixture(scope="module")
def connected(sandbox: Stage) -> Iterator[tuple[Stage, str]]:
    """Yield the sandbox, connected, and the way to a never-proxied address before that."""
    before = way(sandbox, "10.96.200.7")
    flags = ("--also-proxy", OFFICE, "--allow-conflicting-subnets", OFFICE, "--never-proxy", NEVER)
    sandbox.ask("connect", "-n", "shop", *flags)
    yield sandbox, before
    sandbox.inroad("quit")


def test_highest_and_lowest_addresses_of_a_subnet_are_the_clusters(connected: tuple[Stage, str]) -> None:
    stage, _ = connected
    for address in ("10.244.1.0", "10.244.1.255", "10.96.0.0", "10.96.255.255"):
        assert "dev inroad0" in way(stage, address)
    assert "dev inroad0" not in way(stage, "10.97.0.0")


def test_never_proxied_addresses_keep_gateway_and_source(connected: tuple[Stage, str]) -> None:
    stage, before = connected
    assert way(stage, "10.96.200.7") == before
    assert stage.ask("explain", "10.96.200.7")["paths"][0]["way"] == "host"


def test_name_servers_and_api_server_in_a_routed_subnet_stay_outside(connected: tuple[Stage, str]) -> None:
    stage, _ = connected
    status = stage.ask("status")
    server = status["server"].split("//")[1].split(":")[0]
    for address in (server, status["dns"]["fallback"][0].rpartition(":")[0]):
        assert f"{address}/32" in status["never_proxy"]
        assert "dev inroad0" not in way(stage, address)
    assert "dev inroad0" in way(stage, "192.168.50.77")
    stage.run("kubectl", "get", "nodes")


def test_a_new_nodes_subnet_arrives_and_a_removed_ones_goes(connected: tuple[Stage, str]) -> None:
    stage, _ = connected
    spec = {"podCIDR": "10.244.77.0/24", "podCIDRs": ["10.244.77.0/24", "fd00:10:244:77::/64"]}
    assert "dev inroad0" not in way(stage, "10.244.77.1")
    stage.run("kubectl", "create", "-f", "-", stdin=json.dumps(NODE | {"spec": spec}))
    try:
        for address in ("10.244.77.1", "fd00:10:244:77::1"):
            until(stage, address, there=True)
    finally:
        stage.run("kubectl", "delete", "node", "late")
    until(stage, "10.244.77.1", there=False)


def until(stage: Stage, address: str, *, there: bool) -> None:
    """Wait until the way to an address leads into the VIF, or does not any more."""
    deadline = time.monotonic() + 10
    while ("dev inroad0" in stage.run("ip", "route", "get", address, status=None).stdout) != there:
        assert time.monotonic() < deadline, stage.ask("status")["subnets"]
