"""The stage for tests of the tunnel on real sockets.

app socket ── pump ── client link ══ server link ── dialler ── target (a listener on 127.0.0.1)
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct

from inroad.core.dial_policy import DialPolicy
from inroad.core.messages import Dial, encode
from inroad.origin.dial import Dialler
from inroad.tunnel.api import Quiet
from inroad.tunnel.pump import SocketPump, tune
from inroad.tunnel.stream import connect_stream, serve_stream

LOOPBACK = DialPolicy(allow=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")))


class Verdict(Quiet):
    """Waits for the far side's answer."""

    def __init__(self) -> None:
        self.future = asyncio.get_running_loop().create_future()
        self.datagrams: asyncio.Queue[bytes] = asyncio.Queue()

    def flow_opened(self) -> None:
        self.future.set_result("opened")

    def flow_refused(self, reason, detail) -> None:
        if self.future.done():
            self.datagrams.put_nowait(reason)
        else:
            self.future.set_result(reason)

    def flow_reset(self) -> None:
        if not self.future.done():
            self.future.set_result("reset")

    def flow_datagram(self, data) -> None:
        self.datagrams.put_nowait(bytes(data))


class Tunnel:
    """Both ends of a link over TCP on loopback, a dialler at the far one; with a bulk lane if wanted."""

    def __init__(self, max_dialing: int = 512, lanes: int = 1) -> None:
        self.max_dialing = max_dialing
        self.lanes = lanes

    async def __aenter__(self) -> Tunnel:
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self.dialler = Dialler(LOOPBACK, max_dialing=self.max_dialing)
        self.accepted: asyncio.Queue = asyncio.Queue()
        self.closed: list[str] = []
        self.listening = await serve_stream([listener], self._on_link)
        self.link = await self.new_link()
        self.down = asyncio.get_running_loop().create_future()
        self.link.on_closed = self.down.set_result
        self.far = await self.accepted.get()
        if self.lanes == 2:
            self.bulk = await self.new_link()
            await self.join(self.bulk)
        return self

    def _on_link(self, link) -> None:
        def on_control(payload: bytes) -> None:
            if payload == b"join as bulk lane":
                self.far.adopt(link)
                link.send_control(b"welcome")

        link.on_open = self.dialler.serve
        link.on_closed = self.closed.append
        link.on_control = on_control
        self.accepted.put_nowait(link)

    async def new_link(self):
        return await connect_stream(socket.create_connection(self.address))

    async def join(self, bulk) -> None:
        """Make `bulk` the second lane, as docs/protocol.md tells."""
        welcome = asyncio.get_running_loop().create_future()

        def on_control(payload: bytes) -> None:
            self.link.adopt(bulk)
            welcome.set_result(payload)

        bulk.on_control = on_control
        bulk.send_control(b"join as bulk lane")
        assert await asyncio.wait_for(welcome, 5) == b"welcome"
        self.far_bulk = await self.accepted.get()

    async def __aexit__(self, *exc) -> None:
        self.link.close("done")
        self.listening.close()
        await asyncio.wait_for(self.down, 10)

    def ask(self, host: str, port: int, transport: str = "tcp", deadline: int = 5000) -> tuple:
        verdict = Verdict()
        return self.link.open(encode(Dial(transport, host, port, deadline)), verdict), verdict

    async def connect(self, port: int) -> socket.socket:
        """Return the application's end of a connection to 127.0.0.1:port through the tunnel."""
        flow, verdict = self.ask("127.0.0.1", port)
        assert await asyncio.wait_for(verdict.future, 5) == "opened"
        app, near = tcp_pair()
        SocketPump.attach(asyncio.get_running_loop(), near, flow)
        return app


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    client.setblocking(False)
    server.setblocking(False)
    tune(server)
    return client, server


class Target:
    """A listener whose connections the test drives by hand."""

    def __init__(self, family: int = socket.AF_INET) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.port = self.sock.getsockname()[1]

    async def accept(self) -> socket.socket:
        connection, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(self.sock), 5)
        return connection

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *exc) -> None:
        self.sock.close()


async def joined(tunnel: Tunnel, target: Target) -> tuple[socket.socket, socket.socket]:
    app = await tunnel.connect(target.port)
    return app, await target.accept()


async def read_all(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    parts = []
    while part := await asyncio.wait_for(loop.sock_recv(sock, 1 << 18), 10):
        parts.append(part)
    return b"".join(parts)


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(sock, data), 20)


def abort(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def readable(sock: socket.socket) -> bool:
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sock, event.set)
    try:
        await asyncio.wait_for(event.wait(), 5)
    finally:
        loop.remove_reader(sock)
    return True
