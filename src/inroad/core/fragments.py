"""Fragments of IP packets: put together within bounds, and made where a packet is too large.

A packet of which pieces overlap is dropped whole (RFC 5722; Linux does so for IPv4 too), an exact copy
of a piece is ignored. What is missing a piece for TIMEOUT is dropped, and the oldest incomplete packet
goes when all of them hold more than MAX_BYTES. No I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from inroad.core.checksum import Buffer
from inroad.core.packet import FRAGMENT, Head, ip_header

TIMEOUT = 30.0
"""Seconds; as Linux has it for IPv4 (net.ipv4.ipfrag_time)."""
MAX_BYTES = 4 * 1024 * 1024
PIECE_COST = 200
"""Bytes that a piece costs beside its data."""
MAX_PIECES = 512
MAX_PAYLOAD = {4: 65_535 - 20, 6: 65_535}

_FRAGMENT = Struct("!BBHI")


class _Partial:
    """The pieces of one packet by offset. `size` of the whole payload is 0 until the last one came."""

    __slots__ = ("began", "bytes", "pieces", "size")

    def __init__(self, now: float) -> None:
        self.began = now
        self.pieces: dict[int, bytes] = {}
        self.bytes = 0
        self.size = 0


class Reassembly:
    """Packets of which pieces have come, oldest first."""

    def __init__(self, counters: dict[str, int]) -> None:
        self.counters = counters
        self._partial: dict[tuple[bytes, int, int], _Partial] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._partial)

    def add(self, packet: Buffer, head: Head, now: float) -> bytes | None:
        """Take a fragment; return the whole packet (with a plain header) when it was the last missing."""
        fragment = head.fragment
        if fragment is None:
            return None
        data = bytes(packet[head.start : head.end])
        end = fragment.offset + len(data)
        if not data or (fragment.more and len(data) % 8) or end > MAX_PAYLOAD[head.version]:
            self._odd("fragment-bad")
            return None
        key = (head.addresses, head.protocol if head.version == 4 else 0, fragment.ident)
        partial = self._partial.get(key)
        if partial is None:
            partial = self._partial[key] = _Partial(now)
        if partial.pieces.get(fragment.offset) == data:
            self._odd("fragment-copy")
            return None
        if self._contradicts(partial, fragment.offset, end, fragment.more):
            self._drop(key)
            self._odd("fragment-overlap")
            return None
        partial.pieces[fragment.offset] = data
        partial.bytes += len(data)
        self._bytes += len(data) + PIECE_COST
        if not fragment.more:
            partial.size = end
        if partial.size and partial.bytes == partial.size:
            self._drop(key)
            return self._whole(partial, head)
        self._bound()
        return None

    def deadline(self) -> float | None:
        """Return when `tick` wants to be called, or None."""
        for partial in self._partial.values():
            return partial.began + TIMEOUT
        return None

    def tick(self, now: float) -> None:
        """Drop packets that miss pieces for too long."""
        for key, partial in list(self._partial.items()):
            if partial.began + TIMEOUT > now:
                return
            self._drop(key)
            self._odd("fragment-timeout")

    @staticmethod
    def _contradicts(partial: _Partial, offset: int, end: int, more: bool) -> bool:
        """Tell whether a piece overlaps another one, or the end that is known."""
        if partial.size and (end > partial.size or not more):
            return True
        if len(partial.pieces) >= MAX_PIECES:
            return True
        if not more and any(at + len(piece) > end for at, piece in partial.pieces.items()):
            return True
        return any(at < end and offset < at + len(piece) for at, piece in partial.pieces.items())

    def _whole(self, partial: _Partial, head: Head) -> bytes:
        payload = b"".join(piece for _, piece in sorted(partial.pieces.items()))
        return ip_header(head.addresses, head.protocol, len(payload), ttl=head.ttl) + payload

    def _drop(self, key: tuple[bytes, int, int]) -> None:
        partial = self._partial.pop(key)
        self._bytes -= partial.bytes + PIECE_COST * len(partial.pieces)

    def _bound(self) -> None:
        while self._bytes > MAX_BYTES:
            self._drop(next(iter(self._partial)))
            self._odd("fragments-full")

    def _odd(self, kind: str) -> None:
        self.counters[kind] = self.counters.get(kind, 0) + 1


def fragments(addresses: bytes, protocol: int, payload: Buffer, mtu: int, ident: int) -> Iterator[bytes]:
    """Return the packets that carry an IP payload, none longer than `mtu` bytes.

    `ident` (16 bits, IPv6: 32) must differ from that of other packets on their way between the two.
    """
    view, size = memoryview(payload), len(payload)
    if len(addresses) == 8:
        if 20 + size <= mtu:
            yield ip_header(addresses, protocol, size, ident=ident & 0xFFFF) + view
            return
        step = (mtu - 20) & ~7
        for at in range(0, size, step):
            piece = view[at : at + step]
            field = at >> 3 | (0x2000 if at + step < size else 0)
            yield ip_header(addresses, protocol, len(piece), ident=ident & 0xFFFF, fragment=field) + piece
        return
    if 40 + size <= mtu:
        yield ip_header(addresses, protocol, size) + view
        return
    step = (mtu - 48) & ~7
    for at in range(0, size, step):
        piece = view[at : at + step]
        extension = _FRAGMENT.pack(protocol, 0, at | int(at + step < size), ident & 0xFFFFFFFF)
        yield ip_header(addresses, FRAGMENT, 8 + len(piece)) + extension + piece
