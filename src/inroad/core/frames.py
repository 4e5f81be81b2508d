"""Frames of the tunnel: what they look like and how large each may be (docs/protocol.md).

    flow id (u32) | type (u8) | length (u24) | payload         all big-endian

Type and length are read as one u32, so that a header costs one `unpack`.
"""

from __future__ import annotations

import struct

OPEN, OPENED, REFUSED, DATA, CREDIT, FIN, RESET, DATAGRAM, PING, PONG, CONTROL, LANE = range(1, 13)

NAMES = {
    OPEN: "OPEN",
    OPENED: "OPENED",
    REFUSED: "REFUSED",
    DATA: "DATA",
    CREDIT: "CREDIT",
    FIN: "FIN",
    RESET: "RESET",
    DATAGRAM: "DATAGRAM",
    PING: "PING",
    PONG: "PONG",
    CONTROL: "CONTROL",
    LANE: "LANE",
}

HEADER_SIZE = 8
MAX_LENGTH = 0xFF_FFFF
MAX_FLOW_ID = 0xFFFF_FFFF
MAX_REQUEST = 4_096
MAX_DETAIL = 1_024
MAX_DATAGRAM = 65_535
MAX_CONTROL = 4 * 1024 * 1024
"""20,000 subnets and some thousand namespaces fit; nothing larger is ever assembled in memory."""
MAX_CREDIT = 0x7FFF_FFFF
"""Unused credit of one flow never exceeds this, whatever the peer grants."""

PAYLOAD_SIZES = {
    OPEN: (4, 4 + MAX_REQUEST),
    OPENED: (4, 4),
    REFUSED: (1, 1 + MAX_DETAIL),
    DATA: (0, MAX_LENGTH),
    CREDIT: (4, 4),
    FIN: (0, MAX_LENGTH),
    RESET: (0, MAX_DETAIL),
    DATAGRAM: (0, MAX_DATAGRAM),
    PING: (8, 8),
    PONG: (16, 16),
    CONTROL: (0, MAX_CONTROL),
    LANE: (0, 0),
}
"""Smallest and largest payload of each type, in bytes."""

LINK_TYPES = frozenset({PING, PONG, CONTROL})
"""Types of flow 0, the link itself; RESET of flow 0 says goodbye, every other type needs a flow."""

_header = struct.Struct("!II")
_number = struct.Struct("!I")

pack_header = _header.pack
"""(flow id, type << 24 | length) -> 8 bytes."""
unpack_header = _header.unpack_from
pack_number = _number.pack
unpack_number = _number.unpack_from


class ProtocolError(Exception):
    """The peer broke the rules of docs/protocol.md; the link has to end. Says which rule."""


def frame(flow_id: int, kind: int, payload: bytes = b"") -> bytes:
    """Return one whole frame."""
    return pack_header(flow_id, kind << 24 | len(payload)) + payload


def check(flow_id: int, kind: int, size: int) -> None:
    """Raise `ProtocolError` when no frame may have this header."""
    bounds = PAYLOAD_SIZES.get(kind)
    if bounds is None:
        raise ProtocolError(f"frame of unknown type {kind}: the peer does not speak this protocol")
    if not bounds[0] <= size <= bounds[1]:
        raise ProtocolError(f"{NAMES[kind]} frame of {size} bytes")
    if (flow_id == 0) != (kind in LINK_TYPES) and not (flow_id == 0 and kind == RESET):
        raise ProtocolError(f"{NAMES[kind]} frame for flow {flow_id}")
