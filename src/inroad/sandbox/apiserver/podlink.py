"""One forwarded connection into a pod: dialled, with what came too early, back-pressure, and its end.

As containerd's port-forward: when one direction has ended the other has one more second, then both end;
an end of the client's is not passed on as a half-close.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import cast

DialPod = Callable[[str, str, int], Awaitable[socket.socket]]
"""(namespace, pod, port) to a connected, non-blocking socket; OSError or LookupError."""
Dial = Callable[[int], Awaitable[socket.socket]]
"""The same for one pod: port to socket."""

_READ_SIZE = 256 * 1024
_GRACE = 1.0
_EARLY = 64 * 1024


class PodLink(asyncio.BufferedProtocol):
    """A connection to one port of a pod.

    `deliver` gets what the pod says (valid during the call), `ended` is called once when all is over, and
    `choke(True)` asks not to be given more bytes for now.
    """

    def __init__(
        self,
        deliver: Callable[[memoryview], None],
        ended: Callable[[], None],
        choke: Callable[[bool], None],
    ) -> None:
        self._buffer = memoryview(b"")
        self._deliver = deliver
        self._ended = ended
        self._choke = choke
        self._early = bytearray()
        self._transport: asyncio.Transport | None = None
        self._held = False
        self._over = False

    async def connect(self, dial: Dial, port: int) -> None:
        """Dial; OSError or LookupError when the pod does not take the connection."""
        try:
            connected = await dial(port)
        except BaseException:
            self._over = True
            self._early.clear()
            self._choke(False)
            raise
        if self._over:
            connected.close()
            return
        if connected.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio does this only for sockets that were made with proto=IPPROTO_TCP
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(_READ_SIZE))
        await asyncio.get_running_loop().create_connection(lambda: self, sock=connected)

    # -- the client's side --------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes to the pod; the buffer now belongs to this link."""
        if self._over:
            return
        if self._transport is not None:
            self._transport.write(data)
            return
        self._early += data
        if len(self._early) > _EARLY:
            self._choke(True)

    def hold(self, yes: bool) -> None:
        """Stop or go on reading from the pod: the client reads slowly."""
        self._held = yes
        if self._transport is None or self._transport.is_closing():
            return
        if yes:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def finish(self) -> None:
        """The client has sent everything: the pod has a second to answer."""
        if not self._over:
            asyncio.get_running_loop().call_later(_GRACE, self.close)

    def close(self) -> None:
        """End now; what was written still leaves."""
        if self._transport is not None:
            self._transport.close()
        self._end()

    # -- asyncio's side -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what came too early."""
        self._transport = cast(asyncio.Transport, transport)
        if self._over:
            self._transport.close()
            return
        if self._early:
            self._transport.write(bytes(self._early))
            self._early.clear()
        self._choke(False)
        self.hold(self._held)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read."""
        if not self._over:
            self._deliver(self._buffer[:nbytes])

    def eof_received(self) -> bool:
        """The pod has nothing more to say: bytes on their way to it have a second."""
        if self._transport is not None and self._transport.get_write_buffer_size() > 0:
            asyncio.get_running_loop().call_later(_GRACE, self.close)
            return True
        return False

    def pause_writing(self) -> None:
        """The pod reads too slowly."""
        self._choke(True)

    def resume_writing(self) -> None:
        """The pod caught up."""
        self._choke(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._transport = None
        self._choke(False)
        self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._ended()
