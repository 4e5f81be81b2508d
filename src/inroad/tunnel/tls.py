"""Links over TLS: what agents use to reach the traffic-manager across the pod network.

asyncio's transport does the encryption; its write buffer is kept small, so that what can still be
overtaken waits in the mux.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import cast

from inroad.core.mux_flow import Buffer
from inroad.tunnel.link import MuxLink
from inroad.tunnel.stream import tune

READ_SIZE = 256 * 1024
UNSENT = 128 * 1024
"""Bytes that may wait encrypted for the kernel."""
HANDSHAKE = 10.0


class TlsLink(MuxLink, asyncio.BufferedProtocol):
    """A link over an asyncio TLS transport. `on_ready` is called when the handshake is done."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, client: bool, on_ready: Callable[[TlsLink], None]
    ) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._on_ready = on_ready
        self._paused = False
        super().__init__(loop, client=client)

    @property
    def peer(self) -> str:
        """The address of the other end, "" when it is not known."""
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(name[0]) if name else ""

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=UNSENT)
        self._on_ready(self)
        self._room()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to decrypt to."""
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        self._feed(self._buffer[:nbytes])

    def eof_received(self) -> None:
        """TLS has no half-close here: the link ends."""

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


async def connect_tls(
    host: str, port: int, context: ssl.SSLContext, *, server_hostname: str, setup: Callable[[TlsLink], None]
) -> TlsLink:
    """Connect; `setup` sets the link's callbacks before anything arrives. Raises OSError, ssl.SSLError."""
    loop = asyncio.get_running_loop()
    _, link = await loop.create_connection(
        lambda: TlsLink(loop, client=True, on_ready=setup),
        host,
        port,
        ssl=context,
        server_hostname=server_hostname,
        ssl_handshake_timeout=HANDSHAKE,
    )
    return link


async def serve_tls(
    sockets: list[socket.socket], context: ssl.SSLContext, on_link: Callable[[TlsLink], None]
) -> list[asyncio.Server]:
    """Accept TLS links on listening sockets; `on_link` sets each link's callbacks before it returns."""
    loop = asyncio.get_running_loop()
    servers = []
    for sock in sockets:
        tune(sock)
        servers.append(
            await loop.create_server(
                lambda: TlsLink(loop, client=False, on_ready=on_link),
                sock=sock,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE,
            )
        )
    return servers
