from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.core.reverse import covering, zones


def n(*texts):
    return tuple(map(ip_network, texts))


@pytest.mark.parametrize(
    ("subnets", "expected"),
    [
        (n(), ()),
        (n("10.96.0.0/16"), ("96.10.in-addr.arpa",)),
        (n("10.244.1.0/24"), ("1.244.10.in-addr.arpa",)),
        (n("10.244.1.0/25"), ("1.244.10.in-addr.arpa",)),
        (n("10.244.1.240/28"), tuple(f"{i}.1.244.10.in-addr.arpa" for i in range(240, 256))),
        (n("10.128.0.0/9"), ("10.in-addr.arpa",)),
        (n("10.96.0.0/15"), ("96.10.in-addr.arpa", "97.10.in-addr.arpa")),
        (n("10.0.0.0/8", "10.96.0.0/16"), ("10.in-addr.arpa",)),
        (n("10.1.1.1/32"), ("1.1.1.10.in-addr.arpa",)),
        (n("fd00:10:96::/112"), ("0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa",)),
        (n("fc00::/7"), ("c.f.ip6.arpa", "d.f.ip6.arpa")),
    ],
)
def test_zones(subnets, expected):
    assert zones(subnets) == expected


v4 = st.builds(
    lambda a, p: ip_network((a >> (32 - p) << (32 - p), p)), st.integers(0, 2**32 - 1), st.integers(1, 32)
)
v6 = st.builds(
    lambda a, p: ip_network((a >> (128 - p) << (128 - p), p)), st.integers(0, 2**128 - 1), st.integers(1, 128)
)


@given(st.lists(v4 | v6, max_size=6), st.integers(40, 300))
def test_zones_cover_every_subnet_and_are_bounded(subnets, limit):
    found = zones(subnets, limit)
    assert len(found) <= max(limit, 272)
    covered = [covering(zone) for zone in found]
    for subnet in subnets:
        for piece in (subnet.network_address, subnet.broadcast_address):
            assert any(piece in network for network in covered if network.version == piece.version)


def test_many_subnets_are_joined():
    subnets = tuple(ip_network(f"10.{i // 256}.{i % 256}.0/24") for i in range(2_000))
    assert len(zones(subnets)) <= 256
