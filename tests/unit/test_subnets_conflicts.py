"""Conflicts of cluster subnets with the workstation's routes: who wins, who moves, what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.core.conflicts import Wishes, find, parse_moves, parse_via, resolve
from inroad.core.errors import ConfigInvalid, SubnetConflict
from inroad.core.host_config import Network
from inroad.core.subnets import plan
from inroad.host.routes.api import HostRoute


def net(text: str) -> Network:
    return ip_network(text)


def route(text: str, interface: str = "tun0", table: str = "main") -> HostRoute:
    return HostRoute(net(text), interface, None, table)


SERVICES, PODS = net("10.96.0.0/16"), net("10.244.1.0/24")
PLAN = plan(
    discovered=[(SERVICES, "ServiceCIDR", "service"), (PODS, "node podCIDR", "pod")],
    also=[net("192.168.100.0/24")],
    never=[net("10.96.7.0/24")],
)
POOLS = (net("246.246.0.0/16"), net("fd00:0:0:246::/64"))


@pytest.mark.parametrize(
    ("there", "met"),
    [
        ("10.96.4.0/24", ["10.96.0.0/16"]),
        ("10.96.0.0/16", ["10.96.0.0/16"]),
        ("10.96.255.255/32", ["10.96.0.0/16"]),
        ("10.0.0.0/8", ["10.96.0.0/16", "10.244.1.0/24"]),
        ("10.97.0.0/16", []),
        ("0.0.0.0/0", []),
        ("0.0.0.0/1", []),
        ("128.0.0.0/1", []),
        ("10.96.7.0/24", []),
        ("10.96.7.128/25", []),
        ("10.96.6.0/23", ["10.96.0.0/16"]),
        ("192.168.100.9/32", ["192.168.100.0/24"]),
        ("::/0", []),
        ("fd00::/8", []),
    ],
)
def test_what_overlaps(there: str, met: list[str]) -> None:
    found = find(PLAN, [route(there)], own="inroad0")
    assert sorted(str(conflict.planned.network) for conflict in found) == sorted(met)
    assert find(PLAN, [route(there, "inroad0"), route(there, "lo")], own="inroad0") == ()


def test_a_subnet_in_conflict_is_moved_by_default_and_the_others_stay() -> None:
    result = resolve(PLAN, [route("10.96.4.0/24", "tailscale0", "52")], Wishes(), own="inroad0", pools=POOLS)
    assert [str(planned.network) for planned in result.routed] == ["10.244.1.0/24", "192.168.100.0/24"]
    (moved,) = result.moved
    assert (moved.network, moved.workload) == (SERVICES, "")
    assert moved.reason == (
        "ServiceCIDR 10.96.0.0/16 overlaps the route 10.96.4.0/24 dev tailscale0 table 52"
    )


def test_with_everything_off_both_routes_are_named() -> None:
    with pytest.raises(SubnetConflict) as caught:
        resolve(PLAN, [route("10.0.0.0/8"), route("172.17.0.0/16")], Wishes(auto=False), own="inroad0")
    assert (
        "10.96.0.0/16 overlaps the route 10.0.0.0/8 dev tun0 table main, and 1 more" in caught.value.message
    )
    assert "10.96.0.0/16 to routing.allowConflictingSubnets" in caught.value.remedy


@pytest.mark.parametrize("allow", ["10.96.0.0/16", "10.0.0.0/8", "10.96.4.0/24"])
def test_an_allowed_conflict_wins(allow: str) -> None:
    wishes = Wishes(allow=(net(allow),), auto=False)
    result = resolve(PLAN, [route("10.96.4.0/24")], wishes, own="inroad0")
    assert [planned.network for planned in result.routed] == [planned.network for planned in PLAN.subnets]
    assert len(result.allowed) == 1 and not result.moved


def test_vnat_moves_by_kind_or_network_without_any_conflict() -> None:
    kinds, networks = parse_moves(["service", "10.244.1.0/25"])
    result = resolve(PLAN, [], Wishes(kinds=kinds, networks=networks), own="inroad0", pools=POOLS)
    assert [str(planned.network) for planned in result.routed] == ["10.244.1.0/24", "192.168.100.0/24"]
    assert [str(moved.network) for moved in result.moved] == ["10.244.1.0/25", "10.96.0.0/16"]
    kinds, networks = parse_moves(["all"])
    everything = resolve(PLAN, [], Wishes(kinds=kinds), own="inroad0", pools=POOLS)
    assert not everything.routed and len(everything.moved) == 3


@pytest.mark.parametrize("auto", [True, False])
def test_proxy_via_binds_a_network_to_a_workload_even_loopback(auto: bool) -> None:
    _, via = parse_via(["127.0.0.0/8=deploy/mesh", "10.244.0.0/16=sts/db"])
    result = resolve(PLAN, [route("10.244.1.0/24")], Wishes(auto=auto, via=via), own="inroad0", pools=POOLS)
    assert [str(planned.network) for planned in result.routed] == ["10.96.0.0/16", "192.168.100.0/24"]
    assert [(str(moved.network), moved.workload) for moved in result.moved] == [
        ("127.0.0.0/8", "deploy/mesh"),
        ("10.244.0.0/16", "sts/db"),
    ]


def test_proxy_via_binds_whole_kinds_and_a_network_of_its_own_wins() -> None:
    kinds, via = parse_via(["all=deploy/edge", "service=deploy/web", "10.244.0.0/16=sts/db"])
    wishes = Wishes(via=via, via_kinds=kinds, kinds=frozenset({"service"}))
    result = resolve(PLAN, [route("10.244.1.0/24")], wishes, own="inroad0", pools=POOLS)
    assert result.routed == ()
    assert [(str(moved.network), moved.reason, moved.workload) for moved in result.moved] == [
        ("10.244.0.0/16", "--proxy-via", "sts/db"),
        ("10.96.0.0/16", "--proxy-via", "deploy/web"),
        ("192.168.100.0/24", "--proxy-via", "deploy/edge"),
    ]


def test_a_virtual_subnet_that_is_taken_too_is_no_way_out() -> None:
    taken = [route("10.96.4.0/24"), route("246.0.0.0/8", "odd0")]
    with pytest.raises(
        SubnetConflict, match=r"routing\.virtualSubnet 246\.246\.0\.0/16 overlaps .* dev odd0"
    ):
        resolve(PLAN, taken, Wishes(), own="inroad0", pools=POOLS)
    assert resolve(PLAN, taken[1:], Wishes(), own="inroad0", pools=POOLS).moved == ()


@pytest.mark.parametrize("words", [["10.0.0.1/8"], ["everything"], [""]])
def test_a_wrong_vnat_value(words: list[str]) -> None:
    with pytest.raises(ConfigInvalid, match="--vnat"):
        parse_moves(words)


@pytest.mark.parametrize("word", ["10.0.0.0/8", "10.0.0.0/8=", "x=deploy/web"])
def test_a_wrong_proxy_via_value(word: str) -> None:
    with pytest.raises(ConfigInvalid, match="--proxy-via"):
        parse_via([word])


@dataclass(frozen=True)
class Other:
    network: Network
    interface: str = "x"


networks = st.builds(
    lambda value, length: ip_network((value << 16, length), strict=False),
    st.integers(0, 0xFFFF),
    st.integers(2, 32),
)


@given(st.lists(networks, max_size=12), st.lists(networks, max_size=6))
def test_overlaps_against_comparing_each_with_each(subnets: list[Network], others: list[Network]) -> None:
    planned = plan(discovered=[(network, "x") for network in subnets])
    wanted = {
        (entry.network, other)
        for entry in planned.subnets
        for other in others
        if entry.network.overlaps(other)
        and not any(
            other.subnet_of(never) and never.subnet_of(entry.network)  # type: ignore[arg-type]
            for never in planned.never
        )
    }
    found = find(planned, [Other(network) for network in others], own="")
    assert {(conflict.planned.network, conflict.route.network) for conflict in found} == wanted
