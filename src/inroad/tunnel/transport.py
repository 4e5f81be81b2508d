"""What links over asyncio transports share: TLS with agents, and the API server's port-forward.

Bytes are read into a buffer which nothing keeps. The transport's own write buffer is kept
small, so that what can still be overtaken waits in the mux.
"""

from __future__ import annotations

import asyncio

from inroad.core.mux_flow import Buffer
from inroad.tunnel.link import READ_SIZE, MuxLink, shared_buffer

UNSENT = 128 * 1024
"""Bytes that may wait in the transport, encrypted if it does so, for the kernel to take them."""


class TransportLink(MuxLink, asyncio.BufferedProtocol):
    """A link that is the protocol of an asyncio transport.

    `shared`: read into the buffer of all links; not where the transport holds on to a buffer while it waits
    for bytes, as libuv does on Windows.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, client: bool, shared: bool = False) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = shared_buffer(loop) if shared else memoryview(bytearray(READ_SIZE))
        self._paused = False
        super().__init__(loop, client=client)

    def _use(self, transport: asyncio.Transport) -> None:
        """Send over this transport from now on."""
        self._transport = transport
        transport.set_write_buffer_limits(high=UNSENT)

    # What asyncio calls

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to."""
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        self._feed(self._buffer[:nbytes])

    def eof_received(self) -> None:
        """There is no half-close here: the link ends."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The carrier ended."""
        self._lost(f"connection lost: {exc}" if exc else "the peer closed the connection")

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._paused = False
        self._room()

    # What the link needs of its carrier

    def _send(self, parts: list[Buffer]) -> int:
        if self._transport is None or self._paused:
            return 0
        self._transport.write(b"".join(parts))
        return sum(map(len, parts))

    def _end_output(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _release(self) -> None:
        if self._transport is not None:
            self._transport.abort()
