"""Polls sockets through errors, which the event loop's own polling does not survive.

libuv, and with it uvloop, stops polling a descriptor once the kernel has reported an error for it (docs of
`uv_poll_cb`: UV_EBADF; src/unix/poll.c): the reader is called once more and then never again. For a datagram
socket the error was a passing one, an ICMP message; for a stream there may be more to read before it than one
call takes. asyncio's own loop goes on; with these two a reader may rely on that everywhere.

Where there is epoll, stream sockets are polled by one of our own also because they come and go quickly: a
reader that uvloop adds and removes costs eight system calls.
"""

from __future__ import annotations

import asyncio
import select
import socket
import weakref
from collections.abc import Callable
from typing import Any, Protocol

LOOK = 2.0
"""Seconds between two looks at all watched sockets, where the kernel has no epoll."""

_EPOLL: Callable[[], Any] | None = getattr(select, "epoll", None)
_EDGE: int = getattr(select, "EPOLLET", 0)
_ERROR: int = getattr(select, "EPOLLERR", 0)

READ, WRITE = 1, 4
"""What may be wanted, with the numbers of EPOLLIN and EPOLLOUT."""
BATCH = 256
"""Sockets whose owners are called before the loop goes on."""


def rearm(loop: asyncio.AbstractEventLoop, sock: socket.socket, readable: Callable[[], None]) -> None:
    """Poll a socket anew, if it is open; for a reader that was called and found nothing but an error."""
    if sock.fileno() >= 0:
        loop.remove_reader(sock)
        loop.add_reader(sock, readable)


class Polled(Protocol):
    """The owner of a polled stream socket. It may be called once more after `forget`."""

    def readable(self) -> None:
        """There is something to read: bytes, the end, or an error behind them."""

    def writable(self) -> None:
        """There is room to write."""

    def broken(self) -> None:
        """The socket, which is not read, was reset or timed out."""


class Poller(Protocol):
    """Polls stream sockets, errors included. One per event loop."""

    def watch(self, sock: socket.socket, owner: Polled, wanted: int) -> None:
        """Call `owner` for what is wanted (READ, WRITE, both, or nothing but errors) from now on."""

    def forget(self, sock: socket.socket) -> None:
        """Poll no more; to be called before the socket is closed."""


class EpollPoller:
    """Linux: an epoll of our own, which the loop polls. A socket comes and goes with one system call each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, epoll: Callable[[], Any]) -> None:
        self._owners: dict[int, Polled] = {}
        self._poll = epoll()
        loop.add_reader(self._poll.fileno(), self._told)

    def watch(self, sock: socket.socket, owner: Polled, wanted: int) -> None:
        """As the protocol says."""
        descriptor = sock.fileno()
        # Errors are told of unasked; of a socket from which nothing is wanted once, not for ever.
        if descriptor in self._owners:
            self._poll.modify(descriptor, wanted or _EDGE)
        else:
            self._poll.register(descriptor, wanted or _EDGE)
        self._owners[descriptor] = owner

    def forget(self, sock: socket.socket) -> None:
        """As the protocol says."""
        if self._owners.pop(sock.fileno(), None) is not None:
            self._poll.unregister(sock.fileno())

    def _told(self) -> None:
        # Owners are looked up first: one of them may close its socket, and another get the same descriptor.
        for owner, event in [(self._owners.get(fd), event) for fd, event in self._poll.poll(0, BATCH)]:
            if owner is not None:
                try:
                    self._tell(owner, event)
                except Exception as error:  # the others are not told of an error twice
                    asyncio.get_running_loop().call_exception_handler(
                        {"message": "the owner of a polled socket failed", "exception": error}
                    )

    @staticmethod
    def _tell(owner: Polled, event: int) -> None:
        if event & READ:
            owner.readable()
        elif event & _ERROR:
            owner.broken()
        if event & WRITE:
            owner.writable()


class LoopPoller:
    """Elsewhere: the event loop's own polling, and a look at all sockets for the errors that it misses."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._owners: dict[int, tuple[Polled, int]] = {}
        loop.call_later(LOOK, self._look)

    def watch(self, sock: socket.socket, owner: Polled, wanted: int) -> None:
        """As the protocol says."""
        descriptor = sock.fileno()
        _, before = self._owners.get(descriptor, (owner, 0))
        if wanted & READ:
            self._loop.add_reader(descriptor, owner.readable)
        elif before & READ:
            self._loop.remove_reader(descriptor)
        if wanted & WRITE:
            self._loop.add_writer(descriptor, owner.writable)
        elif before & WRITE:
            self._loop.remove_writer(descriptor)
        self._owners[descriptor] = owner, wanted

    def forget(self, sock: socket.socket) -> None:
        """As the protocol says."""
        owner, _ = self._owners.get(sock.fileno(), (None, 0))
        if owner is not None:
            self.watch(sock, owner, 0)
            del self._owners[sock.fileno()]

    def _look(self) -> None:
        for descriptor, (owner, _) in [*self._owners.items()]:
            with socket.socket(fileno=descriptor) as sock:
                failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                sock.detach()
            if failed:
                owner.broken()
        self._loop.call_later(LOOK, self._look)


_per_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Poller] = weakref.WeakKeyDictionary()


def poller(loop: asyncio.AbstractEventLoop) -> Poller:
    """Return the loop's."""
    found = _per_loop.get(loop)
    if found is None:
        found = _per_loop[loop] = EpollPoller(loop, _EPOLL) if _EPOLL else LoopPoller(loop)
    return found
