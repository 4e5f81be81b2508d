"""Fragments: made and put together again in any order; contradictions, bounds and time."""

from __future__ import annotations

import packet_reference as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inroad.core import fragments as module
from inroad.core.fragments import MAX_BYTES, TIMEOUT, Reassembly, fragments
from inroad.core.packet import Head, parse

V4 = bytes((246, 246, 0, 1, 10, 96, 0, 5))
V6 = bytes.fromhex("fd000000000002460000000000000001fd000010009600000000000000000005")


def feed(table: Reassembly, packet: bytes, now: float = 0.0) -> bytes | None:
    head = parse(packet, len(packet))
    assert isinstance(head, Head)
    return table.add(packet, head, now)


def pieces(addresses: bytes, payload: bytes, mtu: int = 576, ident: int = 7) -> list[bytes]:
    return list(fragments(addresses, 17, payload, mtu, ident))


@settings(deadline=None)  # a full machine is not a finding
@given(
    st.sampled_from([V4, V6]),
    st.integers(1, 20_000),
    st.integers(68, 1500),
    st.randoms(use_true_random=False),
)
def test_any_order_gives_the_payload(addresses, size, mtu, random) -> None:
    payload = random.randbytes(size)
    made = pieces(addresses, payload, mtu)
    assert all(len(packet) <= mtu for packet in made)
    if len(made) == 1:
        assert reference.read_ip(made[0])[2:4] == (17, payload)
        return
    random.shuffle(made)
    table = Reassembly({})
    *early, last = made
    assert [feed(table, packet) for packet in early] == [None] * len(early)
    whole = feed(table, last)
    half = len(addresses) // 2
    assert reference.read_ip(whole)[:4] == (addresses[:half], addresses[half:], 17, payload)
    assert len(table) == 0
    assert table.deadline() is None


@pytest.mark.parametrize(("addresses", "most"), [(V4, 65_515), (V6, 65_535)])
def test_the_largest(addresses: bytes, most: int) -> None:
    table = Reassembly({})
    whole = [feed(table, packet) for packet in pieces(addresses, bytes(most))][-1]
    assert reference.read_ip(whole)[3] == bytes(most)


def test_packets_of_two_flows_are_not_mixed() -> None:
    table = Reassembly({})
    one, two = pieces(V4, b"1" * 1000), pieces(V4[:7] + b"\x06", b"2" * 1000)
    other = pieces(V4, b"3" * 1000, ident=8)
    assert [feed(table, packet) for packet in (one[0], two[0], other[0])] == [None] * 3
    assert reference.read_ip(feed(table, other[1]))[3] == b"3" * 1000
    assert reference.read_ip(feed(table, two[1]))[3] == b"2" * 1000
    assert reference.read_ip(feed(table, one[1]))[3] == b"1" * 1000


@pytest.mark.parametrize("addresses", [V4, V6])
def test_a_copy_is_ignored_and_an_overlap_drops_all(addresses: bytes) -> None:
    table = Reassembly({})
    first, second, *_ = pieces(addresses, b"a" * 2000, 576)
    other, *_ = pieces(addresses, b"b" * 2000, 700)
    feed(table, first)
    feed(table, first)
    assert table.counters == {"fragment-copy": 1}
    feed(table, other)
    assert len(table) == 0
    assert table.counters["fragment-overlap"] == 1
    assert feed(table, second) is None


def test_a_second_end_drops_all() -> None:
    table = Reassembly({})
    feed(table, pieces(V4, b"a" * 2000)[-1])
    feed(table, pieces(V4, b"a" * 1000)[-1])
    assert table.counters == {"fragment-overlap": 1}
    feed(table, pieces(V4, b"a" * 2000)[2])
    feed(table, pieces(V4, b"a" * 1000)[-1])  # ends before a piece that is there
    assert table.counters == {"fragment-overlap": 2}


def test_beyond_the_longest_packet() -> None:
    packet = bytearray(pieces(V4, b"a" * 2000)[-1])
    packet[6:8] = (0x1FFF).to_bytes(2, "big")
    packet[10:12] = bytes(2)
    packet[10:12] = reference.checksum(bytes(packet[:20])).to_bytes(2, "big")
    table = Reassembly({})
    assert feed(table, bytes(packet)) is None
    assert table.counters == {"fragment-bad": 1}


def test_incomplete_packets_end_with_time() -> None:
    table = Reassembly({})
    first, second = pieces(V4, b"a" * 1000)
    feed(table, first, now=10.0)
    assert table.deadline() == 10.0 + TIMEOUT
    table.tick(10.0 + TIMEOUT - 1)
    assert len(table) == 1
    table.tick(10.0 + TIMEOUT)
    assert (len(table), table.counters) == (0, {"fragment-timeout": 1})
    assert feed(table, second, now=50.0) is None


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    table = Reassembly({})
    made = {ident: pieces(V4, bytes(60_000), 40_000, ident) for ident in range(200)}
    for first, _ in made.values():
        feed(table, first)
    assert table._bytes <= MAX_BYTES
    assert feed(table, made[0][1]) is None
    assert feed(table, made[199][1]) is not None


def test_many_small_pieces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIECES", 10)
    table = Reassembly({})
    for packet in pieces(V4, bytes(2000), 68):
        feed(table, packet)
    assert table.counters["fragment-overlap"] >= 1
