"""A cluster whose subnets are somebody else's on the workstation: moved, allowed, or refused."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest
from stage import Stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Yield a sandbox whose workstation has a VPN with a route into the service subnet."""
    stage = Stage(f"t-conflicts-{os.getpid()}")
    stage.up("--family", "ipv4")
    try:
        for line in (
            "ip link add vpn0 type veth peer name vpn1",
            "ip link set vpn0 up",
            "ip link set vpn1 up",
            "ip address add 172.31.0.1/24 dev vpn0",
            "ip route add 10.96.0.0/12 via 172.31.0.2",
        ):
            stage.run(*line.split(), user="root")
        yield stage
    finally:
        stage.down()


@pytest.fixture(autouse=True)
def disconnected(stage: Stage) -> Iterator[None]:
    """End each test's connection."""
    yield
    stage.inroad("quit")


def address_of(stage: Stage, name: str) -> str:
    return stage.run("getent", "ahostsv4", name).stdout.split()[0]


def test_a_conflicting_subnet_gets_virtual_addresses(stage: Stage) -> None:
    before = stage.dump()
    status = stage.ask("connect", "-n", "shop")
    (moved,) = status["moved"]
    assert moved["cidr"] == "10.96.0.0/16"
    assert "10.96.0.0/12" in moved["reason"]
    assert "vpn0" in moved["reason"]
    address = address_of(stage, "web")
    assert ip_address(address) in ip_network("246.246.0.0/16")
    assert stage.curl("http://web/")["namespace"] == "shop"
    (one,) = [one for one in stage.ask("status")["virtual"] if one["virtual"] == address]
    assert ip_address(one["address"]) in ip_network("10.96.0.0/16")
    assert one["flows"] == 0
    assert stage.run("dig", "+short", "-x", address).stdout.strip() == "web.shop.svc.cluster.local."
    assert "via 172.31.0.2 dev vpn0" in stage.run("ip", "route", "get", "10.96.0.10").stdout
    stage.inroad("quit")
    assert stage.dump() == before


def test_an_allowed_conflict_is_ours(stage: Stage) -> None:
    status = stage.ask("connect", "-n", "shop", "--allow-conflicting-subnets", "10.96.0.0/16")
    assert status["moved"] == []
    address = address_of(stage, "web")
    assert ip_address(address) in ip_network("10.96.0.0/16")
    assert "dev inroad0" in stage.run("ip", "route", "get", address).stdout
    assert stage.curl("http://web/")["namespace"] == "shop"


def test_a_refused_conflict_names_both_routes_and_changes_nothing(stage: Stage) -> None:
    before = stage.dump()
    stage.run("sh", "-c", 'mkdir -p "$HOME/.config/inroad"')
    path = stage.write("$HOME/.config/inroad/config.yml", "routing: {autoResolveConflicts: false}\n")
    try:
        said = stage.inroad("connect", "-n", "shop", status=22).stderr
    finally:
        stage.run("sh", "-c", f'rm "{path}"')
    line = said.strip().splitlines()[-1]
    assert "10.96.0.0/16" in line
    assert "10.96.0.0/12" in line
    assert stage.dump() == before


def told(stage: Stage, key: str, *, there: bool) -> list[dict[str, str]]:
    """Wait until status has something to say about `key`, or nothing any more; return what it says."""
    deadline = time.monotonic() + 20
    while bool(found := stage.ask("status")[key]) != there:
        assert time.monotonic() < deadline, stage.ask("status")
    return list(found)


VPN = ("10.96.0.0/12", "via", "172.31.0.2")


@pytest.fixture
def no_vpn(stage: Stage) -> Iterator[None]:
    """Take the VPN's route away while the test lasts."""
    stage.run("ip", "route", "del", *VPN, user="root")
    yield
    stage.run("ip", "route", "replace", *VPN, user="root")


@pytest.mark.usefixtures("no_vpn")
def test_a_vpn_that_comes_and_goes_while_connected_is_made_way_for(stage: Stage) -> None:
    assert stage.ask("connect", "-n", "shop")["moved"] == []
    before = address_of(stage, "web")
    stage.run("ip", "route", "add", *VPN, user="root")
    assert told(stage, "moved", there=True)[0]["cidr"] == "10.96.0.0/16"
    virtual = address_of(stage, "web")
    assert ip_address(virtual) in ip_network("246.246.0.0/16")
    assert stage.curl("http://web/")["namespace"] == "shop"
    (path,) = stage.ask("explain", virtual)["paths"]
    assert (path["way"], path["stands_for"]) == ("virtual", before)
    stage.run("ip", "route", "del", *VPN, user="root")
    told(stage, "moved", there=False)
    assert address_of(stage, "web") == before
    assert stage.curl("http://web/")["namespace"] == "shop"
    assert stage.curl(f"http://{virtual}/", "-H", "Host: web")["namespace"] == "shop", "who has it keeps it"


@pytest.mark.usefixtures("no_vpn")
def test_a_conflict_that_may_not_be_resolved_is_reported_while_it_lasts(stage: Stage) -> None:
    stage.run("sh", "-c", 'mkdir -p "$HOME/.config/inroad"')
    path = stage.write("$HOME/.config/inroad/config.yml", "routing: {autoResolveConflicts: false}\n")
    try:
        stage.ask("connect", "-n", "shop")
        stage.run("ip", "route", "add", *VPN, user="root")
        (warning,) = told(stage, "warnings", there=True)
        assert "10.96.0.0/16" in warning and "10.96.0.0/12 via 172.31.0.2 dev vpn0" in warning
        stage.run("ip", "route", "del", *VPN, user="root")
        told(stage, "warnings", there=False)
    finally:
        stage.run("sh", "-c", f'rm "{path}"')


def test_everything_can_be_moved_on_request(stage: Stage) -> None:
    status = stage.ask("connect", "-n", "shop", "--vnat", "all")
    assert status["subnets"] == []
    assert {one["reason"] for one in status["moved"]} == {"--vnat"}
    assert stage.curl("http://web.default/")["namespace"] == "default"
