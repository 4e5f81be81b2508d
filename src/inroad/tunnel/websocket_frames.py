"""The client's side of a WebSocket's framing (RFC 6455), no I/O: bytes in, calls out; payload in, frames out.

A message is never assembled: its payload is handed on as it comes, because a stream has no use for the
boundaries and a message may be as large as it likes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Protocol

from aiohttp._websocket.helpers import websocket_mask  # compiled; plain Python masks at 0.3 GB/s

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MAX_CONTROL = 125
_FINAL, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
_EXTENDED = {126: ("!H", 4), 127: ("!Q", 10)}


class Broken(Exception):
    """The peer broke the rules; the text says which."""


class Receiver(Protocol):
    """What the frames of a peer lead to."""

    def payload(self, data: memoryview, begin: int, end: int, start: bool) -> None:
        """`data[begin:end]` belongs to a binary message; `start`: as its first bytes."""

    def control(self, opcode: int, payload: bytes) -> None:
        """CLOSE, PING or PONG came."""


class Reader:
    """Takes what the server sends, cut anywhere."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._head = bytearray()
        self._left = 0
        self._control = 0
        self._control_payload = bytearray()
        self._start = False
        self._within = False

    @property
    def whole(self) -> bool:
        """Whether every message that has begun came to its end."""
        return not (self._left or self._within or self._head)

    def receive(self, data: memoryview) -> None:
        """Hand on what is in these bytes; raises `Broken`."""
        position, end = 0, len(data)
        while True:
            if self._left:
                stop = min(position + self._left, end)
                self._left -= stop - position
                self._part(data, position, stop)
                position = stop
            if position == end:
                return
            position = self._read_head(data, position)

    def _part(self, data: memoryview, begin: int, end: int) -> None:
        if self._control:
            self._control_payload += data[begin:end]
            if not self._left:
                self._end_control()
        elif begin < end:
            start, self._start = self._start, False
            self._receiver.payload(data, begin, end, start)

    def _end_control(self) -> None:
        payload, opcode = bytes(self._control_payload), self._control
        self._control = 0
        self._control_payload.clear()
        self._receiver.control(opcode, payload)

    def _read_head(self, data: memoryview, position: int) -> int:
        """Read a frame's header, which may have begun in earlier bytes; return where its payload begins."""
        head = self._head
        have = len(head)
        head += data[position : position + 10 - have]
        size = 2 if len(head) < 2 else 2 if head[1] & _LENGTH < 126 else _EXTENDED[head[1] & _LENGTH][1]
        if len(head) < size:
            return len(data)
        self._begin(head[0], head[1])
        length = head[1] & _LENGTH
        self._left = struct.unpack_from(_EXTENDED[length][0], head, 2)[0] if length > 125 else length
        head.clear()
        if self._control and not self._left:
            self._end_control()
        return position + size - have

    def _begin(self, first: int, second: int) -> None:
        opcode, final = first & _OPCODE, first & _FINAL
        if first & _RESERVED or second & _MASKED:
            raise Broken("a frame with bits that were not agreed on")
        if opcode in (CLOSE, PING, PONG):
            if second & _LENGTH > MAX_CONTROL or not final:
                raise Broken("a control frame that is too long")
            self._control = opcode
            return
        if opcode == TEXT:
            raise Broken("it sent text")
        if opcode != (CONTINUATION if self._within else BINARY):
            raise Broken(f"a frame of type {opcode} out of turn")
        self._start = self._start or not self._within
        self._within = not final


def frame(parts: Sequence[bytes | bytearray | memoryview], key: bytes, opcode: int = BINARY) -> bytearray:
    """Return a whole message of the payload `parts`, masked with the four bytes of `key`.

    All is joined and masked as one, its header too, which is then written anew: one copy and one pass.
    """
    size = sum(map(len, parts))
    first = _FINAL | opcode
    if size < 126:
        header = struct.pack("!BB4s", first, _MASKED | size, key)
    elif size < 65536:
        header = struct.pack("!BBH4s", first, _MASKED | 126, size, key)
    else:
        header = struct.pack("!BBQ4s", first, _MASKED | 127, size, key)
    message = bytearray().join((header, *parts))
    turn = -len(header) % 4
    websocket_mask(key[turn:] + key[:turn], message)
    message[: len(header)] = header
    return message
