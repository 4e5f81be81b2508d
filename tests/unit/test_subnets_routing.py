"""The whole way from a plan to the VIF's routes, and the answer to "where does this address go?"."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from inroad.core.conflicts import Wishes
from inroad.core.routing import Routing, decide, explain, inside_candidates
from inroad.core.subnets import plan
from inroad.host.routes.api import HostRoute

POOLS = (ip_network("246.246.0.0/16"), ip_network("fd00:0:0:246::/64"))
PLAN = plan(
    discovered=[
        (ip_network("10.96.0.0/16"), "ServiceCIDR", "service"),
        (ip_network("10.244.1.0/24"), "node podCIDR", "pod"),
        (ip_network("10.244.2.0/24"), "node podCIDR", "pod"),
        (ip_network("fd00:10:244:1::/64"), "node podCIDR", "pod"),
    ],
    also=[ip_network("10.50.0.0/16"), ip_network("10.96.7.64/26"), ip_network("169.254.7.0/24")],
    never=[ip_network("10.96.7.0/24"), ip_network("10.244.2.0/28")],
)
ROUTES = (
    HostRoute(ip_network("0.0.0.0/0"), "eth0", ip_address("192.168.7.1")),
    HostRoute(ip_network("192.168.7.0/24"), "eth0"),
    HostRoute(ip_network("10.244.2.0/23"), "tun0", None, "52"),
)


@pytest.fixture
def routing() -> Routing:
    return decide(PLAN, ROUTES, Wishes(), own="inroad0", pools=POOLS)


def test_what_is_routed_moved_and_left_out(routing: Routing) -> None:
    assert [str(network) for network in routing.subnets] == [
        "10.50.0.0/16",
        "10.96.0.0/16",
        "10.96.7.64/26",
        "10.244.1.0/24",
        "fd00:10:244:1::/64",
        "246.246.0.0/16",
    ]
    assert [str(network) for network in routing.never] == ["10.96.7.0/24"], "a hole in what is moved is none"
    assert [str(moved.network) for moved in routing.moved] == ["10.244.2.0/24"]


@pytest.mark.parametrize(
    ("address", "way", "reason"),
    [
        ("10.96.0.5", "vif", "in 10.96.0.0/16, ServiceCIDR"),
        ("10.96.7.5", "host", "never-proxied by 10.96.7.0/24"),
        ("10.96.7.70", "vif", "in 10.96.7.64/26, also-proxy"),
        ("10.244.2.99", "host", "names get virtual addresses instead of 10.244.2.0/24: node podCIDR "),
        ("246.246.0.9", "virtual", "a virtual address of 246.246.0.0/16"),
        ("169.254.7.7", "host", "also-proxy 169.254.7.0/24 is not routed: inside link-local 169.254.0.0/16"),
        ("8.8.8.8", "host", "in no subnet of the cluster"),
        ("2001:db8::1", "nowhere", "in no subnet of the cluster"),
    ],
)
def test_where_an_address_goes(routing: Routing, address: str, way: str, reason: str) -> None:
    found = explain(routing, ROUTES, ip_address(address))
    assert found.way == way
    assert found.reason.startswith(reason)
    if way == "host":
        assert str(found.route).endswith("tun0 table 52" if address == "10.244.2.99" else "eth0 table main")


def test_subnets_that_the_workstation_may_be_inside_of() -> None:
    node = (
        HostRoute(ip_network("10.244.1.0/24"), "cni0"),
        HostRoute(ip_network("10.244.2.0/24"), "eth0", ip_address("172.18.0.3")),
        HostRoute(ip_network("0.0.0.0/0"), "eth0", ip_address("172.18.0.1")),
    )
    both = {ip_network("10.244.1.0/24"), ip_network("10.244.2.0/24")}
    assert inside_candidates(PLAN, node, [], "inroad0") == both
    calico = (HostRoute(ip_network("10.244.1.64/26"), "blackhole"),)
    assert inside_candidates(PLAN, calico, [], "inroad0") == {ip_network("10.244.1.0/24")}
    pod = inside_candidates(PLAN, ROUTES[:1], [ip_address("10.244.1.7"), ip_address("127.0.0.1")], "inroad0")
    assert pod == {ip_network("10.244.1.0/24")}
    assert inside_candidates(PLAN, ROUTES[:2], [ip_address("192.168.7.2")], "inroad0") == set()
    vif = (HostRoute(ip_network("10.244.1.0/24"), "inroad0"),)
    assert inside_candidates(PLAN, vif, [], "inroad0") == set()
