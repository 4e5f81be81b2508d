"""What UDP associations and echo sequences have in common: a socket that ends when nobody uses it."""

from __future__ import annotations

import asyncio
import socket
import time

from inroad.polling import rearm
from inroad.tunnel.api import Flow, Quiet
from inroad.tunnel.pump import shared_buffer

BATCH = 32
"""Datagrams read before other sockets get their turn."""


class Association(Quiet):
    """A datagram socket and its flow; after `idle` seconds without a datagram the flow is reset."""

    __slots__ = ("_buffer", "_flow", "_idle", "_last", "_loop", "_sock", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, flow: Flow, idle: float) -> None:
        self._loop = loop
        self._sock = sock
        self._flow = flow
        self._idle = idle
        self._buffer = shared_buffer(loop)
        self._last = time.monotonic()
        self._timer = loop.call_later(idle, self._check_idle)

    def _begin(self) -> None:
        """Listen to the socket and tell the client that the flow is open."""
        self._loop.add_reader(self._sock, self._readable)
        self._flow.accept()

    def _readable(self) -> None:
        self._last = time.monotonic()
        read = 0
        try:
            while read < BATCH:
                self._received(self._sock.recv_into(self._buffer))
                read += 1
        except OSError as error:
            self._failed(error)
            if not read:
                rearm(self._loop, self._sock, self._readable)

    def _received(self, size: int) -> None:
        """A datagram stands at the beginning of the buffer."""
        raise NotImplementedError

    def _failed(self, error: OSError) -> None:
        """Sending or receiving failed, or there is nothing more to read."""
        raise NotImplementedError

    def _check_idle(self) -> None:
        idle = time.monotonic() - self._last
        if idle >= self._idle:
            self._flow.reset()
            self._close()
        else:
            self._timer = self._loop.call_later(self._idle - idle, self._check_idle)

    def flow_reset(self) -> None:
        """The client needs it no more."""
        self._close()

    def _close(self) -> None:
        self._timer.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()
