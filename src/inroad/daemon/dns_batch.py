"""UDP by the batch: `recvmmsg` and `sendmmsg` of Linux, and answers written where the queries came in.

One system call fetches up to `BATCH` queries, one sends their answers, so that Python's share of a
cached answer is a slice, a dict lookup and a copy. A query's id is already where its answer's must be:
the answer is written behind it, over the query. Elsewhere, or in a C library without these calls,
`dns_listener.UdpListener` does the same one by one.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
from collections.abc import Callable
from typing import Any

from inroad.core.dns_cache import Recent

BATCH = 64
SLOT = 4_096
"""Octets for one query and its answer."""
_NAME = 28
"""Octets of the longer socket address, `sockaddr_in6`."""
_DONTWAIT = 0x40  # Linux; `socket.MSG_DONTWAIT` is not there everywhere this is type-checked


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("hdr", _Msghdr), ("size", ctypes.c_uint32))


def calls() -> tuple[Any, Any] | None:
    """Return the C library's `recvmmsg` and `sendmmsg`, None where it has none."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        receive, send = library.recvmmsg, library.sendmmsg
    except (OSError, AttributeError, TypeError):
        return None
    receive.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
    send.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    return receive, send


class BatchListener:
    """A bound UDP socket that answers what it can from `recent` and hands on the rest with its source."""

    def __init__(
        self,
        sock: socket.socket,
        recent: dict[bytes, Recent],
        handle: Callable[[bytes, tuple[Any, ...]], None],
        receive_and_send: tuple[Any, Any],
    ) -> None:
        self._sock = sock
        self._recent = recent
        self._handle = handle
        self._receive, self._send = receive_and_send
        self._loop = asyncio.get_running_loop()
        self._make_buffers()
        self._loop.add_reader(sock, self._readable)

    def _make_buffers(self) -> None:
        """Two arrays of message headers over the same slots and addresses: one in, one out."""
        self._slots = memoryview(bytearray(BATCH * SLOT))
        self._names = memoryview(bytearray(BATCH * _NAME))
        slots = ctypes.addressof(ctypes.c_char.from_buffer(self._slots.obj))
        names = ctypes.addressof(ctypes.c_char.from_buffer(self._names.obj))
        namelen = _NAME if self._sock.family == socket.AF_INET6 else 16
        self._in_iov, self._out_iov = (_Iovec * BATCH)(), (_Iovec * BATCH)()
        self._in, self._out = (_Mmsghdr * BATCH)(), (_Mmsghdr * BATCH)()
        for headers, vectors in ((self._in, self._in_iov), (self._out, self._out_iov)):
            start = ctypes.addressof(vectors)
            for i in range(BATCH):
                vectors[i] = _Iovec(slots + i * SLOT, SLOT)
                header = headers[i].hdr
                header.name, header.namelen = names + i * _NAME, namelen
                header.iov, header.iovlen = start + i * ctypes.sizeof(_Iovec), 1
        self._received = memoryview(self._in).cast("B").cast("I")
        self._to_send = (
            memoryview(self._out_iov).cast("B").cast("Q" if ctypes.sizeof(ctypes.c_size_t) == 8 else "I")
        )
        self._out_at = ctypes.addressof(self._out)

    def _readable(self) -> None:
        fd = self._sock.fileno()
        count = self._receive(fd, self._in, BATCH, _DONTWAIT, None)
        if count <= 0:
            return
        now = self._loop.time()
        slots, recent, received, to_send = self._slots, self._recent, self._received, self._to_send
        at, first = 0, 0
        size_at = _Mmsghdr.size.offset // 4
        for i in range(count):
            hit = recent.get(slots[at + 2 : at + received[size_at]].tobytes())
            if hit is not None and hit.until > now:
                hit.count[0] += 1
                reply = hit.reply
                to_send[2 * i + 1] = len(reply) + 2
                slots[at + 2 : at + 2 + len(reply)] = reply
            else:
                if first < i:
                    self._send_slots(fd, first, i)
                first = i + 1
                self._hand_on(i, at, received[size_at])
            at += SLOT
            size_at += _STRIDE
        if first < count:
            self._send_slots(fd, first, count)

    def _send_slots(self, fd: int, first: int, end: int) -> None:
        """Send the answers of the slots; one that can't be sent is skipped, a full socket loses the rest."""
        while first < end:
            sent = self._send(fd, self._out_at + first * ctypes.sizeof(_Mmsghdr), end - first, _DONTWAIT)
            if sent > 0:
                first += sent
            elif ctypes.get_errno() == errno.EAGAIN:
                return
            else:
                first += 1

    def _hand_on(self, i: int, at: int, size: int) -> None:
        name = self._names[i * _NAME : (i + 1) * _NAME]
        port = int.from_bytes(name[2:4], "big")
        source: tuple[Any, ...]
        if self._sock.family == socket.AF_INET6:
            scope = int.from_bytes(name[24:28], "little" if _LITTLE else "big")
            source = (socket.inet_ntop(socket.AF_INET6, name[8:24]), port, 0, scope)
        else:
            source = (socket.inet_ntoa(name[4:8]), port)
        self._handle(self._slots[at : at + size].tobytes(), source)

    def close(self) -> None:
        """Stop listening."""
        self._loop.remove_reader(self._sock)
        self._sock.close()


_STRIDE = ctypes.sizeof(_Mmsghdr) // 4
_LITTLE = ctypes.c_uint16(1).value.to_bytes(2, "little") == bytes(ctypes.c_uint16(1))
