"""Answers: what a name server said, fitted to other queries. The slow, obvious reference is dnspython."""

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.core import dns_answer, dns_wire
from inroad.core.dns_answer import cap_ttls, compose, take_apart
from inroad.core.dns_wire import Malformed, Type, parse_query

SOA = "ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 {minimum}"


def reply_to(name, kind, *rrsets, rcode=0, authority=(), additional=(), edns=True, ttl=30):
    """What a name server says, as (wire, question section)."""
    query = dns.message.make_query(name, kind, use_edns=0 if edns else -1)
    message = dns.message.make_response(query)
    message.set_rcode(rcode)
    for section, sets in (
        (message.answer, rrsets),
        (message.authority, authority),
        (message.additional, additional),
    ):
        for owner, type_, *data in sets:
            section.append(dns.rrset.from_text(owner, ttl, "IN", type_, *data))
    return message.to_wire(max_size=65_535)


def addresses_of(wire, section=-1):
    """The addresses in the order in which they are on the wire: dnspython shuffles what it writes."""
    return [item.address for item in dns.message.from_wire(wire).answer[section]]


def question(name, kind):
    return parse_query(dns.message.make_query(name, kind).to_wire()).question


def replied(name, kind, answer, **options):
    """The reply to a query for `name`, as dnspython reads it."""
    use_edns = options.pop("use_edns", 0)
    query = parse_query(dns.message.make_query(name, kind, id=77, use_edns=use_edns).to_wire())
    return dns.message.from_wire(compose(query, answer, **{"most": 300, **options}))


