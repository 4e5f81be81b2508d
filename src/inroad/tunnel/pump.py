"""Joins a TCP socket with a flow, both ways: what the kernel does for a relay written in C.

Half-close passes each way, a reset stays a reset (never a FIN, never a hang), and back-pressure goes
through: the socket is not read while the flow can't send, and credit goes back to the far side only
when bytes have left for the kernel. One read buffer serves all pumps of a loop, because nothing is
kept in it after the call that filled it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import weakref
from collections.abc import Callable

from inroad.core.flows import Refusal
from inroad.polling import READ, WRITE, poller
from inroad.tunnel.api import Flow

READ_SIZE = 256 * 1024
YOUNG_READS = 2
"""So many first reads of a dialled socket look for the end of the stream at once, to send FIN with the last
bytes: servers answer and close, clients ask and wait."""
_AGAIN = (errno.EAGAIN, errno.EINTR, errno.EWOULDBLOCK)
_MSG_MORE = getattr(socket, "MSG_MORE", 0)
_ABORT = struct.pack("ii", 1, 0)
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 8))
_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in _KEEPALIVE
        if hasattr(socket, name)
    ),
)
# Linux, include/uapi/linux/tcp.h: tcpi_unacked at 24, tcpi_notsent_bytes (since 4.6) at 144.
_TCP_INFO = getattr(socket, "TCP_INFO", 11)
CUT_GRACE = 5.0
CUT_LOOK = 0.05
"""Seconds that bytes have to reach the application after the link ended, and between two looks."""


_buffers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = weakref.WeakKeyDictionary()


def shared_buffer(loop: asyncio.AbstractEventLoop) -> memoryview:
    """The loop's read buffer; nobody keeps anything in it."""
    buffer = _buffers.get(loop)
    if buffer is None:
        buffer = _buffers[loop] = memoryview(bytearray(READ_SIZE))
    return buffer


