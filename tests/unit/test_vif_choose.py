"""Which data plane a host gets: a table of hosts."""

from __future__ import annotations

import pytest

from inroad.core.errors import ConfigInvalid, HostChangeFailed, NoTunDevice
from inroad.host.vif.choose import Probes, choose
from inroad.host.vif.firewall import Chain, culprits, remedy

ALL = Probes()
NO_NFT = Probes(missing=("nft",))
CONTAINER = Probes(no_namespace="a private network namespace can't be made: Operation not permitted")
OLD_KERNEL = Probes(no_veth="nftables refused the redirection")
MAC, WINDOWS = Probes(platform="darwin"), Probes(platform="win32")


@pytest.mark.parametrize(
    ("mode", "probes", "plane", "reason"),
    [
        ("auto", ALL, "veth", "redirects"),
        ("veth", ALL, "veth", "vif.mode is veth"),
        ("tun", ALL, "tun", "vif.mode is tun"),
        ("auto", NO_NFT, "tun", "nft not installed"),
        ("tun", NO_NFT, "tun", "vif.mode is tun"),
        ("auto", OLD_KERNEL, "tun", "refused the redirection"),
        ("auto", CONTAINER, "one-tun", "Operation not permitted"),
        ("tun", CONTAINER, "one-tun", "Operation not permitted"),
        ("auto", MAC, "utun", "macOS has utun devices"),
        ("tun", WINDOWS, "wintun", "Windows has wintun devices"),
    ],
)
def test_choice(mode: str, probes: Probes, plane: str, reason: str) -> None:
    choice = choose(mode, probes)
    assert choice.plane == plane
    assert reason in choice.reason


@pytest.mark.parametrize("probes", [NO_NFT, CONTAINER, OLD_KERNEL])
def test_veth_that_was_asked_for_is_not_replaced(probes: Probes) -> None:
    with pytest.raises(HostChangeFailed, match="veth mode is not possible") as caught:
        choose("veth", probes)
    assert caught.value.remedy


def test_elsewhere() -> None:
    with pytest.raises(HostChangeFailed, match="veth mode needs Linux"):
        choose("veth", MAC)
    with pytest.raises(NoTunDevice, match="no VIF for sunos5"):
        choose("auto", Probes(platform="sunos5"))


def test_unknown_mode() -> None:
    with pytest.raises(ConfigInvalid, match="magic"):
        choose("magic", ALL)


def chain(family: str, table: str, name: str, hook: str = "input", policy: str = "accept") -> dict:
    return {"chain": {"family": family, "table": table, "name": name, "hook": hook, "policy": policy}}


def rule(family: str, table: str, name: str, *expressions: dict) -> dict:
    return {"rule": {"family": family, "table": table, "chain": name, "expr": list(expressions)}}


def test_the_chain_in_the_way_is_found() -> None:
    ruleset = [
        {"metainfo": {}},
        chain("ip", "filter", "INPUT", policy="drop"),
        chain("ip", "filter", "FORWARD", hook="forward", policy="drop"),
        chain("ip6", "filter", "INPUT"),
        chain("inet", "firewalld", "filter_INPUT"),
        rule("inet", "firewalld", "filter_INPUT", {"match": {}}, {"accept": None}),
        rule("inet", "firewalld", "filter_INPUT", {"reject": {"type": "icmpx"}}),
    ]
    four = culprits(ruleset, 4)
    assert [str(found) for found in four] == [
        "chain ip filter INPUT (policy drop)",
        "chain inet firewalld filter_INPUT (its last rule is reject)",
    ]
    assert [found.table for found in culprits(ruleset, 6)] == ["firewalld"]


@pytest.mark.parametrize(
    ("chains", "command"),
    [
        ([Chain("ip", "filter", "INPUT", "")], "iptables -I INPUT -i inroad0 -j ACCEPT"),
        ([Chain("ip6", "filter", "INPUT", "")], "ip6tables -I INPUT -i inroad0 -j ACCEPT"),
        ([Chain("inet", "mine", "in", "")], "nft insert rule inet mine in iifname inroad0 accept"),
        ([Chain("inet", "firewalld", "filter_INPUT", "")], "firewall-cmd"),
    ],
)
def test_remedy(chains: list[Chain], command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inroad.host.vif.firewall.tool", lambda name: None)
    assert remedy(chains, "inroad0").startswith(command)
