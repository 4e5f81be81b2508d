"""The upgrade of a request to a WebSocket (RFC 6455 section 4), after which the connection is the caller's.

aiohttp makes the connection (TLS, proxies, credentials) and carries the request; its own WebSocket costs
several copies and a coroutine step per message, which a tunnel of several Gbit/s can't pay.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import Sequence

import aiohttp

from inroad.core.errors import ApiUnreachable

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class _Rest:
    """Takes what aiohttp has read behind the answer's head (as its parser of payload)."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Keep bytes; says that the stream goes on."""
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """Nothing to do: the transport's protocol learns of it."""


class Upgraded:
    """An upgraded connection; `subprotocol` is the one the server chose, "" for none."""

    def __init__(self, response: aiohttp.ClientResponse, subprotocol: str) -> None:
        self.subprotocol = subprotocol
        self._response = response  # as long as it lives aiohttp keeps the connection open

    def take(self, protocol: asyncio.BaseProtocol) -> tuple[asyncio.Transport, bytes]:
        """Make `protocol` the transport's; return that, and what was read too many.

        Raises `ApiUnreachable` when the connection has ended meanwhile.
        """
        connection = self._response.connection
        if connection is None or connection.protocol is None or connection.transport is None:
            raise ApiUnreachable("the API server closed the connection that it had just upgraded")
        self._before, transport, rest = connection.protocol, connection.transport, _Rest()
        self._before.set_parser(rest, None)
        transport.set_protocol(protocol)
        return transport, rest.data

    def ended(self, error: Exception | None) -> None:
        """To be called when the transport's connection is lost: aiohttp keeps a list of them."""
        self._before.connection_lost(error)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._response.close()


class Handshake:
    """One attempt's headers, and the check of what the server answers."""

    def __init__(self, subprotocols: Sequence[str]) -> None:
        self._subprotocols = subprotocols
        key = base64.b64encode(os.urandom(16))
        digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
        self._accept = base64.b64encode(digest).decode()
        self.headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key.decode(),
            "Sec-WebSocket-Protocol": ", ".join(subprotocols),
            "Accept": "*/*",  # a real API server answers 406 to an upgrade that asks for JSON
        }

    def check(self, response: aiohttp.ClientResponse) -> Upgraded:
        """Return the connection; raises `aiohttp.WSServerHandshakeError` for a wrong answer."""
        headers = response.headers
        chosen = headers.get("Sec-WebSocket-Protocol", "")
        problem = (
            f"it answered {response.status} to an upgrade"
            if response.status != 101
            else "it upgraded to something else"
            if headers.get("Upgrade", "").lower() != "websocket"
            else "its answer does not fit the key"
            if headers.get("Sec-WebSocket-Accept") != self._accept
            else "it chose what was not offered"
            if (chosen and chosen not in self._subprotocols) or "Sec-WebSocket-Extensions" in headers
            else ""
        )
        if problem:
            response.close()
            raise aiohttp.WSServerHandshakeError(
                response.request_info, response.history, message=problem, status=response.status
            )
        return Upgraded(response, chosen)
