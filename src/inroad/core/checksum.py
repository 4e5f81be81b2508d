"""The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

A sum is a 16-bit one's complement number. Folding the carries back in is the same as taking the
number modulo 65535, so a whole packet is summed by one big-integer division: about 1 µs per
kilobyte, without a loop over words.
"""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview


def ones_sum(data: Buffer) -> int:
    """Return the one's complement sum of big-endian 16-bit words; an odd tail is padded with zero.

    0 only for data that is all zero, else 1..65535 (65535 is the "negative zero").
    """
    value = int.from_bytes(data, "big")
    if not value:
        return 0
    total = value % 0xFFFF
    if len(data) & 1:
        total = (total << 8) % 0xFFFF
    return total or 0xFFFF


def fold(total: int) -> int:
    """Fold a sum of up to 65,536 one's complement numbers into 16 bits."""
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def checksum(data: Buffer, initial: int = 0) -> int:
    """Return what a checksum field must hold, the field itself being zero in `data`.

    `initial` is the sum of the pseudo header.
    """
    return fold(ones_sum(data) + initial) ^ 0xFFFF


def difference(old: Buffer, new: Buffer) -> int:
    """Return `~m + m'` of RFC 1624 for fields that change from `old` to `new` (even lengths)."""
    return fold((ones_sum(old) ^ 0xFFFF) + ones_sum(new))


def patch(field: int, change: int) -> int:
    """Return the checksum field after the change: equation 3 of RFC 1624, `~(~HC + ~m + m')`."""
    total = (field ^ 0xFFFF) + change
    return ((total & 0xFFFF) + (total >> 16)) ^ 0xFFFF


def pseudo_sum(addresses: Buffer, protocol: int, length: int) -> int:
    """Return the sum of a TCP, UDP or ICMPv6 pseudo header; `addresses` is source then target."""
    return fold(ones_sum(addresses) + protocol + (length >> 16) + (length & 0xFFFF))
