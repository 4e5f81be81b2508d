"""Takes a connection over from the HTTP server after `101 Switching Protocols`.

aiohttp's own WebSocket needs a coroutine step per message. The tunnel of a client carries several Gbit/s
through here, so the transport gets a protocol of ours instead, which reads into one buffer and writes by
plain calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

from aiohttp import web


class Takeover(asyncio.BufferedProtocol):
    """A protocol for a connection that was HTTP until now. Subclasses take the three hooks."""

    def __init__(self, read_size: int) -> None:
        self._buffer = memoryview(bytearray(read_size))
        self._transport: asyncio.Transport | None = None
        self._before: asyncio.BaseProtocol | None = None
        self._paused_by: set[object] = set()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def received(self, data: memoryview) -> None:
        """Bytes arrived; valid during the call."""
        raise NotImplementedError

    def lost(self) -> None:
        """The connection is gone."""
        raise NotImplementedError

    def paused(self, yes: bool) -> None:
        """The peer reads too slowly (True), or caught up (False)."""
        raise NotImplementedError

    # -- for subclasses and their owners ------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Close once everything written is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def hold(self, who: object, yes: bool) -> None:
        """Stop reading while anybody holds (back-pressure from several sides)."""
        before = bool(self._paused_by)
        if yes:
            self._paused_by.add(who)
        else:
            self._paused_by.discard(who)
        after = bool(self._paused_by)
        if self._transport is None or self._transport.is_closing() or before == after:
            return
        if after:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # -- asyncio's side -----------------------------------------------------------------------------

    def take(self, transport: asyncio.Transport, before: asyncio.BaseProtocol, rest: bytes) -> None:
        """Become the transport's protocol in place of `before`, which has read `rest` too many."""
        self._transport = transport
        self._before = before
        transport.set_protocol(self)
        if self._paused_by:
            transport.pause_reading()
        if rest:
            self.received(memoryview(rest))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take `nbytes` from the buffer."""
        self.received(self._buffer[:nbytes])

    def eof_received(self) -> bool:
        """Close: neither WebSocket nor SPDY knows half-closed connections."""
        return False

    def pause_writing(self) -> None:
        """Take note of a full buffer."""
        self.paused(True)

    def resume_writing(self) -> None:
        """Take note of room in the buffer."""
        self.paused(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, and the HTTP server, which keeps a list of its connections."""
        self._transport = None
        self.lost()
        if self._before is not None:
            self._before.connection_lost(exc)
        if not self.done.done():
            self.done.set_result(None)


class Handed(web.StreamResponse):
    """What a handler returns when there is nothing left to answer."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Send nothing."""


def switch_protocols(request: web.BaseRequest, headers: Mapping[str, str], protocol: Takeover) -> None:
    """Answer 101 with these headers and give the connection to `protocol`.

    The handler then waits for `protocol.done` and returns `Handed()`.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    lines = ["HTTP/1.1 101 Switching Protocols", *(f"{key}: {value}" for key, value in headers.items())]
    transport.write("\r\n".join([*lines, "", ""]).encode())
    before = request.protocol
    rest = cast(bytes, getattr(before, "_message_tail", b""))
    protocol.take(transport, before, bytes(rest))
