"""The sockets of the DNS server: UDP with the shortest way to a cached answer, and pipelined TCP.

The UDP socket is read until it is empty, a bounded number of messages a turn, and a query that was
answered within the last second is answered from there: one dict lookup, no parsing, no objects.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

from inroad.core.dns_cache import Recent
from inroad.daemon import dns_batch

BATCH = 64
"""Messages read before the event loop sees to others."""
UDP_BUFFER = 4 << 20
MAX_QUERY = 4_096
TCP_IDLE = 10.0
MAX_CONNECTIONS = 256
MAX_PIPELINED = 128
"""Unanswered queries of one TCP connection; then it is not read until answers have left."""

Source = tuple[Any, ...]
"""Who asked: the socket address, a number for TCP connections."""


class Client(Protocol):
    """Whoever sent a query; `reply` may be called later, or never."""

    tcp: bool
    source: Source

    def reply(self, data: bytes) -> None:
        """Send a reply; nothing happens when the client is gone."""

    def drop(self) -> None:
        """The message deserves no reply."""


Handle = Callable[[bytes, Client], None]


class UdpClient:
    """The sender of a datagram."""

    __slots__ = ("_sock", "source")
    tcp = False

    def __init__(self, sock: socket.socket, source: Source) -> None:
        self._sock = sock
        self.source = source

    def reply(self, data: bytes) -> None:
        """Send a datagram back; a full or closed socket loses it, as the network may."""
        try:
            self._sock.sendto(data, self.source)
        except OSError:
            return

    def drop(self) -> None:
        """Say nothing."""


class Listener(Protocol):
    """A bound UDP socket that is being read."""

    def close(self) -> None:
        """Stop listening."""


def listen_udp(sock: socket.socket, recent: dict[bytes, Recent], handle: Handle) -> Listener:
    """Read a bound UDP socket from now on, by the batch where the system can."""
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UDP_BUFFER)
    calls = dns_batch.calls()
    if calls is not None:
        return dns_batch.BatchListener(
            sock, recent, lambda data, source: handle(data, UdpClient(sock, source)), calls
        )
    return UdpListener(sock, recent, handle)


class UdpListener:
    """Reads a UDP socket message by message."""

    def __init__(self, sock: socket.socket, recent: dict[bytes, Recent], handle: Handle) -> None:
        self._sock = sock
        self._recent = recent
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)

    def _readable(self) -> None:
        receive, send, recent = self._sock.recvfrom, self._sock.sendto, self._recent
        now = self._loop.time()
        for _ in range(BATCH):
            try:
                data, source = receive(MAX_QUERY)
            except OSError:
                return
            hit = recent.get(data[2:])
            if hit is not None and hit.until > now:
                hit.count[0] += 1
                try:
                    send(data[:2] + hit.reply, source)
                except OSError:
                    continue
            else:
                self._handle(data, UdpClient(self._sock, source))

    def close(self) -> None:
        """Stop listening."""
        self._loop.remove_reader(self._sock)
        self._sock.close()


class TcpClient(asyncio.Protocol):
    """A TCP connection: queries come one behind another, answers leave as they are ready."""

    tcp = True

    def __init__(self, handle: Handle, connections: set[TcpClient]) -> None:
        self._handle = handle
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._unanswered = 0
        self._finished = False
        self._slow = False
        self._idle: asyncio.TimerHandle | None = None
        self.source: Source = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless there are too many."""
        stream = cast(asyncio.Transport, transport)
        if len(self._connections) >= MAX_CONNECTIONS:
            stream.abort()
            return
        self._transport = stream
        self.source = (transport.get_extra_info("peername"), id(self))
        self._connections.add(self)
        self._watch()

    def _watch(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(TCP_IDLE, self._timed_out)

    def _timed_out(self) -> None:
        if self._transport is not None:
            self._transport.abort() if self._unanswered else self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Handle every message that is whole."""
        self._watch()
        self._buffer += data
        self._next()

    def _next(self) -> None:
        buffer = self._buffer
        while len(buffer) >= 2 and not self._full():
            size = (buffer[0] << 8) | buffer[1]
            if len(buffer) < size + 2:
                break
            message = bytes(buffer[2 : size + 2])
            del buffer[: size + 2]
            self._unanswered += 1
            self._handle(message, self)
        if self._transport is not None and self._full():
            self._transport.pause_reading()

    def _full(self) -> bool:
        return self._slow or self._unanswered >= MAX_PIPELINED

    def eof_received(self) -> bool:
        """Keep our side open while answers are owed."""
        self._finished = True
        return self._unanswered > 0

    def reply(self, data: bytes) -> None:
        """Send one answer, in whatever order it comes."""
        if self._transport is None:
            return
        was_full = self._full()
        self._transport.write(len(data).to_bytes(2, "big") + data)
        self._unanswered -= 1
        if self._finished and not self._unanswered:
            self._transport.close()
        elif was_full:
            self._resume()

    def _resume(self) -> None:
        if self._transport is not None and not self._full():
            self._transport.resume_reading()
            asyncio.get_running_loop().call_soon(self._next)

    def drop(self) -> None:
        """End a connection whose messages make no sense."""
        self.close()

    def pause_writing(self) -> None:
        """The client asks and does not read: take no more from it."""
        self._slow = True

    def resume_writing(self) -> None:
        """The client reads again."""
        self._slow = False
        self._resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; answers on their way are dropped."""
        self._transport = None
        self._connections.discard(self)
        if self._idle is not None:
            self._idle.cancel()

    def close(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()
