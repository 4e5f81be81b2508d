"""IP packets: where their parts are, and the few that we make ourselves.

`parse` is for the first packet of a flow and for odd ones; packets of known flows are recognised by
`core.reflect` and `core.associations` with one `struct` call. Nothing here trusts a length field.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from inroad.core.checksum import Buffer, checksum, fold, ones_sum, pseudo_sum

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60
_SKIPPED = frozenset((HOP_BY_HOP, ROUTING, DESTINATION))

TTL = 64
ADDRESSES_AT = {4: 12, 6: 8}

# What a destination unreachable message says: (ICMP code, ICMPv6 code), RFC 792, 1812 and 4443.
NET, HOST, PORT, PROHIBITED = (0, 0), (1, 3), (3, 4), (13, 1)

_V4 = Struct("!BBHHHBBH4s4s")
_V6 = Struct("!IHBB16s16s")
_TCP = Struct("!HHIIBBHHH")
_UDP = Struct("!HHHH")
_ICMP = Struct("!BBHI")


class Fragment(NamedTuple):
    """`offset` in bytes from the start of the fragmentable part; `more` follow; `ident` of the packet."""

    offset: int
    more: bool
    ident: int


class Head(NamedTuple):
    """Where things are in a packet. `start`: of the transport header (or the fragment's data);
    `end`: of the packet by its own length field; `extended`: IPv4 options or IPv6 extension headers.
    """

    version: int
    protocol: int
    start: int
    end: int
    source: bytes
    target: bytes
    ttl: int
    extended: bool
    fragment: Fragment | None

    @property
    def addresses(self) -> bytes:
        """Source and target, as in the packet."""
        return self.source + self.target


def parse(packet: Buffer, size: int) -> Head | str:
    """Find the parts of the first `size` bytes of `packet`, or say what is wrong with them.

    The answer for a bad packet is the name of a counter.
    """
    if size < 20:
        return "truncated"
    version = packet[0] >> 4
    if version == 4:
        return _parse4(packet, size)
    if version == 6:
        return _parse6(packet, size)
    return "bad-version"


def _parse4(packet: Buffer, size: int) -> Head | str:
    first, _, total, ident, flags, ttl, protocol, _, source, target = _V4.unpack_from(packet)
    start = (first & 15) * 4
    if start < 20 or total < start or total > size:
        return "truncated"
    if ones_sum(packet[:start]) != 0xFFFF:
        return "bad-checksum"
    fragment = None
    if flags & 0x3FFF:
        fragment = Fragment((flags & 0x1FFF) * 8, bool(flags & 0x2000), ident)
    return Head(4, protocol, start, total, source, target, ttl, start > 20, fragment)


def _parse6(packet: Buffer, size: int) -> Head | str:
    if size < 40:
        return "truncated"
    _, length, protocol, ttl, source, target = _V6.unpack_from(packet)
    start, end = 40, 40 + length
    if end > size:
        return "truncated"
    fragment = None
    while protocol in _SKIPPED or (protocol == FRAGMENT and fragment is None):
        if start + 8 > end:
            return "truncated"
        if protocol == FRAGMENT:
            field = packet[start + 2] << 8 | packet[start + 3]
            ident = int.from_bytes(packet[start + 4 : start + 8], "big")
            fragment = Fragment(field & 0xFFF8, bool(field & 1), ident)
            protocol, start = packet[start], start + 8
            if fragment.offset or fragment.more:
                break  # what follows may be data, and headers only in the first one
        else:
            if protocol == ROUTING and packet[start + 3]:
                return "ipv6-routing"  # the target is not the final one, and checksums are of that one
            protocol, start = packet[start], start + 8 + packet[start + 1] * 8
        if start > end:
            return "truncated"
    return Head(6, protocol, start, end, source, target, ttl, start > 40, fragment)


def ip_header(
    addresses: Buffer, protocol: int, length: int, *, ident: int = 0, fragment: int = 0, ttl: int = TTL
) -> bytes:
    """Return an IP header for `length` bytes of payload. IPv4: DF is 0 unless `fragment` says so."""
    if len(addresses) == 32:
        return _V6.pack(6 << 28, length, protocol, ttl, addresses[:16], addresses[16:])
    fields = (0x45, 0, 20 + length, ident, fragment, ttl, protocol)
    bare = _V4.pack(*fields, 0, addresses[:4], addresses[4:])
    return _V4.pack(*fields, checksum(bare), addresses[:4], addresses[4:])


def turned(addresses: Buffer) -> bytes:
    """Swap source and target."""
    half = len(addresses) // 2
    return bytes(addresses[half:]) + bytes(addresses[:half])


def tcp_segment(addresses: Buffer, ports: Buffer, seq: int, ack: int, flags: int) -> bytes:
    """Return a whole TCP packet without data or options; `ports` is source then target, 4 bytes."""
    source, target = ports[0] << 8 | ports[1], ports[2] << 8 | ports[3]
    bare = _TCP.pack(source, target, seq, ack, 5 << 4, flags, 0, 0, 0)
    value = checksum(bare, pseudo_sum(addresses, TCP, 20))
    body = _TCP.pack(source, target, seq, ack, 5 << 4, flags, 0, value, 0)
    return ip_header(addresses, TCP, 20) + body


def tcp_sum_right(packet: Buffer, head: Head) -> bool:
    """Tell whether a segment's checksum is right."""
    segment = packet[head.start : head.end]
    return fold(ones_sum(segment) + pseudo_sum(head.addresses, TCP, len(segment))) == 0xFFFF


def tcp_reset(packet: Buffer, head: Head) -> bytes | None:
    """Return the RST that answers a segment (RFC 9293, 3.10.7.1), or None if it is a RST or too short."""
    start, end = head.start, head.end
    if end - start < 20:
        return None
    source, target, seq, ack, offset, flags, _, _, _ = _TCP.unpack_from(packet, start)
    if flags & RST:
        return None
    ports = _TCP.pack(target, source, 0, 0, 0, 0, 0, 0, 0)[:4]
    back = head.target + head.source
    if flags & ACK:
        return tcp_segment(back, ports, ack, 0, RST)
    length = max(0, end - start - (offset >> 4) * 4) + bool(flags & SYN) + bool(flags & FIN)
    return tcp_segment(back, ports, 0, (seq + length) & 0xFFFFFFFF, RST | ACK)


def udp_segment(addresses: Buffer, ports: bytes, payload: Buffer) -> bytes:
    """Return a UDP header with its payload, for between two addresses."""
    length = 8 + len(payload)
    total = pseudo_sum(addresses, UDP, length) + ones_sum(ports) + length + ones_sum(payload)
    value = fold(total) ^ 0xFFFF or 0xFFFF  # 0 would mean "no checksum" (RFC 768)
    return b"".join((ports, length.to_bytes(2, "big"), value.to_bytes(2, "big"), payload))


def unreachable(packet: Buffer, head: Head, code: tuple[int, int]) -> bytes:
    """Return the ICMP(v6) destination unreachable that answers `packet`, as if its target had sent it.

    It quotes as much as keeps it within 576 bytes (RFC 1812, 4.3.2.3) or 1280 (RFC 4443, 2.4). The
    source is the target's address: that one passes the workstation's reverse path filter.
    """
    back = head.target + head.source
    if head.version == 4:
        quoted = bytes(packet[: min(head.end, 576 - 28)])
        body = _ICMP.pack(3, code[0], 0, 0) + quoted
        value = checksum(body)
        return ip_header(back, ICMP, len(body)) + _ICMP.pack(3, code[0], value, 0) + quoted
    quoted = bytes(packet[: min(head.end, 1280 - 48)])
    body = _ICMP.pack(1, code[1], 0, 0) + quoted
    value = checksum(body, pseudo_sum(back, ICMPV6, len(body)))
    return ip_header(back, ICMPV6, len(body)) + _ICMP.pack(1, code[1], value, 0) + quoted
