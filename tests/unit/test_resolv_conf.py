import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.core import names
from inroad.core.resolv_conf import ResolvConf, parse
from inroad.host.resolver.overriding import choose_fallback


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nameserver 10.0.0.53", ["10.0.0.53"]),
        ("nameserver 10.0.0.53\nnameserver 10.0.0.54\nnameserver 10.0.0.53\n", ["10.0.0.53", "10.0.0.54"]),
        ("nameserver\t10.0.0.53   # the office", ["10.0.0.53"]),
        ("nameserver 10.0.0.53 ; the office", ["10.0.0.53"]),
        ("; nameserver 10.0.0.53\n# nameserver 10.0.0.54\n  nameserver 10.0.0.55", ["10.0.0.55"]),
        ("nameserver fd00::53\nnameserver ::1", ["fd00::53", "::1"]),
        ("nameserver fe80::1%eth0", ["fe80::1%eth0"]),
        ("nameserver example.com\nnameserver 300.1.1.1\nnameserver\nnameserver 10.0.0.53", ["10.0.0.53"]),
        ("NAMESERVER 10.0.0.53", []),
        ("nameserver 10.0.0.53\r\nsearch x\r\n", ["10.0.0.53"]),
        ("", []),
    ],
)
def test_servers(text, servers):
    assert parse(text).servers == tuple((server, 53) for server in servers)


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nameserver [127.0.0.1]:5353", (("127.0.0.1", 5353),)),
        ("nameserver [fd00::1]:5353", (("fd00::1", 5353),)),
        ("nameserver [fd00::1]", (("fd00::1", 53),)),
        ("nameserver [fd00::1]:0", ()),
    ],
)
def test_servers_with_a_port(text, servers):
    assert parse(text).servers == servers


@pytest.mark.parametrize(
    ("text", "search", "ndots"),
    [
        ("search a.example b.example", ["a.example", "b.example"], 1),
        ("search A.Example. a.example", ["a.example"], 1),
        ("search a.example\nsearch b.example", ["b.example"], 1),
        ("domain a.example\nsearch b.example", ["b.example"], 1),
        ("search b.example\ndomain a.example x", ["a.example"], 1),
        ("search bad..name good.example . #x", ["good.example"], 1),
        ("options ndots:5 timeout:1\noptions edns0", [], 5),
        ("options ndots:99", [], 15),
        ("options ndots:x ndots", [], 1),
    ],
)
def test_search_and_ndots(text, search, ndots):
    conf = parse(text)
    assert [names.text(domain) for domain in conf.search] == search
    assert conf.ndots == ndots


@given(st.text())
def test_any_text_is_read(text):
    assert isinstance(parse(text), ResolvConf)


@pytest.mark.parametrize(
    ("servers", "chosen"),
    [
        (["10.0.0.53", "10.0.0.54"], ["10.0.0.53", "10.0.0.54"]),
        (["127.0.0.53"], ["127.0.0.53"]),
        (["127.0.0.1", "::1"], ["127.0.0.1", "::1"]),
        # The forwarder on the host would ask 10.0.0.53, which is redirected to us: a loop.
        (["127.0.0.1", "10.0.0.53"], ["10.0.0.53"]),
        (["fe80::1%eth0", "127.0.0.1"], ["fe80::1%eth0"]),
    ],
)
def test_the_fallback_of_the_overriding_resolver(servers, chosen):
    assert choose_fallback([(s, 53) for s in servers]) == tuple((s, 53) for s in chosen)
