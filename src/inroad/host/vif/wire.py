"""Records between the packet loop and the daemon.

Two SEQPACKET pairs carry them: `events` (flows, verdicts; never dropped) and `datagrams` (dropped and
counted when the reader is slow). A message is any number of records. Numbers are big-endian; a record
is its kind (u8), the flow (u64), the length of its body (u32) and the body.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from struct import Struct

from inroad.core.packet import Head

HEADER = Struct("!BQI")
MAX_MESSAGE = 98_304
"""Bytes in one message at most: the largest datagram with its header, and well below a pair's buffer."""
FULL = 32_768
"""A message is sent when it holds this much, even if there is more to put in."""

# Packet loop to daemon, events.
READY, FAILED, SYN, CANCELLED, EXPIRED, COUNTERS = range(1, 7)
# Daemon to packet loop, events.
VERDICT, ABORT, UNREACHABLE, COUNT, ACCEPTED, TRACKED = range(16, 22)
# Datagrams: OPENED comes before the first DATAGRAM or ECHO of a flow, in the same message.
OPENED, DATAGRAM, ECHO = range(32, 35)

# Version, TTL, listener (SYN only); ports of source, target and peer; addresses, padded to 16 bytes.
_SYN = Struct("!BBBHHH16s16s16s")
_OPENED = Struct("!BBHH16s16s")
SEQUENCE = Struct("!H")

Address = tuple[str, int]


def record(kind: int, flow: int = 0, body: bytes = b"") -> bytes:
    """Return one record."""
    return HEADER.pack(kind, flow, len(body)) + body


def records(message: bytes) -> Iterator[tuple[int, int, memoryview]]:
    """Take a message apart: (kind, flow, body). Both ends are ours, so a bad one is a bug and raises."""
    view, at = memoryview(message), 0
    while at < len(view):
        kind, flow, size = HEADER.unpack_from(view, at)
        at += HEADER.size
        yield kind, flow, view[at : at + size]
        at += size


def pack_syn(head: Head, hops: int, ports: bytes, listener: int, peer: bytes, peer_port: int) -> bytes:
    """Return the body of SYN. `ports` are source then target, as in the packet; `hops` are given back."""
    source, target = int.from_bytes(ports[:2], "big"), int.from_bytes(ports[2:], "big")
    ttl = min(head.ttl + hops, 255)
    return _SYN.pack(head.version, ttl, listener, source, target, peer_port, head.source, head.target, peer)


def unpack_syn(body: memoryview) -> tuple[int, int, Address, Address, Address]:
    """Return (ttl, listener, source, target, peer)."""
    version, ttl, listener, source, target, peer, a, b, c = _SYN.unpack(body)
    return ttl, listener, (_text(version, a), source), (_text(version, b), target), (_text(version, c), peer)


def pack_opened(head: Head, hops: int, ports: bytes) -> bytes:
    """Return the body of OPENED; arguments as with SYN."""
    source, target = int.from_bytes(ports[:2], "big"), int.from_bytes(ports[2:], "big")
    ttl = min(head.ttl + hops, 255)
    return _OPENED.pack(head.version, ttl, source, target, head.source, head.target)


def unpack_opened(body: memoryview) -> tuple[Address, Address, int]:
    """Return (source, target, ttl)."""
    version, ttl, source, target, a, b = _OPENED.unpack(body)
    return (_text(version, a), source), (_text(version, b), target), ttl


def _text(version: int, address: bytes) -> str:
    if version == 4:
        return socket.inet_ntop(socket.AF_INET, address[:4])
    return socket.inet_ntop(socket.AF_INET6, address)
