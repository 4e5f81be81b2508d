"""`pods/portforward` as kubectl does it: SPDY streams, tunnelled in a WebSocket or on the bare connection.

Each forwarded connection is a pair of streams with the same `requestid` header: an error stream and a data
stream. The server ends both when the connection into the pod has ended; a failure is told as text on the
error stream. kubectl 1.31 and later tunnel SPDY in a WebSocket (`SPDY/3.1+portforward.k8s.io`), older ones
upgrade to SPDY. (kubelet `pkg/kubelet/.../portforward/httpstream.go`.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from inroad.sandbox.apiserver.podlink import Dial, PodLink
from inroad.sandbox.apiserver.portforward import failure_text
from inroad.sandbox.apiserver.spdy import Data, GoneAway, Opened, Reply, Reset, Session, SpdyError
from inroad.sandbox.apiserver.takeover import Takeover
from inroad.sandbox.apiserver.websocket import WebSocket

STREAMS = "portforward.k8s.io"
TUNNEL = f"SPDY/3.1+{STREAMS}"
_READ_SIZE = 256 * 1024
_KINDS = ("error", "data")
_MOST = 1000
"""Streams of one connection that wait for their other half."""


class Pair:
    """One forwarded connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: dict[str, int] = {}
        self.link: PodLink | None = None


class StreamForward:
    """One SPDY connection. `connection` is the transport; `send` sends pieces on it as one."""

    def __init__(self, pod: str) -> None:
        self._pod = pod
        self._session = Session()
        self._pairs: dict[str, Pair] = {}
        self._data: dict[int, Pair] = {}
        self._early: dict[int, bytearray] = {}
        self._dial: Dial | None = None
        self._slow = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.connection: Takeover
        self.send: Callable[[Sequence[bytes | memoryview]], None]

    async def run(self, dial: Dial) -> None:
        """Keep the way into the pod; streams come later."""
        self._dial = dial

    # -- the connection's side ----------------------------------------------------------------------

    def received(self, data: memoryview) -> None:
        """Take bytes of the SPDY connection; they belong to this object from now on."""
        try:
            for event in self._session.receive(data):
                self._handle(event)
        except SpdyError:
            self.connection.abort()

    def message_part(self, data: bytearray, *, start: bool, end: bool) -> None:
        """Take bytes of a tunnelled connection; messages' edges mean nothing."""
        self.received(memoryview(data))

    def writable(self, yes: bool) -> None:
        """Pass the client's slowness on to the pod."""
        self._slow = not yes
        for pair in self._data.values():
            if pair.link is not None:
                pair.link.hold(not yes)

    def closed(self) -> None:
        """End every connection into the pod."""
        for task in self._tasks:
            task.cancel()
        for pair in list(self._data.values()):
            if pair.link is not None:
                pair.link.close()

    # -- events -------------------------------------------------------------------------------------

    def _handle(self, event: Opened | Data | Reset | Reply | GoneAway) -> None:
        match event:
            case Data(stream, data, fin):
                self._carry(stream, data, fin)
            case Opened():
                self._open(event)
            case Reply(answer):
                self.send((answer,))
            case Reset(stream):
                pair = self._data.get(stream)
                if pair is not None and pair.link is not None:
                    pair.link.close()

    def _carry(self, stream: int, data: memoryview, fin: bool) -> None:
        pair = self._data.get(stream)
        if pair is None:
            return  # an error stream, or one that has ended
        if pair.link is None:
            self._early[stream] = self._early.get(stream, bytearray()) + data
            return
        if data:
            pair.link.write(data)
        if fin:
            pair.link.finish()

    def _open(self, event: Opened) -> None:
        kind, port = event.headers.get("streamtype", ""), event.headers.get("port", "")
        valid = kind in _KINDS and port.isdigit() and 0 < int(port) < 65536
        if not valid or len(self._pairs) >= _MOST:
            self.send((self._session.reset(event.stream),))
            return
        self.send((self._session.reply(event.stream),))
        # Clients before 1.2 sent no requestid: their error stream comes first, the data stream is two higher.
        request = event.headers.get("requestid") or str(event.stream - (2 if kind == "data" else 0))
        pair = self._pairs.setdefault(request, Pair(int(port)))
        if kind in pair.streams:
            self._tell(pair, f"error processing stream for request {request}: {kind} stream already assigned")
            return
        pair.streams[kind] = event.stream
        if kind == "data":
            self._data[event.stream] = pair
        if len(pair.streams) == 2:
            del self._pairs[request]
            task = asyncio.get_running_loop().create_task(self._forward(pair))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, pair: Pair) -> None:
        assert self._dial is not None  # noqa: S101 -- run() came first
        stream = pair.streams["data"]
        link = PodLink(
            partial(self._deliver, stream),
            partial(self._ended, pair),
            partial(self._choke, stream),
        )
        pair.link = link
        link.hold(self._slow)
        early = self._early.pop(stream, None)
        if early:
            link.write(early)
        try:
            await link.connect(self._dial, pair.port)
        except (OSError, LookupError) as error:
            self._tell(pair, failure_text(pair.port, self._pod, error))
            self._ended(pair)

    def _deliver(self, stream: int, data: memoryview) -> None:
        self.send((self._session.data_head(stream, len(data)), data))

    def _choke(self, stream: int, slow: bool) -> None:
        self.connection.hold(stream, slow)

    def _ended(self, pair: Pair) -> None:
        for kind in ("data", "error"):
            stream = pair.streams.pop(kind, None)
            if stream is not None:
                self.send((self._session.data_head(stream, 0, fin=True),))
                self._data.pop(stream, None)

    def _tell(self, pair: Pair, text: str) -> None:
        stream = pair.streams.get("error")
        if stream is not None:
            message = text.encode()
            self.send((self._session.data_head(stream, len(message)), message))


class _Bare(Takeover):
    """The connection after `Upgrade: SPDY/3.1`."""

    def __init__(self, forward: StreamForward) -> None:
        super().__init__(_READ_SIZE)
        self._forward = forward

    def received(self, data: memoryview) -> None:
        """Pass a copy on: the buffer is read into again."""
        self._forward.received(memoryview(bytes(data)))

    def lost(self) -> None:
        """Tell the forward."""
        self._forward.closed()

    def paused(self, yes: bool) -> None:
        """Tell the forward."""
        self._forward.writable(not yes)

    def send(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Send pieces."""
        self.write(b"".join(pieces))


def tunnelled(pod: str) -> StreamForward:
    """Return a port-forward whose SPDY bytes travel in the messages of a WebSocket."""
    forward = StreamForward(pod)
    websocket = WebSocket(forward)
    forward.connection, forward.send = websocket, websocket.send
    return forward


def direct(pod: str) -> StreamForward:
    """Return a port-forward on a connection that was upgraded to SPDY."""
    forward = StreamForward(pod)
    bare = _Bare(forward)
    forward.connection, forward.send = bare, bare.send
    return forward
