"""Slow and obvious: packets built and read field by field, checksums added up word by word.

The fast code is checked against this; nothing here is taken from it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def add_up(data: bytes) -> int:
    """RFC 1071 as written: add 16-bit words, carry around."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for at in range(0, len(data), 2):
        total += data[at] * 256 + data[at + 1]
        if total > 0xFFFF:
            total -= 0xFFFF
    return total


def checksum(data: bytes) -> int:
    return 0xFFFF - add_up(data)


def pseudo(source: bytes, target: bytes, protocol: int, length: int) -> bytes:
    if len(source) == 4:
        return source + target + struct.pack("!BBH", 0, protocol, length)
    return source + target + struct.pack("!IHBB", length, 0, 0, protocol)


def ip(
    source: bytes, target: bytes, protocol: int, payload: bytes, ttl: int = 64, options: bytes = b""
) -> bytes:
    if len(source) == 16:
        return struct.pack("!IHBB", 0x6ABCDEF0, len(payload), protocol, ttl) + source + target + payload
    size = 20 + len(options)
    head = struct.pack("!BBHHHBBH", 0x40 + size // 4, 0x10, size + len(payload), 77, 0x4000, ttl, protocol, 0)
    whole = head + source + target + options
    return whole[:10] + struct.pack("!H", checksum(whole)) + whole[12:] + payload


@dataclass(frozen=True)
class Segment:
    """A TCP packet."""

    source: bytes
    target: bytes
    sport: int
    dport: int
    seq: int = 0
    ack: int = 0
    flags: int = ACK
    options: bytes = b""
    data: bytes = b""
    ttl: int = 64
    ip_options: bytes = b""

    def pack(self) -> bytes:
        offset = (20 + len(self.options)) // 4 << 4
        bare = struct.pack(
            "!HHIIBBHHH", self.sport, self.dport, self.seq, self.ack, offset, self.flags, 1000, 0, 0
        )
        bare += self.options + self.data
        value = checksum(pseudo(self.source, self.target, 6, len(bare)) + bare)
        return ip(
            self.source,
            self.target,
            6,
            bare[:16] + struct.pack("!H", value) + bare[18:],
            self.ttl,
            self.ip_options,
        )

    def answer(self, flags: int, **other: object) -> Segment:
        return replace(
            self,
            source=self.target,
            target=self.source,
            sport=self.dport,
            dport=self.sport,
            flags=flags,
            **other,
        )


def read_tcp(packet: bytes) -> Segment:
    """Take a packet apart and check every length and checksum in it."""
    source, target, protocol, payload, ttl = read_ip(packet)
    assert protocol == 6
    sport, dport, seq, ack, offset, flags, _, _, _ = struct.unpack_from("!HHIIBBHHH", payload)
    assert add_up(pseudo(source, target, 6, len(payload)) + payload) == 0xFFFF
    size = (offset >> 4) * 4
    options = packet[20 : (packet[0] & 15) * 4] if packet[0] >> 4 == 4 else b""
    return Segment(
        source, target, sport, dport, seq, ack, flags, payload[20:size], payload[size:], ttl, bytes(options)
    )


def read_ip(packet: bytes) -> tuple[bytes, bytes, int, bytes, int]:
    """Return source, target, protocol, payload and TTL."""
    packet = bytes(packet)
    if packet[0] >> 4 == 6:
        length, protocol, ttl = struct.unpack_from("!HBB", packet, 4)
        assert len(packet) == 40 + length
        return packet[8:24], packet[24:40], protocol, packet[40:], ttl
    size = (packet[0] & 15) * 4
    assert int.from_bytes(packet[2:4], "big") == len(packet)
    assert add_up(packet[:size]) == 0xFFFF
    return packet[12:16], packet[16:20], packet[9], packet[size:], packet[8]


def udp(source: bytes, target: bytes, sport: int, dport: int, data: bytes) -> bytes:
    bare = struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data
    value = checksum(pseudo(source, target, 17, len(bare)) + bare) or 0xFFFF
    return ip(source, target, 17, bare[:6] + struct.pack("!H", value) + data)


def read_udp(packet: bytes) -> tuple[bytes, bytes, int, int, bytes]:
    source, target, protocol, payload, _ = read_ip(packet)
    assert protocol == 17
    sport, dport, length, _ = struct.unpack_from("!HHHH", payload)
    assert length == len(payload)
    assert add_up(pseudo(source, target, 17, length) + payload) == 0xFFFF
    return source, target, sport, dport, payload[8:]


def read_icmp(packet: bytes) -> tuple[bytes, bytes, int, int, bytes, bytes]:
    """Return source, target, type, code, the second word and what follows."""
    source, target, protocol, payload, _ = read_ip(packet)
    initial = pseudo(source, target, 58, len(payload)) if protocol == 58 else b""
    assert protocol in (1, 58)
    assert add_up(initial + payload) == 0xFFFF
    return source, target, payload[0], payload[1], payload[4:8], payload[8:]
