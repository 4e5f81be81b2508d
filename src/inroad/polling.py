"""Hears of sockets with an error, which the event loop's own polling does not survive.

libuv, and with it uvloop, stops polling a descriptor once the kernel has reported an error for it (docs of
`uv_poll_cb`: UV_EBADF; src/unix/poll.c): the reader is called once more and then never again. For a datagram
socket the error was a passing one, an ICMP message; for a stream there may be more to read before it than one
call takes. asyncio's own loop goes on; with these two a reader may rely on that everywhere.
"""

from __future__ import annotations

import asyncio
import select
import socket
import weakref
from collections.abc import Callable

LOOK = 2.0
"""Seconds between two looks at all watched sockets, where the kernel has no epoll."""

_EPOLL = getattr(select, "epoll", None)
_EDGE: int = getattr(select, "EPOLLET", 0)
_ERROR: int = getattr(select, "EPOLLERR", 0)


def rearm(loop: asyncio.AbstractEventLoop, sock: socket.socket, readable: Callable[[], None]) -> None:
    """Poll a socket anew, if it is open; for a reader that was called and found nothing but an error."""
    if sock.fileno() >= 0:
        loop.remove_reader(sock)
        loop.add_reader(sock, readable)


class Errors:
    """Tells the owners of stream sockets when the kernel has an error for them. One per event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._owners: dict[int, Callable[[], None]] = {}
        self._poll = _EPOLL() if _EPOLL else None
        if self._poll is not None:
            loop.add_reader(self._poll.fileno(), self._told)
        else:
            loop.call_later(LOOK, self._look)

    def watch(self, sock: socket.socket, broken: Callable[[], None]) -> None:
        """Call `broken` once when the socket was reset or timed out, until `forget`."""
        self._owners[sock.fileno()] = broken
        if self._poll is not None:
            self._poll.register(sock, _EDGE)  # errors and hang-ups are told of unasked

    def forget(self, sock: socket.socket) -> None:
        """Watch no more; before the socket is closed."""
        if self._owners.pop(sock.fileno(), None) is not None and self._poll is not None:
            self._poll.unregister(sock)

    def _told(self) -> None:
        if self._poll is not None:
            for descriptor, event in self._poll.poll(0):
                if event & _ERROR and (broken := self._owners.get(descriptor)) is not None:
                    broken()

    def _look(self) -> None:
        for descriptor, broken in [*self._owners.items()]:
            with socket.socket(fileno=descriptor) as sock:
                failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                sock.detach()
            if failed:
                broken()
        asyncio.get_running_loop().call_later(LOOK, self._look)


_per_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Errors] = weakref.WeakKeyDictionary()


def errors(loop: asyncio.AbstractEventLoop) -> Errors:
    """Return the loop's."""
    found = _per_loop.get(loop)
    if found is None:
        found = _per_loop[loop] = Errors(loop)
    return found
