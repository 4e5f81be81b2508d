"""What `inroad explain` says: tables of names and addresses in one made-up session."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.cli.explain import explanation_text
from inroad.core import dns_policy
from inroad.core.dns_policy import Action, DnsPolicy, decide
from inroad.core.errors import ConfigInvalid
from inroad.core.explain import MEANINGS, Session, name_path, packet_path, read, unique
from inroad.core.messages import AgentInfo
from inroad.core.names import parse
from inroad.core.origin import Wishes, Workload
from inroad.core.routing import Routing
from inroad.core.status import Explanation, PathStatus
from inroad.core.subnets import Dropped, Planned
from inroad.core.vnat import Moved, Target


@dataclass(frozen=True)
class Route:
    """A route of somebody else."""

    network: object
    interface: str

    def __str__(self) -> str:
        return f"{self.network} dev {self.interface} table main"


SESSION = Session(
    policy=DnsPolicy(
        namespace="shop",
        mapped_namespaces=("shop", "default"),
        routed_subnets=(ip_network("10.244.1.0/24"),),
        include_suffixes=(".corp.example",),
        excludes=("secret.shop",),
        mappings=(("db.test", "10.1.2.3"), ("www.test", "web.shop")),
        own_addresses=(ip_address("246.246.0.1"),),
    ),
    routing=Routing(
        routed=(
            Planned(ip_network("10.244.1.0/24"), "node podCIDR", "pod"),
            Planned(ip_network("198.51.100.0/24"), "also-proxy", "also"),
            Planned(ip_network("fd00:10:96::/112"), "ServiceCIDR", "service"),
        ),
        never=(ip_network("198.51.100.128/25"),),
        moved=(
            Moved(ip_network("10.96.0.0/16"), "it overlaps the route of vpn0"),
            Moved(ip_network("10.97.0.0/16"), "--proxy-via", "deploy/web"),
        ),
        pools=(ip_network("246.246.0.0/16"),),
        dropped=(Dropped(ip_network("10.244.2.0/24"), "node podCIDR", "the workstation is inside it"),),
    ),
    routes=(
        Route(ip_network("0.0.0.0/0"), "eth0"),
        Route(ip_network("10.96.0.0/12"), "vpn0"),
        Route(ip_network("10.244.2.0/24"), "cni0"),
    ),
    interface="inroad0",
    own=(ip_address("246.246.0.1"), ip_address("fd00:0:0:246::1")),
    manager="traffic-manager-x",
    agents=(),
    wishes=Wishes("shop"),
    fallback=("192.168.1.1",),
)
AGENT = AgentInfo(id="a1", namespace="shop", pod="web-0", kind="ephemeral", workload="deploy/web")
HOST = "this workstation's name servers (192.168.1.1)"
IN_SHOP = f"the cluster, as a pod in shop would ask; if it knows no such name, {HOST}"


@pytest.mark.parametrize(
    ("name", "rule", "meaning", "asked"),
    [
        ("web", "single-label", "connected namespace", IN_SHOP),
        ("web.default", "namespace", "its last label, default, is", IN_SHOP),
        ("web.default.svc", "svc", "ends in svc", "the cluster, as a pod in shop would ask"),
        ("web.shop.svc.cluster.local", "cluster-domain", "domain cluster.local", "the cluster"),
        ("git.corp.example", "include-suffix", "dns.includeSuffixes", IN_SHOP),
        ("example.com", "exclude-suffix", "dns.excludeSuffixes", HOST),
        ("secret.shop", "excludes", "dns.excludes", HOST),
        ("db.test", "mappings", "dns.mappings", "nobody; inroad knows the answer"),
        ("www.test", "mappings", "dns.mappings", "in its place: web.shop"),
        ("wpad.shop", "wpad", "never asked of the cluster", HOST),
        ("b._dns-sd._udp.shop", "dns-sd", "service discovery", HOST),
        ("localhost", "localhost", "this workstation", "nobody; inroad knows the answer"),
        ("x.inroad-check.shop", "self-check", "queries reach it", "nobody; inroad knows the answer"),
        (
            "7.1.244.10.in-addr.arpa",
            "reverse",
            "reverse name",
            f"the cluster; if it knows no such name, {HOST}",
        ),
        ("build.elsewhere", "other", "nothing says", HOST),
    ],
)
def test_a_name_is_told_its_rule_and_who_is_asked(name, rule, meaning, asked):
    path = name_path(SESSION, parse(name))
    assert (path.name, path.rule, path.asked) == (name, rule, asked)
    assert meaning in path.meaning


def test_every_rule_has_a_meaning():
    """The rules are the words that `dns_policy` gives its decisions."""
    source = Path(dns_policy.__file__).read_text()
    assert set(re.findall(r'Decision\(Action\.\w+, "([a-z-]+)"', source)) == set(MEANINGS)


@given(
    st.lists(
        st.sampled_from(["web", "shop", "svc", "cluster", "local", "com", "arpa", "wpad", "x"]), max_size=6
    )
)
def test_every_name_can_be_explained_and_as_it_is_decided(labels):
    name = tuple(label.encode() for label in labels)
    path = name_path(SESSION, name)
    decision = decide(SESSION.policy, name, 1)
    assert path.rule == decision.rule
    assert ("the cluster" in path.asked) == (decision.action is Action.CLUSTER)


@pytest.mark.parametrize(
    ("address", "way", "reason", "subnet", "route"),
    [
        (
            "10.244.1.7",
            "vif",
            "in 10.244.1.0/24, node podCIDR",
            "10.244.1.0/24",
            "10.244.1.0/24 dev inroad0 table 41133",
        ),
        (
            "198.51.100.1",
            "vif",
            "in 198.51.100.0/24, also-proxy",
            "198.51.100.0/24",
            "198.51.100.0/24 dev inroad0 table 41133",
        ),
        (
            "198.51.100.200",
            "host",
            "never-proxied by 198.51.100.128/25",
            "198.51.100.128/25",
            "0.0.0.0/0 dev eth0 table main",
        ),
        (
            "fd00:10:96::5",
            "vif",
            "in fd00:10:96::/112, ServiceCIDR",
            "fd00:10:96::/112",
            "fd00:10:96::/112 dev inroad0 table 41133",
        ),
        (
            "10.96.0.10",
            "host",
            "names get virtual addresses instead of 10.96.0.0/16: it overlaps the route of vpn0",
            "10.96.0.0/16",
            "10.96.0.0/12 dev vpn0 table main",
        ),
        (
            "10.244.2.9",
            "host",
            "node podCIDR 10.244.2.0/24 is not routed: the workstation is inside it",
            "10.244.2.0/24",
            "10.244.2.0/24 dev cni0 table main",
        ),
        ("192.0.2.1", "host", "in no subnet of the cluster", "", "0.0.0.0/0 dev eth0 table main"),
        ("2001:db8::1", "nowhere", "in no subnet of the cluster", "", ""),
        ("127.0.0.1", "host", "an address of this workstation", "", ""),
        ("fd00:0:0:246::1", "host", "an address of this workstation", "", ""),
    ],
)
def test_an_address_is_told_its_subnet_and_route(address, way, reason, subnet, route):
    path = packet_path(SESSION, ip_address(address), Target(ip_address(address)))
    assert (path.way, path.reason, path.subnet, path.route) == (way, reason, subnet, route)
    assert (path.origin is None) == (way != "vif")
    assert path.stands_for == ""


VIRTUAL = ip_address("246.246.0.9")
POOL = "a virtual address of 246.246.0.0/16"


def test_a_virtual_address_is_told_what_it_stands_for():
    path = packet_path(SESSION, VIRTUAL, Target(ip_address("10.96.0.10")))
    assert path.way == "virtual"
    assert path.stands_for == "10.96.0.10"
    assert path.reason == f"{POOL}, in place of 10.96.0.0/16: it overlaps the route of vpn0"
    assert path.origin.pod == "traffic-manager-x"


def test_a_virtual_address_without_meaning_leads_nowhere():
    path = packet_path(SESSION, VIRTUAL, None)
    assert (path.way, path.origin) == ("nowhere", None)
    assert path.reason.startswith(POOL)


@pytest.mark.parametrize(
    ("agents", "wishes", "bound", "pod", "kind", "reason"),
    [
        ((), Wishes("shop"), None, "traffic-manager-x", "traffic-manager", "no agent in namespace shop"),
        ((AGENT,), Wishes("shop"), None, "web-0", "ephemeral", "an agent of namespace shop"),
        (
            (AGENT,),
            Wishes("default"),
            None,
            "traffic-manager-x",
            "traffic-manager",
            "no agent in namespace default",
        ),
        (
            (AGENT,),
            Wishes("default", via=Workload("shop", "deploy/web")),
            None,
            "web-0",
            "ephemeral",
            "pinned to deploy/web in shop",
        ),
        (
            (AGENT,),
            Wishes("default"),
            Workload("shop", "deploy/web"),
            "web-0",
            "ephemeral",
            "proxied via deploy/web in shop",
        ),
        (
            (),
            Wishes("shop"),
            Workload("shop", "deploy/web"),
            "",
            "",
            "proxied via deploy/web in shop, which has no agent",
        ),
    ],
)
def test_who_would_dial(agents, wishes, bound, pod, kind, reason):
    session = replace(SESSION, agents=agents, wishes=wishes)
    origin = packet_path(session, VIRTUAL, Target(ip_address("10.97.0.1"), "deploy/web"), bound).origin
    assert (origin.pod, origin.kind, origin.reason) == (pod, kind, reason)


def test_how_an_agent_is_reached_is_told_too():
    session = replace(SESSION, agents=(AGENT,), wishes=Wishes("shop"), paths={AGENT.id: PathStatus("direct")})
    path = packet_path(session, VIRTUAL, Target(ip_address("10.97.0.1")))
    text = click.unstyle(explanation_text(Explanation(str(VIRTUAL), None, [path])))
    assert "the ephemeral agent (web-0): an agent of namespace shop; direct" in text


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("10.0.0.1", ip_address("10.0.0.1")),
        (" fd00::1 ", ip_address("fd00::1")),
        ("[fd00::1]", ip_address("fd00::1")),
        ("Web.Shop.", (b"web", b"shop")),
        ("b\u00fccher.shop", (b"xn--bcher-kva", b"shop")),
    ],
)
def test_what_is_asked_about(what, expected):
    assert read(what) == expected


@pytest.mark.parametrize("what", ["", "10.0.0.1:80", "10.0.0.0/8", "http://web/", "a b", "a..b", "x" * 64])
def test_what_is_neither_a_name_nor_an_address(what):
    with pytest.raises(ConfigInvalid):
        read(what)


def test_repeated_addresses_are_explained_once():
    assert unique(["10.0.0.1", "fd00::1", "10.0.0.1"]) == (ip_address("10.0.0.1"), ip_address("fd00::1"))


def test_the_text_leads_from_the_name_to_who_dials():
    name = name_path(SESSION, parse("web"))
    name.result, name.canonical, name.addresses = "answered", "web.shop.svc.cluster.local", [str(VIRTUAL)]
    path = packet_path(SESSION, VIRTUAL, Target(ip_address("10.96.0.10")))
    assert click.unstyle(explanation_text(Explanation("web", name, [path]))).splitlines() == [
        "web",
        "  rule        single-label: a single label is a service of the connected namespace first",
        "  asked       the cluster, as a pod in shop would ask;",
        "              if it knows no such name, this workstation's name servers (192.168.1.1)",
        "  answer      web.shop.svc.cluster.local",
        "              246.246.0.9",
        "",
        "246.246.0.9 goes into the cluster",
        "  because     a virtual address of 246.246.0.0/16, in place of 10.96.0.0/16: "
        "it overlaps the route of vpn0",
        "  route       246.246.0.0/16 dev inroad0 table 41133",
        "  stands for  10.96.0.10",
        "  dialled by  the traffic-manager (traffic-manager-x): no agent in namespace shop",
    ]


def test_the_text_of_a_name_without_addresses():
    name = name_path(SESSION, parse("nope.svc"))
    name.result = "there is no such name"
    text = explanation_text(Explanation("nope.svc", name, []))
    assert text.endswith("there is no such name")
    assert "goes" not in text
