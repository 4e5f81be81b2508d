"""The VIF's set of subnets, as tables and against a slow model with one decision per address."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.core.host_config import Network
from inroad.core.subnets import Plan, plan


def nets(*texts: str) -> list[Network]:
    return [ip_network(text) for text in texts]


def routed(planned: Plan) -> list[str]:
    return [str(subnet.network) for subnet in planned.subnets]


def reasons(planned: Plan) -> dict[str, str]:
    return {str(drop.network): drop.reason for drop in planned.dropped}


def test_equal_and_covered_subnets_go() -> None:
    planned = plan(
        discovered=[
            (ip_network("10.96.0.0/16"), "ServiceCIDR"),
            (ip_network("10.244.1.0/24"), "node podCIDR"),
            (ip_network("10.244.1.0/24"), "pod cover"),
        ],
        also=nets("10.96.7.0/24", "10.244.0.0/16", "1.2.3.4/32", "fd00::/64", "fd00::1/128"),
    )
    assert routed(planned) == ["1.2.3.4/32", "10.96.0.0/16", "10.244.0.0/16", "fd00::/64"]
    sources = [subnet.source for subnet in planned.subnets]
    assert sources == ["also-proxy", "ServiceCIDR", "also-proxy", "also-proxy"]
    assert [subnet.family for subnet in planned.subnets] == [4, 4, 4, 6]
    assert reasons(planned) == {
        "10.244.1.0/24": "covered by also-proxy 10.244.0.0/16",
        "10.96.7.0/24": "covered by ServiceCIDR 10.96.0.0/16",
        "fd00::1/128": "covered by also-proxy fd00::/64",
    }


@pytest.mark.parametrize(
    ("also", "never", "routes", "holes"),
    [
        (["10.0.0.0/8"], ["10.1.0.0/16"], ["10.0.0.0/8"], ["10.1.0.0/16"]),
        (["10.0.0.0/8", "10.1.2.0/24"], ["10.1.0.0/16"], ["10.0.0.0/8", "10.1.2.0/24"], ["10.1.0.0/16"]),
        (["10.1.2.0/24"], ["10.0.0.0/8"], ["10.1.2.0/24"], []),
        (["10.1.2.0/24"], ["10.1.2.0/24"], [], []),
        (["10.1.2.0/24"], ["10.1.2.0/24", "10.1.2.9/32"], [], []),
        (["10.1.2.0/24"], ["192.168.0.0/16"], ["10.1.2.0/24"], []),
        (["10.0.0.0/8"], ["10.1.0.0/16", "10.1.2.0/24"], ["10.0.0.0/8"], ["10.1.0.0/16"]),
        (["10.0.0.0/31", "10.0.0.1/32"], ["10.0.0.0/32"], ["10.0.0.0/31"], ["10.0.0.0/32"]),
    ],
)
def test_longest_prefix_decides_between_also_and_never(
    also: list[str], never: list[str], routes: list[str], holes: list[str]
) -> None:
    planned = plan(also=nets(*also), never=nets(*never))
    assert routed(planned) == routes
    assert [str(network) for network in planned.never] == holes


def test_the_always_never_set_beats_longer_prefixes() -> None:
    planned = plan(
        discovered=[(ip_network("10.0.0.0/16"), "node podCIDR"), (ip_network("10.0.0.5/32"), "pod cover")],
        also=nets("10.0.0.5/32"),
        always_never=nets("10.0.0.5/32", "8.8.8.8/32"),
    )
    assert routed(planned) == ["10.0.0.0/16"]
    assert [str(network) for network in planned.never] == ["10.0.0.5/32"]


def test_loopback_link_local_and_multicast_are_never_routed() -> None:
    also = nets("127.0.0.0/8", "127.1.0.0/16", "169.254.169.254/32", "224.0.0.0/24", "fe80::/64", "::1/128")
    planned = plan(also=also)
    assert routed(planned) == []
    assert reasons(planned)["169.254.169.254/32"] == "inside link-local 169.254.0.0/16"
    everything = plan(also=nets("0.0.0.0/0", "::/0"))
    assert routed(everything) == ["0.0.0.0/0", "::/0"]
    holes = [str(network) for network in everything.never]
    assert "127.0.0.0/8" in holes and "fe80::/10" in holes and "169.254.0.0/16" in holes


def test_subnets_that_the_workstation_is_inside_of_are_skipped() -> None:
    pods = ip_network("10.244.1.0/24")
    discovered = [(pods, "node podCIDR"), (ip_network("10.96.0.0/16"), "ServiceCIDR")]
    planned = plan(discovered=discovered, inside=[pods])
    assert routed(planned) == ["10.96.0.0/16"]
    assert reasons(planned) == {"10.244.1.0/24": "the workstation is inside it"}


small = st.builds(
    lambda address, length: ip_network((0x0A000000 + address, length), strict=False),
    st.integers(0, 255),
    st.integers(24, 32),
)


Nets = list[IPv4Network]


def bitmap(networks: Iterable[Network]) -> list[int]:
    """The longest prefix around each address of 10.0.0.0/24, -1 where there is none."""
    longest = [-1] * 256
    for network in networks:
        for address in range(int(network[0]) & 255, (int(network[-1]) & 255) + 1):
            longest[address] = max(longest[address], network.prefixlen)
    return longest


@given(st.lists(small), st.lists(small), st.lists(small), st.lists(small))
def test_against_a_bitmap(discovered: Nets, also: Nets, never: Nets, always: Nets) -> None:
    """Every address of 10.0.0.0/24 goes where the longest prefix among the inputs says."""
    planned = plan(discovered=[(n, "node") for n in discovered], also=also, never=never, always_never=always)
    inputs = zip(bitmap(discovered + also), bitmap(never), bitmap(always), strict=True)
    wanted = [yes > no and kept < 0 for yes, no, kept in inputs]
    got = zip(bitmap(subnet.network for subnet in planned.subnets), bitmap(planned.never), strict=True)
    assert [yes > no for yes, no in got] == wanted


@given(st.lists(small), st.lists(small))
def test_nothing_superfluous_is_planned(also: Nets, never: Nets) -> None:
    """Taking any one away changes where some address goes: planning the rest gives something else."""
    planned = plan(also=also, never=never)
    subnets = [subnet.network for subnet in planned.subnets]
    again = plan(also=subnets, never=planned.never)
    assert (routed(again), again.never) == (routed(planned), planned.never)
    assert not again.dropped
    for leave in subnets:
        rest = plan(also=[network for network in subnets if network != leave], never=planned.never)
        assert rest != planned
