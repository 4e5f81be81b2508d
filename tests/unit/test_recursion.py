"""Recursion detection as conversations between clients, us, and a cluster that sends lookups back."""

import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.core.dns_wire import Query, parse_query, wire_of
from inroad.core.recursion import PROBE, Recursion, Verdict, disguise, is_probe, probe_name

BITS = int("0123456789abcdef" * 16, 16)
ANN, BOB, FORWARDER = ("127.0.0.1", 1111), ("127.0.0.1", 2222), ("127.0.0.1", 53)


def query(name: bytes | str, kind="A", ident=1) -> Query:
    text = name if isinstance(name, str) else b".".join(labels(name)).decode()
    return parse_query(dns.message.make_query(text, kind, id=ident).to_wire())


def labels(wire: bytes) -> list[bytes]:
    found, at = [], 0
    while wire[at]:
        found.append(wire[at + 1 : at + 1 + wire[at]])
        at += wire[at] + 1
    return found


def found(*, folded: bool) -> Recursion:
    recursion = Recursion()
    plain, _ = recursion.probe(BITS)
    back = query(plain.lower() if folded else plain)
    assert recursion.judge(back, FORWARDER) is Verdict.PROBE
    assert recursion.found
    assert recursion.folded == folded
    return recursion


def take_off(recursion: Recursion, asked: Query, bits: int = BITS, *, as_it_is: bool = True) -> bytes:
    cased = disguise(asked.wire_name, bits)
    recursion.sent(asked, cased, ANN, as_it_is=as_it_is)
    return cased


def test_before_the_probe_came_back_nothing_is_recursion():
    recursion = Recursion()
    asked = query("web.dev")
    cased = take_off(recursion, asked)
    assert recursion.judge(query(cased), FORWARDER) is Verdict.ORDINARY


def test_the_probe_with_a_search_domain_appended_and_the_fresh_one():
    for suffix in (b"", b"\3lan\7example\0"):
        for which in (0, 1):
            recursion = Recursion()
            probe = recursion.probe(BITS)[which]
            back = query(probe[:-1] + (suffix or b"\0"))
            assert recursion.judge(back, FORWARDER) is Verdict.PROBE
            assert not recursion.folded


def test_a_lookup_that_comes_back_in_its_own_case_is_ours():
    recursion = found(folded=False)
    cased = take_off(recursion, query("web.dev"))
    assert recursion.judge(query(cased, ident=9), FORWARDER) is Verdict.OURS
    assert recursion.judge(query(cased[:-1] + b"\7cluster\5local\0", ident=9), FORWARDER) is Verdict.OURS


def test_others_who_ask_the_same_name_at_once_are_not():
    recursion = found(folded=False)
    take_off(recursion, query("web.dev"))
    for ident in range(100):
        assert recursion.judge(query("web.dev", ident=ident), BOB) is Verdict.ORDINARY
        assert recursion.judge(query("WEB.dev", ident=ident), BOB) is Verdict.ORDINARY
    assert recursion.judge(query("web.dev", "AAAA"), BOB) is Verdict.ORDINARY


def test_where_case_is_folded_a_repetition_may_be_ours():
    recursion = found(folded=True)
    take_off(recursion, query("db.private"))
    assert recursion.judge(query("db.private", ident=5), FORWARDER) is Verdict.DUPLICATE
    assert recursion.judge(query("db.private", "AAAA", ident=5), FORWARDER) is Verdict.ORDINARY
    assert recursion.judge(query("db2.private", ident=5), FORWARDER) is Verdict.ORDINARY


def test_where_case_is_folded_a_search_domain_tells_too():
    recursion = found(folded=True)
    take_off(recursion, query("db.private"))
    take_off(recursion, query("web.shop.svc"))
    assert recursion.judge(query("db.private.cluster.local"), FORWARDER) is Verdict.OURS
    assert recursion.judge(query("db.private.svc.cluster.local"), BOB) is Verdict.ORDINARY
    assert recursion.judge(query("web.shop.svc.cluster.local"), BOB) is Verdict.ORDINARY


def test_a_retransmission_is_never_recursion():
    for folded in (False, True):
        recursion = found(folded=folded)
        asked = query("db.private", ident=7)
        take_off(recursion, asked)
        assert recursion.judge(query("db.private", ident=7), ANN) is Verdict.ORDINARY


def test_what_was_expanded_does_not_come_back_so_repetitions_are_people():
    recursion = found(folded=True)
    take_off(recursion, query("web"), as_it_is=False)
    assert recursion.judge(query("web", ident=5), BOB) is Verdict.ORDINARY


def test_after_the_lookup_has_ended_the_name_is_ordinary_again():
    recursion = found(folded=False)
    asked = query("web.dev")
    cased = take_off(recursion, asked)
    recursion.ended(asked)
    assert recursion.judge(query(cased), FORWARDER) is Verdict.ORDINARY


def test_once_seen_with_its_case_the_way_back_keeps_it():
    recursion = Recursion()
    plain, fresh = recursion.probe(BITS)
    recursion.judge(query(plain), FORWARDER)
    recursion.judge(query(fresh.lower()), FORWARDER)  # a forwarder's retry
    assert recursion.found
    assert not recursion.folded


def test_turned_off_while_connected():
    recursion = Recursion()
    recursion.found = True
    recursion.enable(False)
    assert recursion.text == "not checked"
    recursion.enable(True)
    assert recursion.text == "none found"


def test_turned_off():
    recursion = Recursion(enabled=False)
    assert recursion.judge(query(wire_of(PROBE)), FORWARDER) is Verdict.ORDINARY
    assert recursion.text == "not checked"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (PROBE, True),
        ((*PROBE, b"shop", b"svc"), True),
        (probe_name(5), True),
        ((*probe_name(5), b"lan"), True),
        ((b"a", b"b", *PROBE), False),
        (PROBE[:1], False),
        (PROBE[1:], False),
    ],
)
def test_the_probes_name(name, expected):
    assert is_probe(name) == expected


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=5), st.integers(0, 2**1024 - 1))
def test_a_disguise_is_the_same_name_and_differs_from_its_original_and_from_lower_case(parts, bits):
    wire = wire_of(tuple(parts))
    got = disguise(wire, bits)
    letters = [octet for octet in wire if chr(octet).isalpha() and octet < 128 and octet > 63]
    assert got.lower() == wire.lower()
    if len(letters) > 1:
        assert got not in (wire, wire.lower())
