"""Links over TCP or Unix sockets, one per connection, without a layer between mux and socket.

Reading and writing the socket directly (instead of through an asyncio transport) is what lets a bulk
write go from the reader's buffer to the kernel without a copy, and tells at once how much fitted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterable

import structlog

from inroad.core.mux_flow import Buffer
from inroad.polling import WRITE, poller
from inroad.tunnel.api import Link
from inroad.tunnel.link import MuxLink, shared_buffer

log = structlog.get_logger(__name__)

NOT_SENT_LOWAT = 128 * 1024
"""Unsent bytes that the kernel may hold: beyond them nothing can be overtaken any more."""
LONG_WAY = 0.01
TRIES = 32
"""Linux (sk_stream_is_writeable) calls a socket writable when a third of its buffer is free. On a way of so
many seconds, which the buffer hardly covers, that third is missing in flight: so send is tried so often in
each round trip, too. With NOT_SENT_LOWAT that covers the 4 MiB to which the buffer grows by itself."""
TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 0)
BACKLOG = 512
_sendmsg = getattr(socket.socket, "sendmsg", None)  # Windows has none
_AGAIN = (errno.EAGAIN, errno.EINTR, errno.EWOULDBLOCK)


class SocketLink(MuxLink):
    """A link over a connected, non-blocking stream socket, which it owns."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, *, client: bool) -> None:
        self._sock = sock
        self._blocked = False
        self._pause = 0.0
        self._retry: asyncio.TimerHandle | None = None
        super().__init__(loop, client=client)
        self._buffer = shared_buffer(loop)
        self._poll = poller(loop)
        # In the next turn of the loop, so that the owner can set its callbacks first.
        loop.call_soon(self._start)

    def _start(self) -> None:
        if self._sock.fileno() >= 0:
            # Not by the poller, which costs every wake-up a system call more; it tells of errors only.
            self._loop.add_reader(self._sock, self.readable)
            self._poll.watch(self._sock, self, 0)

    def broken(self) -> None:
        """The connection was reset, or timed out; what came before that can still be read."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self.readable()
            self._loop.call_soon(self.broken)

    def readable(self) -> None:
        """Read once and feed the mux."""
        if self._sock.fileno() < 0:
            return
        try:
            size = self._sock.recv_into(self._buffer)
        except OSError as error:
            if error.errno not in _AGAIN:
                self._lost(f"connection lost: {error.strerror}")
            return
        if size:
            self._feed(self._buffer[:size])
        else:
            self._lost("the peer closed the connection")

    def _send(self, parts: list[Buffer]) -> int:
        size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        taken = 0
        try:
            if len(parts) == 1:
                taken = self._sock.send(parts[0])
            elif _sendmsg is not None:
                taken = _sendmsg(self._sock, parts)
            else:
                taken = self._sock.send(b"".join(parts))
        except OSError as error:
            if error.errno not in _AGAIN:
                # Reading finds the reason: a reset may stand behind bytes that are still to be read.
                log.debug("send failed", error=error.strerror)
        if taken < size and not self._blocked:
            self._blocked = True
            self._poll.watch(self._sock, self, WRITE)
            if self._lane.pace.rtt > LONG_WAY:
                self._try_later(self._lane.pace.rtt, taken > 0)
        return taken

    def _try_later(self, round_trip: float, moved: bool) -> None:
        least = round_trip / TRIES
        self._pause = least if moved else min(max(2 * self._pause, least), round_trip)
        self._retry = self._loop.call_later(self._pause, self.writable)

    def writable(self) -> None:
        """Send what waits."""
        self._forget_try()
        if self._blocked and self._sock.fileno() >= 0:
            self._blocked = False
            self._poll.watch(self._sock, self, 0)
            self._room()

    def _forget_try(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _end_output(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def _release(self) -> None:
        self._forget_try()
        if self._sock.fileno() >= 0:
            self._poll.forget(self._sock)
            self._loop.remove_reader(self._sock)
            self._sock.close()


def tune(sock: socket.socket) -> None:
    """Set what a link's socket needs: no Nagle, little unsent, not blocking."""
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if TCP_NOTSENT_LOWAT:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOT_SENT_LOWAT)


async def connect_stream(sock: socket.socket, *, client: bool = True) -> Link:
    """Make a link over a connected stream socket; `client` is the end that connected.

    Set the link's callbacks before the next `await`: reading begins in the loop's next turn.
    """
    tune(sock)
    return SocketLink(asyncio.get_running_loop(), sock, client=client)


class StreamServer:
    """Accepts links until it is closed; links that exist live on."""

    def __init__(self, sockets: Iterable[socket.socket], on_link: Callable[[Link], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_link = on_link
        self._sockets = list(sockets)
        for sock in self._sockets:
            sock.setblocking(False)
            sock.listen(BACKLOG)
            self._loop.add_reader(sock, self._accept, sock)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError as error:
            if error.errno not in (*_AGAIN, errno.ECONNABORTED):
                log.warning("accept failed", error=error.strerror)
                # Out of descriptors: the connection stays queued; do not spin on it.
                self._loop.remove_reader(listener)
                self._loop.call_later(0.2, self._resume, listener)
            return
        tune(sock)
        self._on_link(SocketLink(self._loop, sock, client=False))

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._sockets:
            self._loop.add_reader(listener, self._accept, listener)

    def close(self) -> None:
        """Accept no more."""
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()


async def serve_stream(sockets: Iterable[socket.socket], on_link: Callable[[Link], None]) -> StreamServer:
    """Accept links on bound stream sockets; `on_link` sets each link's callbacks before it returns."""
    return StreamServer(sockets, on_link)
