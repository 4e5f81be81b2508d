"""Connections that another event loop has, served in ours: the named pipe of Windows.

Windows' pipes need asyncio's proactor loop, while everything else of the daemon needs `add_reader`, which
that loop has not. So a second loop runs in a thread and does nothing but carry the bytes of the local API,
which are few; what serves them (`aiohttp.web`'s protocol) sees a transport of the daemon's own loop.

    pipe --- transport --- Far   | side thread     |     Near (a transport) --- protocol
                                 +--- call_soon_threadsafe, both ways ---+
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import Any

Factory = Callable[[], asyncio.Protocol]
Listen = Callable[[asyncio.AbstractEventLoop, Factory], Callable[[], None]]
"""Begins to listen in the side loop, from within it; returns what ends that."""
Identify = Callable[[asyncio.BaseTransport], Any]
"""Says who is at the other end of a transport of the side loop; raises `OSError`."""
NewLoop = Callable[[], asyncio.AbstractEventLoop]


class SideLoop:
    """An event loop in a thread, whose connections are served in the loop that made it."""

    def __init__(self, new_loop: NewLoop, listen: Listen, identify: Identify) -> None:
        self._home = asyncio.get_running_loop()
        self._side = new_loop()
        self._listen = listen
        self._identify = identify
        self._thread = threading.Thread(target=self._run, name="local-api", daemon=True)
        self._near: set[Near] = set()
        self._stop: Callable[[], None] = lambda: None

    async def start(self, factory: Factory) -> None:
        """Listen; each connection gets a protocol of `factory`. Raises what listening raises."""
        self._thread.start()
        listening: asyncio.Future[None] = self._home.create_future()

        def begin() -> None:
            try:
                self._stop = self._listen(self._side, lambda: Far(self, factory))
            except OSError as problem:
                self._home.call_soon_threadsafe(listening.set_exception, problem)
            else:
                self._home.call_soon_threadsafe(listening.set_result, None)

        self._side.call_soon_threadsafe(begin)
        try:
            await listening
        except OSError:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening and end every connection; idempotent."""
        for near in [*self._near]:
            near.abort()
        if self._thread.is_alive():
            self.in_side(self._end)
            await asyncio.to_thread(self._thread.join)

    def _end(self) -> None:
        self._stop()
        self._side.call_soon(self._side.stop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._side)
        try:
            self._side.run_forever()
        finally:
            self._side.close()

    def in_home(self, call: Callable[..., object], *arguments: object) -> None:
        """Call something in the loop that serves; nothing once that has ended."""
        with contextlib.suppress(RuntimeError):
            self._home.call_soon_threadsafe(call, *arguments)

    def in_side(self, call: Callable[..., object], *arguments: object) -> None:
        """Call something in the loop that has the connections; nothing once that has ended."""
        with contextlib.suppress(RuntimeError):
            self._side.call_soon_threadsafe(call, *arguments)

    def begin(self, near: Near, factory: Factory) -> None:
        """Give a new connection its protocol."""
        self._near.add(near)
        near.begin(factory())

    def identify(self, transport: asyncio.BaseTransport) -> Any:
        """Ask who calls; None when that can't be told, and then nobody is served as anybody."""
        try:
            return self._identify(transport)
        except OSError:
            return None

    def ended(self, near: Near) -> None:
        """Forget a connection."""
        self._near.discard(near)


class Far(asyncio.Protocol):
    """The end in the side loop: hands on what comes."""

    def __init__(self, owner: SideLoop, factory: Factory) -> None:
        self._owner = owner
        self._factory = factory

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A caller has connected."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._near = Near(self._owner, transport, self._owner.identify(transport))
        self._owner.in_home(self._owner.begin, self._near, self._factory)

    def data_received(self, data: bytes) -> None:
        """Hand bytes on."""
        self._owner.in_home(self._near.received, data)

    def connection_lost(self, problem: Exception | None) -> None:
        """The caller has gone."""
        self._owner.in_home(self._near.lost, problem)

    def pause_writing(self) -> None:
        """The caller does not read."""
        self._owner.in_home(self._near.pause_writing)

    def resume_writing(self) -> None:
        """It reads again."""
        self._owner.in_home(self._near.resume_writing)


class Near(asyncio.Transport):
    """The end in the serving loop. `get_extra_info("caller")` is what `Identify` said."""

    def __init__(self, owner: SideLoop, far: asyncio.Transport, caller: Any) -> None:
        super().__init__({"caller": caller})
        self._owner = owner
        self._far = far
        self._protocol: asyncio.BaseProtocol | None = None
        self._closing = False
        self._lost = False

    def begin(self, protocol: asyncio.BaseProtocol) -> None:
        """Start to serve."""
        self._protocol = protocol
        protocol.connection_made(self)

    # What comes from the caller.

    def received(self, data: bytes) -> None:
        """Bytes arrived."""
        if isinstance(self._protocol, asyncio.Protocol) and not self._closing:
            self._protocol.data_received(data)

    def lost(self, problem: Exception | None) -> None:
        """The connection ended, at either end."""
        self._closing = True
        if self._protocol is not None and not self._lost:
            self._lost = True
            self._protocol.connection_lost(problem)
        self._owner.ended(self)

    def pause_writing(self) -> None:
        """Writing is to wait."""
        if self._protocol is not None and not self._lost:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Writing may go on."""
        if self._protocol is not None and not self._lost:
            self._protocol.resume_writing()

    # What goes to the caller: see `asyncio.Transport`.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `asyncio.WriteTransport`."""
        if not self._closing:
            self._owner.in_side(self._far.write, bytes(data))

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        """See `asyncio.WriteTransport`."""
        self.write(b"".join(parts))

    def close(self) -> None:
        """See `asyncio.BaseTransport`: what was written still goes out."""
        self._closing = True
        self._owner.in_side(self._far.close)

    def abort(self) -> None:
        """See `asyncio.WriteTransport`."""
        self._closing = True
        self._owner.in_side(self._far.abort)

    def is_closing(self) -> bool:
        """See `asyncio.BaseTransport`."""
        return self._closing

    def pause_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        self._owner.in_side(self._far.pause_reading)

    def resume_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        self._owner.in_side(self._far.resume_reading)

    def can_write_eof(self) -> bool:
        """See `asyncio.WriteTransport`: a pipe has no half-close."""
        return False

    def get_write_buffer_size(self) -> int:
        """See `asyncio.WriteTransport`: what waits is in the side loop."""
        return 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See `asyncio.BaseTransport`."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See `asyncio.BaseTransport`."""
        assert self._protocol is not None  # noqa: S101 - nobody has the transport before
        return self._protocol
