"""`pods/portforward` over a WebSocket: `v4.channel.k8s.io` as API server and kubelet do it.

Port number i of the request has channel 2i for its bytes and 2i+1 for errors; each message starts with
its channel. First the server sends the port, two bytes little-endian, on both. A dial that fails is told as
text on the error channel. The protocol has no half-close: when every port has ended, the connection closes.
(kubelet `pkg/kubelet/.../portforward/websocket.go`, apimachinery `wsstream/conn.go`.)
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from functools import partial

from inroad.sandbox.apiserver.podlink import Dial, DialPod, PodLink
from inroad.sandbox.apiserver.requests import Query
from inroad.sandbox.apiserver.takeover import Takeover
from inroad.sandbox.apiserver.websocket import WebSocket

CHANNELS = "v4.channel.k8s.io"


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
    """Return what an error channel says about a port that can't be reached."""
    why = str(error)
    if isinstance(error, ConnectionRefusedError):
        why = (
            f'failed to connect to localhost:{port} inside namespace "{pod}", '
            f"IPv4: dial tcp4 127.0.0.1:{port}: connect: connection refused "
            f"IPv6 dial tcp6 [::1]:{port}: connect: connection refused "
        )
    return f"error forwarding port {port} to pod {pod}, uid : {why}"


class ChannelForward:
    """One port-forward connection: the WebSocket on one side, a link per port on the other."""

    def __init__(self, pod: str, ports: Sequence[int]) -> None:
        self._pod = pod
        self._ports = list(ports)
        self._links = [
            PodLink(
                partial(self._deliver, index),
                partial(self._ended, index),
                partial(self._choke, index),
            )
            for index in range(len(ports))
        ]
        self._left = len(self._ports)
        self._channel = -1
        self.connection: Takeover
        self._websocket = self.connection = WebSocket(self)

    async def run(self, dial: Dial) -> None:
        """Announce the ports and dial them all; returns when each has an answer."""
        for index, port in enumerate(self._ports):
            announce = struct.pack("<H", port)
            self._send(2 * index, announce)
            self._send(2 * index + 1, announce)
        await asyncio.gather(*(self._connect(index, dial) for index in range(len(self._ports))))

    def message_part(self, data: bytearray, *, start: bool, end: bool) -> None:
        """Pass bytes on to the port that the message's first byte names."""
        if start:
            if not data:
                self._channel = -1
                return
            self._channel = data[0]
            del data[:1]
        index, is_error = divmod(self._channel, 2)
        if data and not is_error and 0 <= index < len(self._links):  # else: as the kubelet, nobody listens
            self._links[index].write(data)

    def writable(self, yes: bool) -> None:
        """Pass the peer's slowness on to the pods."""
        for link in self._links:
            link.hold(not yes)

    def closed(self) -> None:
        """Close everything towards the pods; what they were sent still arrives."""
        for link in self._links:
            link.close()

    async def _connect(self, index: int, dial: Dial) -> None:
        port = self._ports[index]
        try:
            await self._links[index].connect(dial, port)
        except (OSError, LookupError) as error:
            self._send(2 * index + 1, failure_text(port, self._pod, error).encode())
            self._ended(index)

    def _choke(self, index: int, slow: bool) -> None:
        self.connection.hold(index, slow)

    def _deliver(self, index: int, data: memoryview) -> None:
        self._send(2 * index, data)

    def _ended(self, index: int) -> None:
        self._left -= 1
        if self._left == 0:
            self._websocket.send_close()

    def _send(self, channel: int, data: bytes | memoryview) -> None:
        self._websocket.send((bytes((channel,)), data))


__all__ = ["CHANNELS", "BadPorts", "ChannelForward", "Dial", "DialPod", "failure_text", "ports_of"]
