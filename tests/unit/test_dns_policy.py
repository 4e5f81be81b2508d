"""Which names go to the cluster: the rules of the DNS policy as a table, and what must hold for any name."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.core import names
from inroad.core.dns_policy import Action, Decision, DnsPolicy, decide, reverse_address, services_of
from inroad.core.dns_wire import Type, reverse_name
from inroad.core.names import BadName

A, AAAA, PTR, SRV, TXT = Type.A, Type.AAAA, Type.PTR, Type.SRV, Type.TXT

POLICY = DnsPolicy(
    namespace="shop",
    mapped_namespaces=("default", "shop", "dev", "notshop-but-long", "kube-system"),
    cluster_domain="cluster.local",
    routed_subnets=tuple(map(ip_network, ("10.96.0.0/16", "10.244.1.0/24", "fd00:10:96::/112"))),
    include_suffixes=(".corp.example.com", "private", ".both.org"),
    exclude_suffixes=(
        ".arpa",
        ".com",
        ".io",
        ".net",
        ".org",
        ".ru",
        ".secret.shop.svc.cluster.local",
        ".both.org",
    ),
    excludes=("excluded", "excluded.example.de", "web.excluded"),
    mappings=(
        ("alias", "web.default"),
        ("far.example.de", "web.shop.svc.cluster.local"),
        ("fixed.example.de", "192.0.2.10"),
        ("fixed.example.de", "2001:db8::10"),
        ("fixed", "192.0.2.11"),
        ("mapped.com", "web"),
        ("excluded", "192.0.2.12"),
        ("web.both.org", "192.0.2.13"),
    ),
    search=("lan.example",),
    own_addresses=(ip_address("246.246.0.1"), ip_address("fd00:0:0:246::1")),
)

FALLBACK, CLUSTER, ADDRESSES, ALIAS = Action.FALLBACK, Action.CLUSTER, Action.ADDRESSES, Action.ALIAS


def reverse(address: str) -> str:
    return ip_address(address).reverse_pointer


TABLE = [
    # 1. localhost
    ("localhost", A, ADDRESSES, "localhost"),
    ("localhost", AAAA, ADDRESSES, "localhost"),
    ("localhost", TXT, ADDRESSES, "localhost"),
    ("LOCALHOST", A, ADDRESSES, "localhost"),
    ("api.localhost", A, ADDRESSES, "localhost"),
    ("a.b.c.localhost", A, ADDRESSES, "localhost"),
    ("notlocalhost", A, CLUSTER, "single-label"),
    ("x.notlocalhost", A, FALLBACK, "other"),
    ("localhost.shop", A, CLUSTER, "namespace"),
    ("localhost.example.de", A, FALLBACK, "other"),
    ("0a1b2c.inroad-check.svc", A, ADDRESSES, "self-check"),
    ("0a1b2c.inroad-check.shop", A, ADDRESSES, "self-check"),
    ("inroad-check.shop", A, CLUSTER, "namespace"),
    # 2. never
    ("wpad", A, FALLBACK, "wpad"),
    ("WPAD", A, FALLBACK, "wpad"),
    ("wpad.shop", A, FALLBACK, "wpad"),
    ("wpad.shop.svc.cluster.local", A, FALLBACK, "wpad"),
    ("wpad.private", A, FALLBACK, "wpad"),
    ("wpads", A, CLUSTER, "single-label"),
    ("x.wpad.shop", A, CLUSTER, "namespace"),
    ("b._dns-sd._udp.shop", PTR, FALLBACK, "dns-sd"),
    ("lb._dns-sd._udp.0.0.96.10.in-addr.arpa", PTR, FALLBACK, "dns-sd"),
    ("_dns-sd._udp.cluster.local", PTR, FALLBACK, "dns-sd"),
    ("r._dns-sd._udp", PTR, FALLBACK, "dns-sd"),
    ("_dns-sd._tcp.shop", PTR, CLUSTER, "namespace"),
    ("_dns-sd.shop", PTR, CLUSTER, "namespace"),
    # 3. excludes, as typed and with what a resolver appends
    ("excluded", A, FALLBACK, "excludes"),
    ("EXCLUDED", A, FALLBACK, "excludes"),
    ("excluded.shop", A, FALLBACK, "excludes"),
    ("excluded.lan.example", A, FALLBACK, "excludes"),
    ("excluded.default", A, CLUSTER, "namespace"),
    ("excluded.example.de", A, FALLBACK, "excludes"),
    ("excluded.example.de.shop", A, FALLBACK, "excludes"),
    ("x.excluded.example.de", A, FALLBACK, "other"),
    ("notexcluded", A, CLUSTER, "single-label"),
    ("web.excluded", A, FALLBACK, "excludes"),
    ("web.excluded.shop", A, FALLBACK, "excludes"),
    ("excluded.svc.cluster.local", A, CLUSTER, "cluster-domain"),
    # 4. mappings
    ("alias", A, ALIAS, "mappings"),
    ("ALIAS", A, ALIAS, "mappings"),
    ("alias", AAAA, ALIAS, "mappings"),
    ("alias", TXT, ALIAS, "mappings"),
    ("alias.shop", A, ALIAS, "mappings"),
    ("alias.lan.example", A, ALIAS, "mappings"),
    ("alias.default", A, CLUSTER, "namespace"),
    ("x.alias", A, FALLBACK, "other"),
    ("far.example.de", A, ALIAS, "mappings"),
    ("far.example.de.shop", A, CLUSTER, "namespace"),
    ("fixed.example.de", A, ADDRESSES, "mappings"),
    ("fixed.example.de", AAAA, ADDRESSES, "mappings"),
    ("fixed.example.de", TXT, ADDRESSES, "mappings"),
    ("fixed", A, ADDRESSES, "mappings"),
    ("mapped.com", A, ALIAS, "mappings"),
    ("x.mapped.com", A, FALLBACK, "exclude-suffix"),
    ("web.both.org", A, ADDRESSES, "mappings"),
    # 5. reverse names of routed subnets
    ("1.0.96.10.in-addr.arpa", PTR, CLUSTER, "reverse"),
    ("255.255.96.10.in-addr.arpa", PTR, CLUSTER, "reverse"),
    ("0.0.96.10.in-addr.arpa", PTR, CLUSTER, "reverse"),
    ("1.0.97.10.in-addr.arpa", PTR, FALLBACK, "exclude-suffix"),
    ("7.1.244.10.in-addr.arpa", PTR, CLUSTER, "reverse"),
    ("7.2.244.10.in-addr.arpa", PTR, FALLBACK, "exclude-suffix"),
    ("7.1.244.10.IN-ADDR.ARPA", PTR, CLUSTER, "reverse"),
    ("96.10.in-addr.arpa", PTR, FALLBACK, "exclude-suffix"),
    ("x.1.0.96.10.in-addr.arpa", PTR, FALLBACK, "exclude-suffix"),
    ("300.0.96.10.in-addr.arpa", PTR, FALLBACK, "exclude-suffix"),
    (reverse("fd00:10:96::1"), PTR, CLUSTER, "reverse"),
    (reverse("fd00:10:97::1"), PTR, FALLBACK, "exclude-suffix"),
    ("8.8.8.8.in-addr.arpa", PTR, FALLBACK, "exclude-suffix"),
    ("1.0.246.246.in-addr.arpa", PTR, Action.POINTER, "own-address"),
    ("2.0.246.246.in-addr.arpa", PTR, FALLBACK, "exclude-suffix"),
    ("1.0.246.246.in-addr.arpa", A, FALLBACK, "exclude-suffix"),
    # 6. suffixes: the longest wins, a tie goes to include
    ("example.com", A, FALLBACK, "exclude-suffix"),
    ("www.example.com", A, FALLBACK, "exclude-suffix"),
    ("db.corp.example.com", A, CLUSTER, "include-suffix"),
    ("a.b.corp.example.com", A, CLUSTER, "include-suffix"),
    ("corp.example.com", A, FALLBACK, "exclude-suffix"),
    ("notcorp.example.com", A, FALLBACK, "exclude-suffix"),
    ("x.notcorp.example.com", A, FALLBACK, "exclude-suffix"),
    ("private", A, CLUSTER, "include-suffix"),
    ("db.private", A, CLUSTER, "include-suffix"),
    ("DB.Private", A, CLUSTER, "include-suffix"),
    ("db.notprivate", A, FALLBACK, "other"),
    ("x.both.org", A, CLUSTER, "include-suffix"),
    ("both.org", A, FALLBACK, "exclude-suffix"),
    ("example.io", A, FALLBACK, "exclude-suffix"),
    ("example.net", A, FALLBACK, "exclude-suffix"),
    ("example.org", A, FALLBACK, "exclude-suffix"),
    ("example.ru", A, FALLBACK, "exclude-suffix"),
    ("com", A, CLUSTER, "single-label"),
    ("io", A, CLUSTER, "single-label"),
    ("io.shop", A, CLUSTER, "namespace"),
    ("xyz.com.shop", A, FALLBACK, "exclude-suffix"),
    ("xyz.com.lan.example", A, FALLBACK, "exclude-suffix"),
    ("xyz.com.default", A, CLUSTER, "namespace"),
    ("com.shop", A, CLUSTER, "namespace"),
    ("x.secret.shop.svc.cluster.local", A, FALLBACK, "exclude-suffix"),
    ("secret.shop.svc.cluster.local", A, CLUSTER, "cluster-domain"),
    # 7. the cluster domain and svc
    ("web.shop.svc.cluster.local", A, CLUSTER, "cluster-domain"),
    ("WEB.Shop.Svc.Cluster.Local", A, CLUSTER, "cluster-domain"),
    ("cluster.local", A, CLUSTER, "cluster-domain"),
    ("web.cluster.local", A, CLUSTER, "cluster-domain"),
    ("_http._tcp.web.shop.svc.cluster.local", SRV, CLUSTER, "cluster-domain"),
    ("10-244-1-2.shop.pod.cluster.local", A, CLUSTER, "cluster-domain"),
    ("web.nowhere.svc.cluster.local", A, CLUSTER, "cluster-domain"),
    ("local", A, CLUSTER, "single-label"),
    ("printer.local", A, FALLBACK, "other"),
    ("mycluster.local", A, FALLBACK, "other"),
    ("web.shop.svc.mycluster.local", A, FALLBACK, "other"),
    ("cluster.local.example.de", A, FALLBACK, "other"),
    ("web.shop.svc", A, CLUSTER, "svc"),
    ("web.nowhere.svc", A, CLUSTER, "svc"),
    ("svc", A, CLUSTER, "svc"),
    ("x.notsvc", A, FALLBACK, "other"),
    # 8. mapped namespaces
    ("web.shop", A, CLUSTER, "namespace"),
    ("web.default", A, CLUSTER, "namespace"),
    ("web.dev", A, CLUSTER, "namespace"),
    ("pkg.go.dev", A, CLUSTER, "namespace"),
    ("shopify.dev", A, CLUSTER, "namespace"),
    ("_http._tcp.web.shop", SRV, CLUSTER, "namespace"),
    ("db-0.db.shop", A, CLUSTER, "namespace"),
    ("x.notshop", A, FALLBACK, "other"),
    ("x.shopping", A, FALLBACK, "other"),
    ("web.shop.example.de", A, FALLBACK, "other"),
    ("web.nowhere", A, FALLBACK, "other"),
    ("tel2-recursion-check.kube-system", A, CLUSTER, "namespace"),
    # 9. single labels
    ("web", A, CLUSTER, "single-label"),
    ("web", SRV, CLUSTER, "single-label"),
    ("shop", A, CLUSTER, "single-label"),
    ("a-very-long-single-label-that-nobody-has", A, CLUSTER, "single-label"),
    ("12345", A, CLUSTER, "single-label"),
    # 10. anything else
    ("example.de", A, FALLBACK, "other"),
    ("www.example.co.uk", A, FALLBACK, "other"),
    ("web.lan.example", A, FALLBACK, "other"),
    ("_acme-challenge.example.de", TXT, FALLBACK, "other"),
    (".", Type.NS, FALLBACK, "other"),
]  # fmt: skip


def test_the_table_is_long_enough():
    assert len(TABLE) >= 120


@pytest.mark.parametrize(("name", "kind", "action", "rule"), TABLE)
def test_decision(name, kind, action, rule):
    decision = decide(POLICY, names.parse(name), kind)
    assert (decision.action, decision.rule) == (action, rule)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web", Decision(CLUSTER, "single-label", "shop", fallback=True)),
        ("web.dev", Decision(CLUSTER, "namespace", "shop", fallback=True)),
        ("web.shop.svc", Decision(CLUSTER, "svc", "shop")),
        ("web.shop.svc.cluster.local", Decision(CLUSTER, "cluster-domain", absolute=True)),
        ("db.private", Decision(CLUSTER, "include-suffix", "shop", fallback=True, external=True)),
        ("1.0.96.10.in-addr.arpa", Decision(CLUSTER, "reverse", absolute=True, fallback=True)),
        ("alias", Decision(ALIAS, "mappings", target=(b"web", b"default"))),
        (
            "fixed.example.de",
            Decision(ADDRESSES, "mappings", addresses=(ip_address("192.0.2.10"), ip_address("2001:db8::10"))),
        ),
    ],
)
def test_whole_decision(name, expected):
    kind = PTR if name.endswith("arpa") else A
    assert decide(POLICY, names.parse(name), kind) == expected


def test_the_connected_namespace_is_mapped_even_if_it_is_not_given():
    policy = DnsPolicy(namespace="mine", mapped_namespaces=("other",))
    assert decide(policy, names.parse("web.mine"), A).rule == "namespace"


def test_another_cluster_domain():
    policy = DnsPolicy(cluster_domain="k8s.example.com")
    assert decide(policy, names.parse("web.shop.svc.k8s.example.com"), A).rule == "cluster-domain"
    assert decide(policy, names.parse("x.example.com"), A).rule == "exclude-suffix"
    assert decide(policy, names.parse("web.shop.svc.cluster.local"), A).rule == "other"


def test_unicode_in_configuration_matches_what_is_on_the_wire():
    policy = DnsPolicy(include_suffixes=("bücher.example",))
    assert decide(policy, (b"db", b"xn--bcher-kva", b"example"), A).rule == "include-suffix"


@pytest.mark.parametrize(
    "wrong",
    [
        {"namespace": "a..b"},
        {"include_suffixes": ("x" * 64,)},
        {"excludes": ("",)},
        {"mappings": (("web", "not a..name"),)},
        {"cluster_domain": ".".join(["a" * 60] * 5)},
    ],
)
def test_check_names_what_is_wrong(wrong):
    with pytest.raises(BadName):
        DnsPolicy(**wrong).check()


label = st.sampled_from(
    [b"web", b"shop", b"svc", b"cluster", b"local", b"com", b"dev", b"arpa", b"private", b"x"]
)
name = st.lists(label, max_size=6).map(tuple)
kinds = st.sampled_from([A, AAAA, PTR, SRV])


@given(name, kinds)
def test_what_the_host_appends_never_brings_an_excluded_name_to_the_cluster(name, kind):
    plain = decide(POLICY, name, kind)
    if name[-1:] == (b"shop",):  # appended already: no resolver does it twice
        return
    if plain.rule == "excludes" or (plain.rule == "exclude-suffix" and len(name) > 1):
        appended = decide(POLICY, (*name, b"shop"), kind)
        assert appended.action is not CLUSTER or appended.rule == "include-suffix"


@given(name, kinds)
def test_names_of_the_cluster_domain_and_svc_never_leave(name, kind):
    decision = decide(POLICY, name, kind)
    if decision.rule in {"cluster-domain", "svc"}:
        assert not decision.fallback
    elif decision.action is CLUSTER:
        assert decision.fallback


@given(name, st.binary(min_size=1, max_size=5), kinds)
def test_a_longer_last_label_is_another_name(name, more, kind):
    if not name or name[-1] not in {b"shop", b"dev", b"svc"}:
        return
    changed = (*name[:-1], more.lower() + name[-1])
    assert (
        decide(POLICY, changed, kind).rule not in {"namespace", "svc"}
        or more.lower() + name[-1] == b"notshop"
    )


@given(st.ip_addresses())
def test_reverse_names_are_read_back(address):
    assert reverse_address(reverse_name(str(address))) == address


@given(st.ip_addresses())
def test_reverse_names_go_to_the_cluster_exactly_for_routed_addresses(address):
    routed = any(address in subnet for subnet in POLICY.routed_subnets if subnet.version == address.version)
    decision = decide(POLICY, reverse_name(str(address)), PTR)
    assert (decision.rule == "reverse") == routed


@pytest.mark.parametrize(
    ("name", "namespace", "expected"),
    [
        ("web", "shop", {"web.shop"}),
        ("web.default", "shop", {"web.default", "default.shop"}),
        ("web.shop.svc", "shop", {"web.shop"}),
        ("web.shop.svc.cluster.local", "", {"web.shop"}),
        ("db-0.db.shop.svc.cluster.local", "", {"db.shop"}),
        ("_http._tcp.web.shop.svc.cluster.local", "", {"web.shop"}),
        ("1.0.96.10.in-addr.arpa", "", set()),
        ("cluster.local", "", set()),
    ],
)
def test_services_that_an_answer_depends_on(name, namespace, expected):
    found = services_of(names.parse(name), namespace, (b"cluster", b"local"))
    assert {service for service in found if "arpa" not in service} == expected


def test_namespaces_of_attachments_come_after_the_connected_one():
    policy = DnsPolicy("shop", ("default", "dev"), excludes=("intranet",))
    found = decide(policy, names.parse("web"), Type.A)
    assert (found.rule, found.namespace, found.also) == ("single-label", "shop", ("default", "dev"))
    assert decide(policy, names.parse("web.dev"), Type.A).rule == "namespace"
    # The host's resolver appends each domain of the search list.
    assert decide(policy, names.parse("intranet.dev"), Type.A).rule == "excludes"
    assert decide(policy, names.parse("www.example.com.dev"), Type.A).rule == "exclude-suffix"