CHAIN = [
    ("ext.shop.svc.cluster.local.", "CNAME", "web.default.svc.cluster.local."),
    ("web.default.svc.cluster.local.", "A", "10.96.0.11", "10.96.0.12"),
]
RECORDS = [
    ("A", "10.0.0.1", "10.0.0.2"),
    ("AAAA", "fd00::1"),
    ("TXT", '"hello" "world"', '"\\000\\255"'),
    ("MX", "10 mail.shop.svc.cluster.local."),
    ("NS", "ns.dns.cluster.local."),
    ("PTR", "web.shop.svc.cluster.local."),
    ("SRV", "0 50 80 web-0.web.shop.svc.cluster.local."),
    ("SOA", SOA.format(minimum=5)),
    ("CAA", '0 issue "ca.example.com"'),
    ("HTTPS", '1 . alpn="h2"'),
    ("NAPTR", '100 10 "u" "E2U+sip" "!^.*$!sip:x@example.com!" .'),
    ("TYPE65280", r"\# 4 01020304"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record[0])
@pytest.mark.parametrize(
    "asked", ["web.shop.svc.cluster.local", "WEB.Shop.svc.Cluster.local", "web", "web.shop"]
)
def test_every_type_arrives_unchanged_under_the_name_asked_for(record, asked):
    kind, *data = record
    full = "web.shop.svc.cluster.local."
    wire = reply_to(full, kind, (full, kind, *data))
    answer = take_apart(wire, question(asked, kind))
    reply = replied(asked, kind, answer)
    assert reply.question[0].name.to_text(omit_final_dot=True) == asked
    *alias, found = reply.answer
    assert found.to_rdataset() == dns.rrset.from_text(full, 30, "IN", kind, *data).to_rdataset()
    assert found.name == dns.name.from_text(full)
    if dns.name.from_text(asked) == dns.name.from_text(full):
        assert alias == []
    else:
        assert alias == [dns.rrset.from_text(asked + ".", 30, "IN", "CNAME", full)]


@pytest.mark.parametrize("edns", [True, False])
def test_a_chain_is_whole_with_its_additional_records(edns):
    extra = [("ns.dns.cluster.local.", "A", "10.96.0.10")]
    wire = reply_to("ext.shop.svc.cluster.local.", "A", *CHAIN, additional=extra, edns=edns)
    reply = replied("ext", "A", take_apart(wire, question("ext", "A")))
    assert [rrset.name.to_text() for rrset in reply.answer] == [
        "ext.",
        "ext.shop.svc.cluster.local.",
        "web.default.svc.cluster.local.",
    ]
    assert [item.address for item in reply.answer[2]] == addresses_of(wire)
    assert reply.additional[0][0].address == "10.96.0.10"


def test_the_random_case_of_our_own_query_does_not_show():
    """A server that does not compress repeats our letter case in the owner of every record."""
    asked, sent = question("web.shop.svc.cluster.local", "A"), "wEB.sHoP.SVC.clusTER.loCAL."
    message = dns.message.make_response(dns.message.make_query(sent, "A"))
    message.answer.append(dns.rrset.from_text(sent, 30, "IN", "A", "10.96.0.10"))
    spelled_out = message.to_wire().replace(b"\xc0\x0c", dns.name.from_text(sent).to_wire())
    reply = replied("web.shop.svc.cluster.local", "A", take_apart(spelled_out, asked))
    assert reply.answer[0].name.to_text() == "web.shop.svc.cluster.local."
    reply = replied("web", "A", take_apart(message.to_wire(), question("web", "A")))
    assert reply.answer[0][0].target.to_text() == "web.shop.svc.cluster.local."


def test_the_random_case_does_not_show_in_names_that_are_never_compressed():
    """CoreDNS ends an SRV's target with octets of the question; what is not from there keeps its case."""
    name = "_Http._tCp.weB.sHop.sVc.cLuster.lOcal."
    targets = ("Db-0.web.shop.sVc.cLuster.lOcal.", "Mail.Example.ORG.")
    reply = reply_to(name, "SRV", (name, "SRV", *(f"0 50 80 {target}" for target in targets)))
    plain = question(name.lower(), "SRV")
    found = replied(name.lower(), "SRV", take_apart(reply, plain)).answer[0]
    spelled = {item.target.to_text() for item in found}
    assert spelled == {"Db-0.web.shop.svc.cluster.local.", "Mail.Example.ORG."}


@pytest.mark.parametrize(
    ("rcode", "rrsets", "minimum", "ttl", "positive", "lifetime"),
    [
        (0, [("web.", "A", "10.0.0.1")], None, 30, True, 30),
        (3, [], 5, 30, False, 5),
        (3, [], 60, 30, False, 30),
        (0, [], 5, 30, False, 5),
        (3, [], None, 30, False, 0),
        (0, [], None, 30, False, 0),
        (2, [], None, 30, False, 0),
        (0, [("web.", "CNAME", "other.")], 5, 30, False, 5),  # a chain that ends in NODATA
        (0, [("web.", "CNAME", "other."), ("other.", "A", "10.0.0.1")], None, 7, True, 7),
    ],
)
def test_lifetimes(rcode, rrsets, minimum, ttl, positive, lifetime):
    authority = [] if minimum is None else [("cluster.local.", "SOA", SOA.format(minimum=minimum))]
    wire = reply_to("web.", "A", *rrsets, rcode=rcode, authority=authority, ttl=ttl)
    answer = take_apart(wire, question("web", "A"))
    assert (answer.rcode, answer.positive, answer.lifetime) == (rcode, positive, lifetime)


@pytest.mark.parametrize(
    ("own", "age", "most", "sent"),
    [
        (30, 0, 4, 4),
        (30, 27, 4, 3),
        (30, 30, 4, 1),
        (30, 60, 4, 1),
        (2, 0, 4, 2),
        (2, 1, 4, 1),
        (0, 0, 4, 0),
        (0, 3, 4, 0),
    ],
)
def test_ttls_are_short_never_above_the_records_own_and_count_down(own, age, most, sent):
    wire = reply_to("web.", "A", ("web.", "A", "10.0.0.1"), ttl=own)
    answer = take_apart(wire, question("web", "A"))
    assert replied("web", "A", answer, age=age, most=most).answer[0].ttl == sent


def test_flags():
    answer = take_apart(reply_to("web.", "A", ("web.", "A", "10.0.0.1")), question("web", "A"))
    query = dns.message.make_query("web", "A", id=5)
    for desired, recursion in ((True, True), (True, False), (False, True)):
        query.flags = dns.flags.RD if desired else 0
        reply = dns.message.from_wire(
            compose(parse_query(query.to_wire()), answer, most=4, recursion=recursion)
        )
        assert reply.id == 5
        assert reply.flags & dns.flags.AA
        assert bool(reply.flags & dns.flags.RD) == desired
        assert bool(reply.flags & dns.flags.RA) == recursion


def test_an_answer_that_does_not_fit_is_empty_and_says_so():
    wire = reply_to("web.", "A", ("web.", "A", *(f"10.0.{i}.1" for i in range(100))))
    answer = take_apart(wire, question("web", "A"))
    size = len(compose(parse_query(dns.message.make_query("web", "A", use_edns=0).to_wire()), answer, most=4))
    cut = replied("web", "A", answer, limit=size - 1)
    assert cut.flags & dns.flags.TC
    assert not cut.answer
    assert cut.edns == 0
    assert not replied("web", "A", answer, limit=size).flags & dns.flags.TC


def test_addresses_take_turns_and_nothing_else_moves():
    wire = reply_to("ext.shop.svc.cluster.local.", "A", *CHAIN)
    answer = take_apart(wire, question("ext.shop.svc.cluster.local", "A"))
    seen = []
    for turn in range(4):
        reply = replied("ext.shop.svc.cluster.local", "A", dns_answer.rotated(answer, Type.A, turn))
        assert reply.answer[0][0].target.to_text() == "web.default.svc.cluster.local."
        seen.append([item.address for item in reply.answer[1]])
    assert seen[0] == seen[2] == addresses_of(wire)
    assert seen[1] == seen[3] == addresses_of(wire)[::-1]


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\0\0\x01\0\0\1" + bytes(6),
        reply_to("web.", "AAAA"),
        reply_to("web.", "A", ("web.", "A", "10.0.0.1"))[:-20],
    ],
    ids=["nothing", "a query", "another type", "cut off"],
)
def test_what_is_no_reply_is_refused(wire):
    with pytest.raises(Malformed):
        take_apart(wire, question("web", "A"))


