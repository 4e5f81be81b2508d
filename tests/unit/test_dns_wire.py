"""Queries as bytes: what is read, what is refused, against dnspython where it knows better."""

import dns.edns
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.core import dns_wire
from inroad.core.dns_wire import Malformed, Rcode, make_query, parse_query, wire_of

label = st.binary(min_size=1, max_size=63)
wire_names = st.lists(label, max_size=3).map(lambda labels: dns.name.Name([*labels, b""]))
HEADER = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
WEB = b"\3web\0"
A_IN = b"\0\1\0\1"


@given(wire_names, st.integers(1, 65_535), st.integers(0, 65_535), st.booleans(), st.integers(0, 65_535))
def test_queries_of_dnspython_are_read(name, kind, ident, edns, payload):
    message = dns.message.make_query(name, kind, id=ident, use_edns=0 if edns else -1, payload=payload)
    query = parse_query(message.to_wire())
    assert query.id == ident
    assert query.type == kind
    assert query.wire_name == name.to_wire()
    assert query.name == tuple(part.lower() for part in name.labels[:-1])
    assert (query.edns is not None) == edns
    if query.edns:
        assert query.edns.payload == payload


@given(wire_names, st.integers(1, 65_535), st.booleans())
def test_keys_differ_exactly_as_questions_do_but_for_case(name, kind, dnssec):
    message = dns.message.make_query(name, kind, want_dnssec=dnssec, use_edns=0)
    other = dns.message.make_query(dns.name.Name([part.swapcase() for part in name.labels]), kind, use_edns=0)
    other.want_dnssec(dnssec)
    key = parse_query(message.to_wire()).key
    assert key == parse_query(other.to_wire()).key
    other.want_dnssec(not dnssec)
    assert key != parse_query(other.to_wire()).key
    assert key != parse_query(dns.message.make_query(name, kind ^ 1, use_edns=0).to_wire()).key


def test_the_types_65_and_97_have_different_keys():
    """Lower-casing the whole question would make HTTPS (65, "A") the same as type 97 ("a")."""
    keys = {parse_query(dns.message.make_query("web", kind).to_wire()).key for kind in (65, 97)}
    assert len(keys) == 2


OPT = b"\0\0\x29\x04\xd0\0\0\0\0"


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (b"", None),
        (HEADER[:11], None),
        (b"\x12\x34\x81\x80" + HEADER[4:] + WEB + A_IN, None),  # a response
        (HEADER, Rcode.FORMERR),
        (b"\x12\x34\x01\x00\x00\x00" + bytes(6), Rcode.FORMERR),  # no question
        (b"\x12\x34\x01\x00\x00\x02" + bytes(6) + (WEB + A_IN) * 2, Rcode.FORMERR),
        (b"\x12\x34\x09\x00" + HEADER[4:] + WEB + A_IN, Rcode.NOTIMP),  # STATUS
        (b"\x12\x34\x28\x00" + HEADER[4:] + WEB + A_IN, Rcode.NOTIMP),  # UPDATE
        (HEADER + WEB + A_IN[:3], Rcode.FORMERR),
        (HEADER + b"\3we", Rcode.FORMERR),
        (HEADER + b"\x40" + b"a" * 64 + b"\0" + A_IN, Rcode.FORMERR),
        (HEADER + b"\xc0\x0c" + A_IN, Rcode.FORMERR),  # a pointer in the question
        (HEADER + (b"\x3f" + b"a" * 63) * 4 + b"\0" + A_IN, Rcode.FORMERR),  # 257 octets
        (HEADER + WEB + A_IN + b"x", Rcode.FORMERR),
        (HEADER[:11] + b"\1" + WEB + A_IN, Rcode.FORMERR),  # an additional record that is not there
        (HEADER[:11] + b"\1" + WEB + A_IN + OPT + b"\0\4", Rcode.FORMERR),
        (HEADER[:11] + b"\1" + WEB + A_IN + OPT + b"\0\3\0\1\0", Rcode.FORMERR),  # an option cut off
        (HEADER[:11] + b"\2" + WEB + A_IN + (OPT + b"\0\0") * 2, Rcode.FORMERR),
        (HEADER[:11] + b"\1" + WEB + A_IN + b"\1x" + OPT + b"\0\0", Rcode.FORMERR),
    ],
)
def test_what_is_refused_and_how(data, rcode):
    with pytest.raises(Malformed) as caught:
        parse_query(data)
    assert caught.value.rcode == rcode
    if rcode is not None:
        reply = dns_wire.error_reply(data, rcode)
        assert reply[:2] == data[:2]
        assert reply[2] & 0x80
        assert reply[3] & 0xF == rcode
        assert (reply[2] & 0x79) == (data[2] & 0x79)  # opcode and RD


@given(st.binary(max_size=600))
def test_any_octets_are_read_or_refused(data):
    try:
        query = parse_query(data)
    except Malformed as problem:
        if problem.rcode is not None:
            dns.message.from_wire(dns_wire.error_reply(data, problem.rcode))
    else:
        assert query.data == data


@given(st.binary(max_size=100), st.integers(0, 99))
def test_reading_a_name_anywhere_ends(data, at):
    try:
        wire = dns_wire.read_name(data, at)
    except Malformed:
        return
    assert wire_of(dns_wire.labels_of(wire)) == wire


def test_make_query_is_what_dnspython_makes():
    question = wire_of((b"web", b"shop")) + A_IN
    expected = dns.message.make_query("web.shop", "A", id=7, use_edns=0, payload=1232, want_dnssec=True)
    assert make_query(question, 7, dnssec_ok=True) == expected.to_wire()


@pytest.mark.parametrize(
    ("payload", "limit"), [(None, 512), (0, 512), (512, 512), (1000, 1000), (4096, 1232)]
)
def test_the_size_of_udp_replies(payload, limit):
    options = {} if payload is None else {"use_edns": 0, "payload": payload}
    assert parse_query(dns.message.make_query("web", "A", **options).to_wire()).udp_limit() == limit


def test_bad_version():
    message = dns.message.make_query("web", "A", use_edns=1)
    reply = dns.message.from_wire(dns_wire.bad_version(parse_query(message.to_wire())))
    assert reply.rcode() == dns.rcode.BADVERS
    assert reply.edns == 0
    assert not reply.answer


def test_a_reply_is_believed_for_its_id_and_question_only():
    query = make_query(WEB + A_IN, 7)
    reply = query[:2] + b"\x81\x80" + query[4:]
    assert dns_wire.same_question(reply, b"\3WeB\0" + A_IN, 7)
    assert not dns_wire.same_question(reply, WEB + A_IN, 8)
    assert not dns_wire.same_question(reply, b"\3wex\0" + A_IN, 7)
    assert not dns_wire.same_question(reply, WEB + b"\0\2\0\1", 7)
    assert not dns_wire.same_question(query, WEB + A_IN, 7)  # no response
    assert not dns_wire.same_question(reply[:10], WEB + A_IN, 7)
