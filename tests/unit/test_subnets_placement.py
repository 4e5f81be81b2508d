"""Where our rule goes among the rules that a host has."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from inroad.core.host_config import FWMARK, ROUTE_TABLE
from inroad.host.routes.placement import ours, shadows, wanted_rule
from inroad.host.routes.rtnetlink import (
    AF_INET,
    Route,
    Rule,
    messages,
    parse_route,
    parse_rule,
    parse_shape,
    route_request,
    rule_request,
)

LOCAL, MAIN, DEFAULT = Rule(AF_INET, 0, 255), Rule(AF_INET, 32766, 254), Rule(AF_INET, 32767, 253)
TAILSCALE = [
    Rule(AF_INET, 5210, 254, fwmark=0x80000, fwmask=0xFF0000),
    Rule(AF_INET, 5230, 253, fwmark=0x80000, fwmask=0xFF0000),
    Rule(AF_INET, 5250, 0, action=7, fwmark=0x80000, fwmask=0xFF0000),
    Rule(AF_INET, 5270, 52),
]
WG_QUICK = [
    Rule(AF_INET, 32764, 254, suppress_prefixlen=0),
    Rule(AF_INET, 32765, 51820, invert=True, fwmark=0xCA6C, fwmask=0xFFFFFFFF),
]
VRF = Rule(AF_INET, 1000, 0, selectors=frozenset({"l3mdev"}))
SOURCE_BASED = Rule(AF_INET, 200, 100, selectors=frozenset({"from"}))
SUBNETS = [ip_network("10.96.0.0/16")]


@pytest.mark.parametrize(
    ("others", "priority"),
    [
        ([], 32765),
        (TAILSCALE, 5269),
        (WG_QUICK, 32763),
        (TAILSCALE + WG_QUICK, 5269),
        ([VRF, SOURCE_BASED], 32765),
        ([Rule(AF_INET, 100, 7, to=ip_network("10.96.7.0/24"))], 99),
        ([Rule(AF_INET, 100, 7, to=ip_network("10.97.0.0/16"))], 32765),
        ([Rule(AF_INET, 100, 7, selectors=frozenset({"uid"}))], 99),
        ([Rule(AF_INET, 0, 7)], 0),
    ],
)
def test_before_the_first_rule_that_would_shadow_it(others: list[Rule], priority: int) -> None:
    rules = sorted([LOCAL, *others, MAIN, DEFAULT], key=lambda rule: rule.priority)
    assert wanted_rule(rules, AF_INET, SUBNETS) == ours(AF_INET, priority)


def test_it_stays_where_it_is_while_that_is_early_enough() -> None:
    mine = ours(AF_INET, 5269)
    assert wanted_rule([LOCAL, mine, MAIN, DEFAULT], AF_INET, SUBNETS) == mine
    vpn = Rule(AF_INET, 5000, 9)
    assert wanted_rule([LOCAL, vpn, mine, MAIN, DEFAULT], AF_INET, SUBNETS) == ours(AF_INET, 4999)
    same = Rule(AF_INET, 5269, 9)
    assert wanted_rule([LOCAL, same, mine, MAIN], AF_INET, SUBNETS) == ours(AF_INET, 5268)


def test_marked_packets_of_others_do_not_shadow() -> None:
    assert not shadows(Rule(AF_INET, 5, 9, fwmark=1, fwmask=0xFF), SUBNETS)
    assert shadows(Rule(AF_INET, 5, 9, fwmark=1, fwmask=0xFF, invert=True), SUBNETS)


@pytest.mark.parametrize(
    "text", ["10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/32", "fd00::/64", "::/0", "fd00::1/128"]
)
def test_a_route_reads_back_as_it_was_written(text: str) -> None:
    route = Route(ip_network(text), oif=7, table=ROUTE_TABLE, mtu=1400, quickack=True)
    _, _, _, body = next(messages(route_request(route)))
    assert parse_route(body) == route
    key = (route.network.network_address.packed, route.network.prefixlen)
    assert parse_shape(body) == (ROUTE_TABLE, key, (1, 7, 1400, True))


def test_a_rule_reads_back_as_it_was_written() -> None:
    _, _, _, body = next(messages(rule_request(ours(AF_INET, 77))))
    rule = parse_rule(body)
    assert rule == ours(AF_INET, 77)
    assert (rule.fwmark, rule.invert) == (FWMARK, True)
