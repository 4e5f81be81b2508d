"""Checksums against adding up word by word."""

from __future__ import annotations

import packet_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from inroad.core.checksum import checksum, difference, fold, ones_sum, patch, pseudo_sum


@settings(deadline=None)  # a full machine is not a finding
@given(st.binary(max_size=3000))
def test_sum_is_the_sum_of_words(data: bytes) -> None:
    assert ones_sum(data) == reference.add_up(data)
    assert ones_sum(memoryview(data)) == ones_sum(bytearray(data))


@settings(deadline=None)  # a full machine is not a finding
@given(st.lists(st.integers(0, 0xFFFF), max_size=40))
def test_fold_adds_with_the_carry_around(numbers: list[int]) -> None:
    expected = 0
    for number in numbers:
        expected += number
        expected -= 0xFFFF if expected > 0xFFFF else 0
    assert fold(sum(numbers)) == expected


@settings(deadline=None)  # a full machine is not a finding
@given(st.binary(min_size=2, max_size=200), st.data())
def test_patching_equals_computing_anew(packet: bytes, data: st.DataObject) -> None:
    """RFC 1624 is about the values that eqn. 2 of RFC 1141 gets wrong: 0x0000 and 0xffff among them."""
    packet = packet[: len(packet) // 2 * 2]
    at = data.draw(st.integers(0, len(packet) // 2 - 1)) * 2
    size = data.draw(st.integers(1, (len(packet) - at) // 2)) * 2
    words = st.sampled_from([b"\0\0", b"\xff\xff", b"\0\1", b"\xff\xfe", b"\x12\x34"])
    new = b"".join(data.draw(st.lists(words, min_size=size // 2, max_size=size // 2)))
    changed = packet[:at] + new + packet[at + size :]
    rest = b"\x45\x00"  # a real packet is never all zero
    before = reference.checksum(rest + packet)
    after = reference.checksum(rest + changed)
    assert patch(before, difference(packet[at : at + size], new)) == after


@settings(deadline=None)  # a full machine is not a finding
@given(st.binary(min_size=8, max_size=8) | st.binary(min_size=32, max_size=32), st.integers(0, 70_000))
def test_pseudo_header(addresses: bytes, length: int) -> None:
    half = len(addresses) // 2
    if half == 4:
        length &= 0xFFFF
    expected = reference.add_up(reference.pseudo(addresses[:half], addresses[half:], 17, length))
    assert pseudo_sum(addresses, 17, length) == expected


def test_known_value() -> None:
    header = bytes.fromhex("45000073000040004011 0000 c0a80001c0a800c7")
    assert checksum(header) == 0xB861