@given(st.data())
def test_odd_octets_in_a_reply_never_do_more_than_raise_malformed(data):
    wire = bytearray(reply_to("ext.shop.svc.cluster.local.", "A", *CHAIN))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    asked = question(data.draw(st.sampled_from(["ext", "ext.shop.svc.cluster.local"])), "A")
    try:
        answer = take_apart(bytes(wire), asked)
        dns_answer.targets(answer, asked)
    except Malformed:
        return
    query = parse_query(dns_wire.make_query(asked))
    assert compose(query, dns_answer.rotated(answer, Type.A, 1), most=4)[:2] == b"\0\0"


@pytest.mark.parametrize("rrsets", [[], [("web.", "A", "10.0.0.1")]])
def test_octets_behind_the_last_record_are_not_passed_on(rrsets):
    wire = reply_to("web.", "A", *rrsets, edns=False)
    assert take_apart(wire + b"junk", question("web", "A")) == take_apart(wire, question("web", "A"))


def test_cap_ttls():
    wire = reply_to("web.", "A", *CHAIN, ttl=300)
    capped = dns.message.from_wire(cap_ttls(wire, 4))
    assert {rrset.ttl for rrset in capped.answer} == {4}
    assert capped.edns == 0
    assert cap_ttls(wire, 300) == wire
    assert cap_ttls(wire[:40], 4) == wire[:40]


def test_targets():
    wire = reply_to("ext.shop.svc.cluster.local.", "A", *CHAIN)
    asked = question("ext", "A")
    assert dns_answer.targets(take_apart(wire, asked), asked) == [
        (b"ext", b"shop", b"svc", b"cluster", b"local"),
        (b"web", b"default", b"svc", b"cluster", b"local"),
    ]


def test_of_records():
    reply = replied("localhost", "A", dns_answer.of_records(Type.A, (b"\x7f\0\0\1",)), most=4)
    assert reply.answer == [dns.rrset.from_text("localhost.", 4, "IN", "A", "127.0.0.1")]
    assert replied("localhost", "AAAA", dns_answer.of_records(Type.AAAA, ())).answer == []
