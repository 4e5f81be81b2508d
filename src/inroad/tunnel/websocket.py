"""A link over a Kubernetes port-forward: a WebSocket of the subprotocol `v4.channel.k8s.io`.

Binary messages begin with a channel number: with one forwarded port, 0 carries its bytes and 1 its
error as text. The server's first message on each channel holds the port (u16, little endian) and
nothing else (Kubernetes: pkg/kubelet/cri/streaming/portforward/websocket.go).
"""

from __future__ import annotations

import asyncio
import socket

import aiohttp

from inroad.core.mux_flow import Buffer
from inroad.tunnel.api import Link
from inroad.tunnel.link import MuxLink
from inroad.tunnel.stream import NOT_SENT_LOWAT, TCP_NOTSENT_LOWAT

DATA, ERROR = 0, 1
_DATA_PREFIX = bytes((DATA,))
PORT_SIZE = 2
MESSAGE = 64 * 1024
"""Payload of one message that we send. The kubelet reads a message whole before it passes it on."""
GOODBYE = 2.0
"""Seconds that the closing handshake of the WebSocket may take."""


class PortForwardLink(MuxLink):
    """A link over one port-forward, whose WebSocket it owns."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ws: aiohttp.ClientWebSocketResponse) -> None:
        self._ws = ws
        self._batch: bytes | None = None
        self._batch_ready = asyncio.Event()
        self._announced: set[int] = set()
        self._error = bytearray()
        super().__init__(loop, client=True)
        self._tasks = (loop.create_task(self._read()), loop.create_task(self._write()))

    # One task writes, so that no frame costs a coroutine: `_send` only hands over the next batch.

    def _send(self, parts: list[Buffer]) -> int:
        if self._batch is not None:
            return 0
        self._batch = b"".join(parts)
        self._batch_ready.set()
        return len(self._batch)

    async def _write(self) -> None:
        while True:
            await self._batch_ready.wait()
            self._batch_ready.clear()
            batch = self._batch or b""
            try:
                for start in range(0, len(batch), MESSAGE):
                    await self._ws.send_bytes(_DATA_PREFIX + batch[start : start + MESSAGE])
            except (OSError, aiohttp.ClientError) as error:
                self._lost(f"port-forward: {error}")
                return
            self._batch = None
            self._room()

    async def _read(self) -> None:
        while True:
            message = await self._ws.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                self._message(message.data)
            elif message.type is aiohttp.WSMsgType.TEXT:
                self._lost(f"the port-forward sent text: {message.data[:200]!r}")
                return
            else:
                self._lost(self._why_closed(message))
                return

    def _message(self, data: bytes) -> None:
        if len(data) < 2:
            return
        channel, payload = data[0], memoryview(data)[1:]
        if channel not in self._announced:
            if len(payload) < PORT_SIZE:
                self._lost("the port-forward did not announce its port")
                return
            self._announced.add(channel)
            payload = payload[PORT_SIZE:]
        if channel == DATA:
            if payload:
                self._feed(payload)
        elif channel == ERROR and payload:
            self._lost(f"port-forward: {str(payload[:500], 'utf-8', 'replace').strip()}")

    def _why_closed(self, message: aiohttp.WSMessage) -> str:
        if message.type is aiohttp.WSMsgType.ERROR:
            return f"port-forward: {message.data}"
        code = self._ws.close_code
        text = f" ({message.extra})" if message.extra else ""
        return f"the API server closed the port-forward, code {code}{text}"

    def _end_output(self) -> None:
        """The WebSocket has no half-close: the peer ends the link on our goodbye."""

    def _release(self) -> None:
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._closing = self._loop.create_task(self._close())

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(GOODBYE):
                await self._ws.close()
        except (TimeoutError, OSError, aiohttp.ClientError):
            pass


def attach_port_forward(ws: aiohttp.ClientWebSocketResponse) -> Link:
    """Make a link over an open port-forward of one port; needs a running loop.

    Set the link's callbacks before the next `await`: reading begins in the loop's next turn.
    """
    sock = ws.get_extra_info("socket")
    if sock is not None and TCP_NOTSENT_LOWAT and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOT_SENT_LOWAT)
    return PortForwardLink(asyncio.get_running_loop(), ws)
