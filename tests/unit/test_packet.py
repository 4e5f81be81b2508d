"""Reading packets, and the packets that we make, against a slow reference."""

from __future__ import annotations

import struct

import packet_reference as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_reference import ACK, FIN, RST, SYN, Segment

from inroad.core import packet as packets
from inroad.core.packet import Fragment, Head, parse

V4 = (bytes((246, 246, 0, 1)), bytes((10, 96, 0, 5)))
V6 = (bytes.fromhex("fd0000000000024600000000000000 01"), bytes.fromhex("fd00001000960000000000000000 0005"))

addresses = st.tuples(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4)) | st.tuples(
    st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16)
)
words = st.integers(0, 15).flatmap(lambda n: st.binary(min_size=4 * (n % 11), max_size=4 * (n % 11)))
segments = st.builds(
    lambda pair, **rest: Segment(pair[0], pair[1], **rest),
    addresses,
    sport=st.integers(0, 0xFFFF),
    dport=st.integers(0, 0xFFFF),
    seq=st.integers(0, 0xFFFFFFFF),
    ack=st.integers(0, 0xFFFFFFFF),
    flags=st.integers(0, 0xFF),
    options=words,
    data=st.binary(max_size=100),
    ttl=st.integers(0, 255),
)


def head_of(packet: bytes) -> Head:
    head = parse(packet, len(packet))
    assert isinstance(head, Head)
    return head


@settings(deadline=None)  # a full machine is not a finding
@given(segments)
def test_parse_finds_the_parts(segment: Segment) -> None:
    packet = segment.pack()
    head = head_of(packet)
    assert (head.source, head.target, head.protocol, head.ttl) == (
        segment.source,
        segment.target,
        6,
        segment.ttl,
    )
    assert packet[head.start : head.start + 2] == struct.pack("!H", segment.sport)
    assert head.end == len(packet)
    assert not head.extended
    assert head.fragment is None


@settings(deadline=None)  # a full machine is not a finding
@given(segments, st.integers(0, 60))
def test_a_cut_packet_is_truncated(segment: Segment, kept: int) -> None:
    packet = segment.pack()
    assert parse(packet, min(kept, len(packet) - 1)) == "truncated"


@settings(deadline=None)  # a full machine is not a finding
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_named(data: bytes) -> None:
    head = parse(data, len(data))
    if isinstance(head, Head):
        assert head.start <= head.end <= len(data)
    else:
        assert head in ("truncated", "bad-version", "bad-checksum", "ipv6-routing")


def test_ipv4_options_and_a_longer_frame() -> None:
    packet = Segment(*V4, 1, 2, ip_options=b"\x01\x01\x01\x00").pack() + b"padding"
    head = head_of(packet)
    assert (head.start, head.end, head.extended) == (24, len(packet) - 7, True)


def test_bad_ipv4_header_checksum() -> None:
    packet = bytearray(Segment(*V4, 1, 2).pack())
    packet[8] ^= 1
    assert parse(packet, len(packet)) == "bad-checksum"


@pytest.mark.parametrize(
    ("kind", "header", "expected"),
    [
        (0, b"\x06\x00\x01\x04\0\0\0\0", (48, None)),
        (60, b"\x06\x01" + bytes(14), (56, None)),
        (43, b"\x06\x00\x00\x00\0\0\0\0", (48, None)),
        (43, b"\x06\x00\x00\x01\0\0\0\0", "ipv6-routing"),
        (44, b"\x06\x00\x00\x01\0\0\0\7", (48, Fragment(0, True, 7))),
        (44, b"\x06\x00\x00\xa8\0\0\0\7", (48, Fragment(168, False, 7))),
        (60, b"\x06\xff" + bytes(14), "truncated"),
        (60, b"\x3c\x00" + bytes(6), "truncated"),
    ],
)
def test_ipv6_extension_headers(kind: int, header: bytes, expected: object) -> None:
    packet = reference.ip(*V6, kind, header)
    head = parse(packet, len(packet))
    if isinstance(expected, str):
        assert head == expected
    else:
        assert isinstance(head, Head)
        assert (head.start, head.fragment) == expected
        assert head.protocol == 6
        assert head.extended


@settings(deadline=None)  # a full machine is not a finding
@given(segments)
def test_reset_answers_as_the_standard_says(segment: Segment) -> None:
    packet = segment.pack()
    reset = packets.tcp_reset(packet, head_of(packet))
    if segment.flags & RST:
        assert reset is None
        return
    assert reset is not None
    answer = reference.read_tcp(reset)
    assert (answer.source, answer.target, answer.sport, answer.dport) == (
        segment.target,
        segment.source,
        segment.dport,
        segment.sport,
    )
    if segment.flags & ACK:
        assert (answer.flags, answer.seq, answer.ack) == (RST, segment.ack, 0)
    else:
        length = len(segment.data) + bool(segment.flags & SYN) + bool(segment.flags & FIN)
        assert (answer.flags, answer.seq) == (RST | ACK, 0)
        assert answer.ack == (segment.seq + length) % 2**32


@settings(deadline=None)  # a full machine is not a finding
@given(addresses, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=2000))
def test_udp(pair: tuple[bytes, bytes], sport: int, dport: int, data: bytes) -> None:
    addresses = pair[0] + pair[1]
    made = packets.udp_segment(addresses, struct.pack("!HH", sport, dport), data)
    made = packets.ip_header(addresses, packets.UDP, len(made)) + made
    assert reference.read_udp(made) == (*pair, sport, dport, data)
    assert made[packets.parse(made, len(made)).start + 6 :][:2] != b"\0\0"


@pytest.mark.parametrize("pair", [V4, V6])
@pytest.mark.parametrize(
    ("code", "numbers"), [("NET", (0, 0)), ("HOST", (1, 3)), ("PORT", (3, 4)), ("PROHIBITED", (13, 1))]
)
@pytest.mark.parametrize("size", [0, 10, 3000])
def test_unreachable_quotes_the_packet(
    pair: tuple[bytes, bytes], code: str, numbers: tuple[int, int], size: int
) -> None:
    packet = Segment(*pair, 40_000, 80, flags=SYN, data=b"x" * size).pack()
    made = packets.unreachable(packet, head_of(packet), getattr(packets, code))
    source, target, kind, number, unused, quote = reference.read_icmp(made)
    four = len(pair[0]) == 4
    assert (source, target) == (pair[1], pair[0])
    assert (kind, number) == ((3, numbers[0]) if four else (1, numbers[1]))
    assert unused == bytes(4)
    assert packet.startswith(quote)
    assert len(quote) >= min(len(packet), 28)
    assert len(made) <= (576 if four else 1280)
