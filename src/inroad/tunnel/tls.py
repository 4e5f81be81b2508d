"""Links over TLS: what agents use to reach the traffic-manager across the pod network."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import cast

from inroad.tunnel.stream import tune
from inroad.tunnel.transport import TransportLink

HANDSHAKE = 10.0


class TlsLink(TransportLink):
    """A link over an asyncio TLS transport. `on_ready` is called when the handshake is done."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, client: bool, on_ready: Callable[[TlsLink], None]
    ) -> None:
        self._on_ready = on_ready
        super().__init__(loop, client=client, shared=not client)

    @property
    def peer(self) -> str:
        """The address of the other end, "" when it is not known."""
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(name[0]) if name else ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        self._use(cast(asyncio.Transport, transport))
        self._on_ready(self)
        self._room()


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
