"""The server's side of a WebSocket (RFC 6455) on a transport that an HTTP server hands over.

Payload is passed on in the pieces in which it arrives, and sends are plain calls: there is no task and no
copy more than needed per chunk, because a tunnel of several Gbit/s runs through it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
from collections.abc import Sequence
from typing import Protocol

from aiohttp._websocket.helpers import websocket_mask  # compiled: 280 Gbit/s, plain Python reaches 2.4

from inroad.sandbox.apiserver.takeover import Takeover

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_READ_SIZE = 256 * 1024
_MAX_CONTROL = 125
_GOODBYE = 1.0
"""Seconds that the peer has for its own close frame."""


def accept_key(key: str) -> str:
    """Return Sec-WebSocket-Accept for a client's key."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def frame_header(size: int, opcode: int = _BINARY) -> bytes:
    """Return the header of an unmasked, final frame with `size` bytes of payload."""
    first = 0x80 | opcode
    if size < 126:
        return bytes((first, size))
    if size < 65536:
        return struct.pack("!BBH", first, 126, size)
    return struct.pack("!BBQ", first, 127, size)


def _header_size(head: bytes | bytearray) -> int:
    """Return the size of a masked frame's header as far as its first bytes tell."""
    if len(head) < 2:
        return 2
    return {126: 8, 127: 14}.get(head[1] & 0x7F, 6)


class WebSocketHandler(Protocol):
    """What a WebSocket tells its owner."""

    def message_part(self, data: bytearray, *, start: bool, end: bool) -> None:
        """Bytes of a message arrived; the buffer is the handler's. `start` and `end` mark its edges."""

    def writable(self, yes: bool) -> None:
        """The peer reads too slowly (False) or caught up (True)."""

    def closed(self) -> None:
        """The connection is gone, or the peer said goodbye."""


class WebSocket(Takeover):
    """One open WebSocket."""

    def __init__(self, handler: WebSocketHandler) -> None:
        super().__init__(_READ_SIZE)
        self._handler = handler
        self._head = bytearray()
        self._left = 0
        self._mask = b""
        self._opcode = 0
        self._final = True
        self._inside = False
        """A data message has begun and not ended."""
        self._control = bytearray()
        self._closing = False

    def send(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Send one binary message, made of these pieces."""
        if not self._closing:
            self.write(b"".join((frame_header(sum(map(len, pieces))), *pieces)))

    def send_close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye and close when all is sent."""
        if self._closing:
            return
        payload = struct.pack("!H", code) + reason.encode()[: _MAX_CONTROL - 2]
        self.write(frame_header(len(payload), _CLOSE) + payload)
        self._closing = True
        # Closing before the peer's own goodbye came would reset what it still reads.
        asyncio.get_running_loop().call_later(_GOODBYE, self.close)

    def received(self, data: memoryview) -> None:
        """Take bytes from the transport."""
        while data:
            if self._left == 0:
                data = self._read_head(data)
                if self._left == 0 and not self._head:
                    self._payload(bytearray())  # an empty frame
                continue
            taken = min(len(data), self._left)
            chunk = bytearray(data[:taken])
            self._left -= taken
            data = data[taken:]
            if self._mask != b"\0\0\0\0":
                websocket_mask(self._mask, chunk)
                turn = taken % 4
                self._mask = self._mask[turn:] + self._mask[:turn]
            self._payload(chunk)

    def lost(self) -> None:
        """Take note that the transport is gone."""
        self._closing = True
        self._handler.closed()

    def paused(self, yes: bool) -> None:
        """Take note that the transport's buffer is full or has room."""
        self._handler.writable(not yes)

    def _read_head(self, data: memoryview) -> memoryview:
        """Collect a frame's header; return what follows it."""
        head = self._head
        while data:
            missing = _header_size(head) - len(head)
            head += data[:missing]
            data = data[missing:]
            if len(head) >= 2 and not head[1] & 0x80:
                head.clear()
                self._broken()
                return data[:0]
            if len(head) == _header_size(head):
                self._start_frame(bytes(head))
                head.clear()
                break
        return data

    def _start_frame(self, head: bytes) -> None:
        self._opcode, self._final = head[0] & 0x0F, bool(head[0] & 0x80)
        length = head[1] & 0x7F
        if length == 126:
            length = int.from_bytes(head[2:4], "big")
        elif length == 127:
            length = int.from_bytes(head[2:10], "big")
        self._mask = head[-4:]
        self._left = length
        control = self._opcode >= _CLOSE
        if head[0] & 0x70 or (control and (length > _MAX_CONTROL or not self._final)):
            self._broken()

    def _broken(self) -> None:
        self._left = 0
        self.send_close(1002, "protocol error")

    def _payload(self, chunk: bytearray) -> None:
        if self._opcode >= _CLOSE:
            self._control += chunk
            if self._left == 0:
                self._control_frame(bytes(self._control))
                self._control.clear()
            return
        if self._closing:
            return
        end = self._final and self._left == 0
        start = not self._inside
        self._inside = not end
        self._handler.message_part(chunk, start=start, end=end)

    def _control_frame(self, payload: bytes) -> None:
        if self._opcode == _PING:
            self.write(frame_header(len(payload), _PONG) + payload)
        elif self._opcode == _CLOSE:
            code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else 1000
            if self._closing:
                self.close()
                return
            self.send_close(code)
            self.close()
            self._handler.closed()


class Refused(Exception):
    """The handshake can't be made; the text says why."""


def handshake(headers: dict[str, str], offered: Sequence[str], supported: Sequence[str]) -> dict[str, str]:
    """Return the headers of the 101 answer: the client's first protocol that we know is chosen."""
    key = headers.get("sec-websocket-key", "")
    if headers.get("sec-websocket-version") != "13" or not key:
        raise Refused("not a WebSocket handshake of version 13")
    answer = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept_key(key)}
    if not offered:
        return answer
    chosen = next((protocol for protocol in offered if protocol in supported), None)
    if chosen is None:
        raise Refused(f"requested protocol(s) are not supported: {list(offered)}")
    return answer | {"Sec-WebSocket-Protocol": chosen}
