"""`inroad explain` in a sandbox: what it says is what names and packets do there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stage import Stage


@pytest.fixture(scope="module")
def connected(sandbox: Stage) -> Iterator[Stage]:
    """Yield the sandbox, connected to namespace shop with one also-proxy subnet."""
    sandbox.ask("connect", "-n", "shop", "--also-proxy", "198.51.100.0/24")
    yield sandbox
    sandbox.inroad("quit")


def test_a_service_is_followed_from_its_name_to_who_dials(connected: Stage) -> None:
    found = connected.ask("explain", "web")
    assert found["name"]["rule"] == "single-label"
    assert found["name"]["canonical"] == "web.shop.svc.cluster.local"
    looked_up = connected.run("getent", "ahosts", "web").stdout.splitlines()
    assert {path["address"] for path in found["paths"]} == {line.split()[0] for line in looked_up}
    for path in found["paths"]:
        assert path["way"] == "vif"
        assert "ServiceCIDR" in path["reason"]
        assert path["origin"]["pod"] == connected.ask("status")["origin"]["pod"]


@pytest.mark.parametrize(
    ("address", "way"),
    [("10.244.1.1", "vif"), ("198.51.100.9", "vif"), ("192.168.50.1", "host"), ("203.0.113.1", "host")],
)
def test_the_way_of_an_address_is_the_kernels(connected: Stage, address: str, way: str) -> None:
    (path,) = connected.ask("explain", address)["paths"]
    assert path["way"] == way
    route = connected.run("ip", "route", "get", address).stdout
    assert ("dev inroad0" in route) == (way == "vif")
    device = path["route"].split(" dev ")[1].split()[0]
    assert f"dev {device} " in route


def test_a_name_that_the_cluster_denies(connected: Stage) -> None:
    found = connected.ask("explain", "nobody.shop.svc.cluster.local")
    assert (found["name"]["result"], found["paths"]) == ("there is no such name", [])
    text = connected.inroad("explain", "nobody.shop.svc.cluster.local").stdout
    assert "there is no such name" in text


def test_what_is_no_name_is_refused(connected: Stage) -> None:
    assert connected.ask("explain", "http://web/", status=23)["error"]["code"] == "config-invalid"
