"""Which addresses the cluster side dials: a table."""

from __future__ import annotations

import ipaddress

import pytest

from inroad.core.dial_policy import DialPolicy, parse_host

REFUSED = {
    "127.0.0.1": "loopback",
    "127.255.0.9": "loopback",
    "::1": "loopback",
    "::ffff:127.0.0.1": "loopback",
    "169.254.169.254": "link-local",
    "::ffff:169.254.169.254": "link-local",
    "fe80::1": "link-local",
    "febf::1": "link-local",
    "fd00:ec2::254": "metadata",
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "::": "unspecified",
    "224.0.0.251": "multicast",
    "ff02::1": "multicast",
    "255.255.255.255": "broadcast",
    "::ffff:0.0.0.0": "unspecified",
    "::ffff:255.255.255.255": "broadcast",
    "64:ff9b::127.0.0.1": "loopback",
    "64:ff9b::a9fe:a9fe": "link-local",
    "64:ff9b::": "unspecified",
    "64:ff9b::e000:fb": "multicast",
    "64:ff9b:1::a9fe:a9fe": "link-local",
    "64:ff9b:1:fffe::7f00:1": "loopback",
    "::ffff:0:127.0.0.1": "loopback",
    "::127.0.0.1": "loopback",
    "::a9fe:a9fe": "link-local",
}
ALLOWED = (
    "10.96.0.10",
    "10.244.1.0",
    "192.168.1.1",
    "8.8.8.8",
    "fd00:10:96::1",
    "2001:db8::1",
    "::ffff:10.0.0.1",
    "64:ff9b::10.96.0.10",
    "64:ff9b::808:808",
    "64:ff9c::7f00:1",
)


@pytest.mark.parametrize("host", REFUSED)
def test_refused_with_its_kind(host: str) -> None:
    assert REFUSED[host] in DialPolicy().objection(parse_host(host))


@pytest.mark.parametrize("host", ALLOWED)
def test_everything_else_is_dialled(host: str) -> None:
    assert DialPolicy().objection(parse_host(host)) == ""


def test_the_chart_may_allow_a_network_and_no_other() -> None:
    policy = DialPolicy(allow=(ipaddress.ip_network("169.254.20.0/24"),))
    assert policy.objection(parse_host("169.254.20.10")) == ""
    assert policy.objection(parse_host("::ffff:169.254.20.10")) == ""
    assert policy.objection(parse_host("64:ff9b::169.254.20.10")) == ""
    assert policy.objection(parse_host("64:ff9b::169.254.169.254"))
    assert policy.objection(parse_host("169.254.169.254"))


@pytest.mark.parametrize(
    "host", ["web", "", "10.0.0", "fe80::1%eth0", "10.0.0.1/8", "0x7f.1", "127.1", " 10.0.0.1"]
)
def test_only_plain_addresses_are_hosts(host: str) -> None:
    with pytest.raises(ValueError):
        parse_host(host)
