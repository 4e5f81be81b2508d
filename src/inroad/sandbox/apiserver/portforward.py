"""`pods/portforward` over a WebSocket: `v4.channel.k8s.io` as API server and kubelet do it.

Port number i of the request has channel 2i for its bytes and 2i+1 for errors; each message starts with
its channel. First the server sends the port, two bytes little-endian, on both. A dial that fails is told as
text on the error channel. The protocol has no half-close: when every port has ended, the connection closes.
(kubelet `pkg/kubelet/.../portforward/websocket.go`, apimachinery `wsstream/conn.go`.)
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from inroad.sandbox.apiserver.requests import Query
from inroad.sandbox.apiserver.websocket import WebSocket

CHANNELS = "v4.channel.k8s.io"
DialPod = Callable[[str, str, int], Awaitable[socket.socket]]
"""(namespace, pod, port) to a connected, non-blocking socket; OSError or LookupError."""

_READ_SIZE = 256 * 1024
_GRACE = 1.0
"""Seconds that bytes on their way into the pod still have after the pod has ended the connection, as in
containerd's port-forward."""


class BadPorts(Exception):
    """The request's ports can't be used; the text is the kubelet's."""


def ports_of(query: Query) -> list[int]:
    """Return the ports of a request: `ports` as clients send it, `port` as a kubelet takes it."""
    texts = [piece for text in query.all("ports") + query.all("port") for piece in text.split(",")]
    if not texts:
        raise BadPorts('query parameter "port" is required')
    ports = []
    for text in texts:
        try:
            port = int(text)
        except ValueError:
            raise BadPorts(f'unable to parse "{text}" as a port') from None
        if not 0 < port < 65536:
            raise BadPorts(f'port "{text}" must be > 0 and < 65536')
        ports.append(port)
    return ports


def failure_text(port: int, pod: str, error: BaseException) -> str:
    """Return what the error channel says about a port that can't be reached."""
    why = str(error)
    if isinstance(error, ConnectionRefusedError):
        why = (
            f"failed to connect to localhost:{port} inside namespace: "
            f"dial tcp 127.0.0.1:{port}: connect: connection refused"
        )
    return f"error forwarding port {port} to pod {pod}, uid : {why}"


class PodSocket(asyncio.BufferedProtocol):
    """The connection into the pod. `deliver` gets what the pod says, `ended` is called once at its end."""

    def __init__(
        self,
        deliver: Callable[[memoryview], None],
        ended: Callable[[], None],
        choke: Callable[[bool], None],
    ) -> None:
        self._buffer = memoryview(bytearray(_READ_SIZE))
        self._deliver = deliver
        self._ended = ended
        self._choke = choke
        self._over = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read."""
        self._deliver(self._buffer[:nbytes])

    def eof_received(self) -> bool:
        """The pod has nothing more to say; it may still listen."""
        self._end()
        return True

    def pause_writing(self) -> None:
        """The pod reads too slowly."""
        self._choke(True)

    def resume_writing(self) -> None:
        """The pod caught up."""
        self._choke(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.transport = None
        self._choke(False)
        self._end()

    def hold(self, yes: bool) -> None:
        """Stop or go on reading from the pod."""
        if self.transport is None or self.transport.is_closing():
            return
        if yes:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._ended()


class ChannelForward:
    """One port-forward connection: the WebSocket on one side, a socket per port on the other."""

    def __init__(self, pod: str, ports: Sequence[int]) -> None:
        self._pod = pod
        self._ports = list(ports)
        self._sockets: dict[int, PodSocket] = {}
        self._early: dict[int, bytearray] = {index: bytearray() for index in range(len(ports))}
        self._open = len(self._ports)
        self._channel = -1
        self._slow_peer = False
        self._over = False
        self.websocket = WebSocket(self)

    async def run(self, dial: Callable[[int], Awaitable[socket.socket]]) -> None:
        """Announce the ports and dial them all; returns when each has an answer."""
        for index, port in enumerate(self._ports):
            announce = struct.pack("<H", port)
            self._send(2 * index, announce)
            self._send(2 * index + 1, announce)
        await asyncio.gather(*(self._connect(index, port, dial) for index, port in enumerate(self._ports)))

    # -- the WebSocket's side -----------------------------------------------------------------------

    def message_part(self, data: bytearray, *, start: bool, end: bool) -> None:
        """Pass bytes on to the port that the message's first byte names."""
        if start:
            if not data:
                return
            self._channel = data[0]
            del data[:1]
        index, is_error = divmod(self._channel, 2)
        if is_error or index >= len(self._ports) or not data:
            return  # as the kubelet: nobody listens there
        pod = self._sockets.get(index)
        if pod is not None and pod.transport is not None:
            pod.transport.write(data)
        elif index in self._early:
            self._early[index] += data
            self.websocket.hold(("dial", index), True)

    def writable(self, yes: bool) -> None:
        """Pass the peer's slowness on to the pods."""
        self._slow_peer = not yes
        for pod in self._sockets.values():
            pod.hold(not yes)

    def closed(self) -> None:
        """Close everything towards the pods; what they were sent still arrives."""
        self._over = True
        for pod in self._sockets.values():
            if pod.transport is not None:
                pod.transport.close()

    # -- the pod's side -----------------------------------------------------------------------------

    async def _connect(self, index: int, port: int, dial: Callable[[int], Awaitable[socket.socket]]) -> None:
        try:
            connected = await dial(port)
        except (OSError, LookupError) as error:
            self._early.pop(index, None)
            self.websocket.hold(("dial", index), False)
            self._send(2 * index + 1, failure_text(port, self._pod, error).encode())
            self._ended(index)
            return
        if self._over:
            connected.close()
            return
        pod = PodSocket(
            lambda data: self._send(2 * index, data),
            lambda: self._pod_ended(index),
            lambda slow: self.websocket.hold(("pod", index), slow),
        )
        await asyncio.get_running_loop().create_connection(lambda: pod, sock=connected)
        self._sockets[index] = pod
        early = self._early.pop(index)
        if early and pod.transport is not None:
            pod.transport.write(early)
        if self._slow_peer:
            pod.hold(True)
        if self._over:
            self.closed()
        self.websocket.hold(("dial", index), False)

    def _pod_ended(self, index: int) -> None:
        """The pod is done: end the port, now or when what is on its way into the pod had its time."""
        pod = self._sockets.get(index)
        if pod is not None and pod.transport is not None and pod.transport.get_write_buffer_size() > 0:
            asyncio.get_running_loop().call_later(_GRACE, self._ended, index)
        else:
            self._ended(index)

    def _ended(self, index: int) -> None:
        pod = self._sockets.pop(index, None)
        if pod is not None and pod.transport is not None:
            pod.transport.close()
        self._open -= 1  # once per port: PodSocket tells its end once, a failed dial has no PodSocket
        if self._open == 0 and not self._over:
            self.websocket.send_close()

    def _send(self, channel: int, data: bytes | memoryview) -> None:
        self.websocket.send((bytes((channel,)), data))
