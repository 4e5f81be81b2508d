"""What the workstation says by ICMP about packets of ours reaches the listener, as if told itself."""

from __future__ import annotations

import struct
from dataclasses import replace

import packet_reference as reference
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packet_reference import ACK, Segment
from test_reflect import PORT, V4, V6, Conversation

from inroad.core.held import CONNECTED

ROUTER = {4: bytes((172, 30, 0, 1)), 16: bytes.fromhex("fd000030000000000000000000000001")}
TOO_BIG = {4: (3, 4), 16: (2, 0)}


def error(about: bytes, kind: tuple[int, int], rest: int = 1000, keep: int = 2000) -> bytes:
    """An ICMP error of a router on the way to the application, to whom it thinks sent the packet."""
    sender, _, _, _, _ = reference.read_ip(about)
    protocol, initial = 1, b""
    body = struct.pack("!BBHI", *kind, 0, rest) + about[:keep]
    if len(sender) == 16:
        protocol, initial = 58, reference.pseudo(ROUTER[16], sender, 58, len(body))
    value = reference.checksum(initial + body)
    return reference.ip(ROUTER[len(sender)], sender, protocol, body[:2] + struct.pack("!H", value) + body[4:])


def tell(talk: Conversation, packet: bytes) -> list[bytes]:
    """Let the workstation send a packet into the VIF; return what went to the listener."""
    buffer = bytearray(65_536)
    buffer[: len(packet)] = packet
    talk.path.from_app(buffer, len(packet), talk.now)
    return talk.to_listener()


def delivered(talk: Conversation) -> tuple[Segment, Segment]:
    """Open a connection; return a full segment of the listener's, and what the application's side gets."""
    _, back = talk.established()
    sent = replace(back, flags=ACK, data=b"z" * 1400)
    return sent, talk.listener(sent)


@pytest.fixture(params=[V4, V6], ids=["v4", "v6"])
def talk(request: pytest.FixtureRequest) -> Conversation:
    return Conversation(request.param)


def test_too_big_names_the_packet_that_the_listener_sent(talk: Conversation) -> None:
    sent, seen = delivered(talk)
    kind = TOO_BIG[len(sent.source)]
    (told,) = tell(talk, error(seen.pack(), kind))
    source, target, *code, rest, quote = reference.read_icmp(told)
    assert (source, target, tuple(code)) == (sent.target, sent.source, kind)
    assert struct.unpack("!I", rest) == (1000,)
    assert reference.read_tcp(quote) == sent, "to the last byte, with every checksum right"
    assert talk.path.counters["tcp-error"] == 1


def test_as_much_as_the_first_routers_quoted_is_enough(talk: Conversation) -> None:
    """RFC 792: the header and 8 bytes."""
    sent, seen = delivered(talk)
    keep = (20 if len(sent.source) == 4 else 40) + 8
    (told,) = tell(talk, error(seen.pack(), TOO_BIG[len(sent.source)], keep=keep))
    *_, quote = reference.read_icmp(told)
    assert quote[:10] + quote[12:] == sent.pack()[:10] + sent.pack()[12:keep] if keep == 28 else True
    assert struct.unpack_from("!HHI", quote, keep - 8) == (PORT, sent.dport, sent.seq)
    assert tell(talk, error(seen.pack(), TOO_BIG[len(sent.source)], keep=keep - 1)) == []


def test_what_concerns_no_connection_is_counted_and_dropped(talk: Conversation) -> None:
    _, seen = delivered(talk)
    kind = TOO_BIG[len(seen.source)]
    strange = error(replace(seen, dport=seen.dport + 1).pack(), kind)
    broken = bytearray(error(seen.pack(), kind))
    broken[-1] ^= 1
    redirect = error(seen.pack(), (5, 1) if len(seen.source) == 4 else (137, 0))
    for packet in (strange, bytes(broken), redirect):
        assert tell(talk, packet) == []
    assert talk.path.counters["icmp-other"] + talk.path.counters["bad-checksum"] == 3


def test_a_connection_that_is_not_there_yet_hears_of_nothing() -> None:
    talk = Conversation(V4)
    talk.app(talk.syn)
    about = talk.syn.answer(ACK, seq=1, ack=1001).pack()
    assert tell(talk, error(about, (3, 1))) == []
    talk.verdict(CONNECTED)
    talk.to_listener()
    assert len(tell(talk, error(about, (3, 1)))) == 1, "the answer to its SYN found nobody"


@given(st.binary(max_size=120), st.sampled_from([(3, 4), (11, 0), (12, 0), (2, 0), (1, 4)]), st.booleans())
def test_a_quote_of_anything_does_no_harm(quote: bytes, kind: tuple[int, int], six: bool) -> None:
    talk = Conversation(V6 if six else V4)
    _, seen = delivered(talk)
    about = seen.pack()
    head = 40 if six else 20
    packet = error(about, kind)
    body = packet[head : head + 8] + quote
    if six:
        value = reference.checksum(reference.pseudo(ROUTER[16], seen.source, 58, len(body)) + _zero(body))
        whole = reference.ip(ROUTER[16], seen.source, 58, body[:2] + struct.pack("!H", value) + body[4:])
    else:
        value = reference.checksum(_zero(body))
        whole = reference.ip(ROUTER[4], seen.source, 1, body[:2] + struct.pack("!H", value) + body[4:])
    assert tell(talk, whole) == []


def _zero(body: bytes) -> bytes:
    return body[:2] + b"\0\0" + body[4:]