class SocketPump:
    """A socket and its flow until both directions have ended; then `on_close` is called.

    Implements `FlowHandler`.
    """

    __slots__ = (
        "_buffer",
        "_closed",
        "_cut",
        "_eof_from_flow",
        "_eof_from_socket",
        "_flow",
        "_looks",
        "_loop",
        "_out",
        "_poll",
        "_reading",
        "_sock",
        "_waiting",
        "_writing",
        "on_close",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, flow: Flow, looks: int) -> None:
        self._loop = loop
        self._sock = sock
        self._flow = flow
        self._buffer = shared_buffer(loop)
        self._poll = poller(loop)
        self._out: bytearray | None = None
        self._looks = looks
        self._waiting = False
        self._reading = False
        self._writing = False
        self._eof_from_socket = False
        self._eof_from_flow = False
        self._closed = False
        self._cut = False
        self.on_close: Callable[[], None] | None = None

    @classmethod
    def attach(
        cls, loop: asyncio.AbstractEventLoop, sock: socket.socket, flow: Flow, looks: int = 0
    ) -> SocketPump:
        """Join them; the pump owns the socket, which does not block, and becomes the flow's handler.

        `looks`: how many reads look at once whether the stream ends with what they got.
        """
        pump = cls(loop, sock, flow, looks)
        flow.handler = pump
        pump._read_on()
        return pump

    # From the socket to the flow

    def _read_on(self) -> None:
        if not self._reading and not self._eof_from_socket and not self._closed:
            self._reading = True
            self._watch()

    def _read_no_more(self) -> None:
        if self._reading:
            self._reading = False
            self._watch()

    def _watch(self) -> None:
        if not self._closed:
            self._poll.watch(self._sock, self, self._reading * READ | self._writing * WRITE)

    def readable(self) -> None:
        """Read once and pass it on."""
        if self._closed:
            return
        limit = 0 if self._waiting else self._flow.read_size()
        if not limit:
            # Only now: most waits end before the next byte comes, and cost no system call.
            self._read_no_more()
            return
        buffer = self._buffer
        eof = False
        try:
            size = self._sock.recv_into(buffer, limit)
            if self._looks and size:
                self._looks -= 1
                more = self._more(size)
                eof = more == 0
                size += max(more, 0)
        except OSError as error:
            if error.errno not in _AGAIN:
                self._fail()
            return
        if not size or eof:
            self._eof_from_socket = True
            self._read_no_more()
        if not size:
            self._flow.write_eof()
        else:
            self._waiting = not self._flow.write(buffer[:size], eof)
        if self._eof_from_socket:
            self._check_finished()

    def _more(self, size: int) -> int:
        """Read what follows the first bytes: a size, 0 at the end of the stream, -1 for nothing yet."""
        if size == READ_SIZE:
            return -1
        try:
            return self._sock.recv_into(self._buffer[size:])
        except OSError as error:
            if error.errno not in _AGAIN:
                raise
            return -1

    def flow_writable(self) -> None:
        """Read the socket again."""
        self._waiting = False
        self._read_on()

    def broken(self) -> None:
        """The socket was reset, or timed out, while it is not read."""
        if not self._closed:
            self._fail()

    # From the flow to the socket

    def flow_data(self, data: memoryview) -> None:
        """Send, and keep what does not fit: the flow's credit bounds it."""
        if self._out:
            self._out += data
            return
        try:
            sent = self._sock.send(data, _MSG_MORE if self._flow.ending else 0)
        except OSError as error:
            if error.errno not in _AGAIN:
                self._fail()
                return
            sent = 0
        if sent:
            self._flow.consumed(sent)
        if sent < len(data):
            self._out = bytearray(data[sent:])
            self._writing = True
            self._watch()

    def writable(self) -> None:
        """Send what waits."""
        if self._closed:
            return
        out = self._out or bytearray()
        last = self._eof_from_flow and len(out) <= READ_SIZE
        try:
            with memoryview(out)[:READ_SIZE] as view:
                sent = self._sock.send(view, _MSG_MORE if last else 0)
        except OSError as error:
            if error.errno not in _AGAIN:
                self._fail()
            return
        del out[:sent]
        self._flow.consumed(sent)
        if not out:
            self._out = None
            self._writing = False
            self._watch()
            if self._cut:
                self._end_cut()
            elif self._eof_from_flow:
                self._end_output()

    def flow_eof(self) -> None:
        """Close the socket's sending side once everything was sent."""
        self._eof_from_flow = True
        if not self._out:
            self._end_output()

    def _end_output(self) -> None:
        if not self._eof_from_socket:  # else it is closed now, which does it too
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
        self._check_finished()

    # The end

    def _check_finished(self) -> None:
        if self._eof_from_socket and self._eof_from_flow and not self._out:
            self._close()

    def _fail(self) -> None:
        """The socket was reset, or timed out: so is the flow."""
        self._flow.reset()
        self._close()

    def flow_reset(self) -> None:
        """Reset the socket; when it was the link that ended, after what had come through it."""
        if not self._flow.cut:
            self.abort()
        elif not self._closed:
            self._cut = True
            self._read_no_more()
            self._loop.call_later(CUT_GRACE, self.abort)
            if not self._out:
                self._end_cut()

    def _end_cut(self) -> None:
        """End without its peer: in peace if the stream was complete, else by a reset that loses nothing."""
        if self._closed:
            return
        if self._eof_from_flow:
            self._close()
        elif self._in_kernel():
            self._loop.call_later(CUT_LOOK, self._end_cut)
        else:
            self.abort()

    def _in_kernel(self) -> bool:
        """Whether the kernel has bytes that the socket's peer has not acknowledged; a reset discards them."""
        try:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 148)
            return any(struct.unpack_from("I", info, offset)[0] for offset in (24, 144))
        except (OSError, struct.error):
            return False

    def abort(self) -> None:
        """Close the socket with a RST; the flow is not told."""
        if not self._closed:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._poll.forget(self._sock)
        if self._out:
            self._flow.consumed(len(self._out))
            self._out = None
        self._sock.close()
        if self.on_close is not None:
            self.on_close()

    # What a pump's flow has behind it, or never sees

    def flow_opened(self) -> None:
        """Nothing to do: what was read before waits in the flow."""

    def flow_refused(self, reason: Refusal, detail: str) -> None:
        """The far side could not connect after all."""
        self.abort()

    def flow_datagram(self, data: memoryview) -> None:
        """A TCP flow has no datagrams: drop it."""


def tune(sock: socket.socket) -> None:
    """Set what a relayed TCP socket needs: no Nagle, and keepalive. Accepted ones inherit both."""
    for option in _OPTIONS:
        sock.setsockopt(*option)
