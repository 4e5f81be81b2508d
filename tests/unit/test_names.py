import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.core import names
from inroad.core.names import BadName


def n(text: str) -> names.Name:
    return names.parse(text)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("web.shop", (b"web", b"shop")),
        ("WEB.Shop.", (b"web", b"shop")),
        (".com", (b"com",)),
        (".", ()),
        (r"a\.b.c", (b"a.b", b"c")),
        (r"a\.", (b"a.",)),
        (r"a\032b", (b"a b",)),
        ("bücher.example", (b"xn--bcher-kva", b"example")),
        ("STRASSE.de", (b"strasse", b"de")),
        ("_http._tcp.web", (b"_http", b"_tcp", b"web")),
        ("  web ", (b"web",)),
    ],
)
def test_parse(text, labels):
    assert names.parse(text) == labels


@pytest.mark.parametrize(
    "text", ["", "..", "a..b", "a" * 64, ".".join(["a" * 60] * 5), r"\999", "xn--\u00fc.de", "a..", "..a"]
)
def test_parse_refuses(text):
    with pytest.raises(BadName):
        names.parse(text)


def test_253_characters_are_a_name_and_254_are_not():
    longest = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert len(longest) == 253
    assert names.wire_length(names.parse(longest)) == 255
    with pytest.raises(BadName):
        names.parse(longest + "b")


label = st.binary(min_size=1, max_size=63).map(bytes.lower)
some_name = st.lists(label, max_size=3).map(tuple)


@given(some_name)
def test_text_is_read_back(name):
    assert names.parse(names.text(name)) == name


@given(some_name, some_name)
def test_suffixes_match_whole_labels_only(name, suffix):
    expected = len(suffix) <= len(name) and list(name)[len(name) - len(suffix) :] == list(suffix)
    assert names.ends_with(name, suffix) == expected


@given(some_name, st.frozensets(some_name, max_size=5))
def test_longest_suffix_is_the_longest_of_all_that_match(name, suffixes):
    matching = [suffix for suffix in suffixes if names.ends_with(name, suffix)]
    assert names.longest_suffix(name, suffixes) == max(matching, key=len, default=None)


POD = tuple(map(n, ("inroad.svc.cluster.local", "svc.cluster.local", "cluster.local")))


@pytest.mark.parametrize(
    ("name", "ndots", "bare", "expected"),
    [
        (
            "web",
            5,
            True,
            ["web.inroad.svc.cluster.local", "web.svc.cluster.local", "web.cluster.local", "web"],
        ),
        ("web", 5, False, ["web.inroad.svc.cluster.local", "web.svc.cluster.local", "web.cluster.local"]),
        (
            "a.b",
            1,
            True,
            ["a.b", "a.b.inroad.svc.cluster.local", "a.b.svc.cluster.local", "a.b.cluster.local"],
        ),
        ("a.b.c.d.e.f", 5, True, ["a.b.c.d.e.f"]),
    ],
)
def test_candidates(name, ndots, bare, expected):
    got = [names.text(candidate) for candidate in names.candidates(n(name), POD, ndots, bare=bare)]
    assert got[: len(expected)] == expected


def test_candidates_that_are_too_long_are_left_out():
    long = n(".".join(["a" * 63] * 3 + ["b" * 40]))
    assert names.candidates(long, POD, 5) == (long + POD[1], long + POD[2], long)


@pytest.mark.parametrize(
    ("search", "namespace", "expected"),
    [
        (POD, "shop", ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local")),
        (POD, "", ("inroad.svc.cluster.local", "svc.cluster.local", "cluster.local")),
        (tuple(map(n, ("lan.example", "x.svc.k8s"))), "shop", ("lan.example", "x.svc.k8s")),
        (
            tuple(map(n, ("lan.example", "x.svc.k8s", "svc.k8s"))),
            "shop",
            ("lan.example", "shop.svc.k8s", "svc.k8s"),
        ),
    ],
)
def test_the_clients_namespace_replaces_the_pods(search, namespace, expected):
    got = names.search_for(search, n(namespace) if namespace else ())
    assert tuple(map(names.text, got)) == expected


@pytest.mark.parametrize(
    ("search", "domain"),
    [
        (["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"], "cluster.local"),
        (["svc.k8s.example"], "k8s.example"),
        (["shop.svc.k8s"], "k8s"),
        (["example.com"], None),
        ([], None),
        (["lan", "shop.svc.my.domain.example", "svc.my.domain.example"], "my.domain.example"),
    ],
)
def test_cluster_domain_of_a_search_list(search, domain):
    found = names.domain_of_search(tuple(map(n, search)))
    assert found == (n(domain) if domain else None)


def test_cluster_domain_of_the_api_service():
    assert names.domain_of_service(n("kubernetes.default.svc.k8s.example")) == n("k8s.example")
    assert names.domain_of_service(n("kubernetes.default.svc")) is None
    assert names.domain_of_service(n("ip-10-0-0-1.ec2.internal")) is None
