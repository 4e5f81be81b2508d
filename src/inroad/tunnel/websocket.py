"""A link over a Kubernetes port-forward: a WebSocket of the subprotocol `v4.channel.k8s.io`.

Binary messages begin with a channel number: with one forwarded port, 0 carries its bytes and 1 its
error as text. The server's first message on each channel holds the port (u16, little endian) and
nothing else (Kubernetes: pkg/kubelet/cri/streaming/portforward/websocket.go).

The WebSocket was opened by somebody else; from then on the link is its transport's protocol, so that
neither a queue nor a coroutine stands between TLS and mux.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Protocol

from inroad.core.mux_flow import Buffer
from inroad.tunnel import websocket_frames as frames
from inroad.tunnel.api import Link
from inroad.tunnel.link import CLOSED
from inroad.tunnel.stream import NOT_SENT_LOWAT, TCP_NOTSENT_LOWAT
from inroad.tunnel.transport import TransportLink

DATA, ERROR = 0, 1
_DATA_PREFIX = bytes((DATA,))
PORT_SIZE = 2
MAX_ERROR = 500
HEADERS = 1024
"""What a message of ours may hold above one bulk frame: that frame's header, and urgent ones."""
GOODBYE = 2.0
"""Seconds that the closing handshake of the WebSocket may take."""
NORMAL, NO_CODE = 1000, 1005


class Upgraded(Protocol):
    """A connection whose HTTP upgrade to a WebSocket is done."""

    def take(self, protocol: asyncio.BaseProtocol) -> tuple[asyncio.Transport, bytes]:
        """Make `protocol` the transport's; return that, and what was read too many. Raises `InroadError`."""

    def ended(self, error: Exception | None) -> None:
        """To be called when the transport's connection is lost."""


class PortForwardLink(TransportLink):
    """A link over one port-forward, whose WebSocket it owns."""

    def __init__(self, loop: asyncio.AbstractEventLoop, upgraded: Upgraded) -> None:
        self._upgraded = upgraded
        self._reader = frames.Reader(self)
        self._channel = -1
        self._announced = {DATA: bytearray(), ERROR: bytearray()}
        self._error = bytearray()
        self._from = self._to = 0  # where the mux's bytes are in what is being read
        self._said_close = False
        self._why = ""
        # A callback can't come before the loop's next turn.
        transport, rest = upgraded.take(self)
        super().__init__(loop, client=True)
        self._use(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and TCP_NOTSENT_LOWAT and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOT_SENT_LOWAT)
        if rest:  # in the loop's next turn, so that the owner can set its callbacks first
            transport.pause_reading()
            loop.call_soon(self._begin, transport, rest)

    def _begin(self, transport: asyncio.Transport, rest: bytes) -> None:
        self._read(memoryview(bytearray(rest)))
        if not transport.is_closing():
            transport.resume_reading()

    # Bytes in

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        self._read(self._buffer[:nbytes])

    def _read(self, data: memoryview) -> None:
        """Move the mux's bytes together within the buffer, so that it gets them in one piece.

        The kubelet cuts the stream every 32 KiB, and a piece each would be a small write to the
        application each: moving them costs less.
        """
        self._from = self._to = 0
        why = ""
        try:
            self._reader.receive(data)
        except frames.Broken as broken:
            why = f"port-forward: {broken}"
        if self._to > self._from and self._state != CLOSED:
            self._feed(data[self._from : self._to])
        if self._reader.whole:
            self._why = self._told() or self._why
        if self._why or why:
            self._lost(self._why or why)

    def payload(self, data: memoryview, begin: int, end: int, start: bool) -> None:
        """Sort the bytes of a message by its channel."""
        if start:
            self._channel = data[begin]
            begin += 1
        announced = self._announced.get(self._channel)
        if announced is None:
            return
        if len(announced) < PORT_SIZE:
            port = data[begin : min(end, begin + PORT_SIZE - len(announced))]
            announced += port
            begin += len(port)
        if self._channel == ERROR:
            self._error += data[begin : min(end, begin + MAX_ERROR - len(self._error))]
        elif self._to == self._from:
            self._from, self._to = begin, end
        else:
            data[self._to : self._to + end - begin] = data[begin:end]
            self._to += end - begin

    def control(self, opcode: int, payload: bytes) -> None:
        """Answer the WebSocket's own frames."""
        if opcode == frames.PING:
            self._write_frame((payload,), frames.PONG)
        elif opcode == frames.CLOSE:
            code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else NO_CODE
            text = payload[2:].decode("utf-8", "replace")
            closed = f"the API server closed the port-forward, code {code}" + (f" ({text})" if text else "")
            self._why = self._told() or closed
            self._say_close()
            if self._transport is not None:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._transport = None
        self._upgraded.ended(exc)
        why = f"port-forward: {exc}" if exc else "the API server closed the connection"
        self._lost(self._told() or why)

    def _told(self) -> str:
        """Return what came on the error channel."""
        text = self._error.decode("utf-8", "replace").strip()
        return f"port-forward: {text}" if text else ""

    # Bytes out

    def _send(self, parts: list[Buffer]) -> int:
        """Send messages of about one bulk frame: the kubelet reads a message whole before it passes it on."""
        if self._transport is None or self._paused or self._said_close:
            return 0
        limit = self._lane.pace.frame + HEADERS
        message: list[Buffer] = [_DATA_PREFIX]
        size = total = 0
        for part in parts:
            total += len(part)
            if size and size + len(part) > limit:
                self._write_frame(message)
                message, size = [_DATA_PREFIX], 0
            message.append(part)
            size += len(part)
        self._write_frame(message)
        return total

    def _write_frame(self, parts: list[Buffer] | tuple[Buffer, ...], opcode: int = frames.BINARY) -> None:
        if self._transport is not None and not self._said_close:
            self._transport.write(frames.frame(parts, os.urandom(4), opcode))

    def _say_close(self) -> None:
        self._write_frame((NORMAL.to_bytes(2, "big"),), frames.CLOSE)
        self._said_close = True

    # The end

    def _end_output(self) -> None:
        """The WebSocket has no half-close: the peer ends the link on our goodbye."""

    def _release(self) -> None:
        """Say goodbye, and close when the server has said it too: before, it could lose what we sent."""
        if self._transport is not None and not self._said_close:
            self._say_close()
            self._loop.call_later(GOODBYE, self._transport.abort)


def attach_port_forward(upgraded: Upgraded) -> Link:
    """Make a link over an open port-forward of one port; needs a running loop.

    Set the link's callbacks before the next `await`: reading begins in the loop's next turn. Raises
    `InroadError` when it has ended already.
    """
    return PortForwardLink(asyncio.get_running_loop(), upgraded)
