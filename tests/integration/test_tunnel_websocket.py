"""A link over a port-forward, against a server that does what API server and kubelet do together.

client link ══ WebSocket ══ forwarder ── TCP ── server link ── dialler ── target
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket

import aiohttp
import pytest
from aiohttp import web
from tunnel_stage import LOOPBACK, Target, Verdict, read_all, send, tcp_pair

from inroad.core.messages import Dial, encode
from inroad.kube.upgrade import Handshake, Upgraded
from inroad.origin.dial import Dialler
from inroad.tunnel.api import Refusal
from inroad.tunnel.pump import SocketPump
from inroad.tunnel.stream import serve_stream
from inroad.tunnel.websocket import attach_port_forward

LOOPS = ("asyncio", "uvloop")


class Forwarder:
    """The API server's port-forward to one TCP port, both its channels announced as the kubelet does."""

    def __init__(self, port: int, script: list[bytes | str] | None = None) -> None:
        self.port = port
        self.script = script
        self.largest = 0
        self.sockets: list[web.WebSocketResponse] = []

    async def __aenter__(self) -> Forwarder:
        app = web.Application()
        app.router.add_get("/", self.forward)
        self.runner = web.AppRunner(app, shutdown_timeout=1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.session = aiohttp.ClientSession()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}/"
        return self

    async def __aexit__(self, *exc) -> None:
        await self.session.close()
        await self.runner.cleanup()

    async def open(self) -> Upgraded:
        handshake = Handshake(("v4.channel.k8s.io",))
        return handshake.check(
            await self.session.get(self.url, headers=handshake.headers, read_until_eof=False)
        )

    async def forward(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(protocols=("v4.channel.k8s.io",), max_msg_size=0)
        await ws.prepare(request)
        self.sockets.append(ws)
        for channel in (b"\x00", b"\x01"):
            await ws.send_bytes(channel + self.port.to_bytes(2, "little"))
        if self.script is not None:
            for message in self.script:
                await (ws.send_str(message) if isinstance(message, str) else ws.send_bytes(message))
            await ws.receive()
            return ws
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)

        async def down() -> None:
            while data := await reader.read(32 * 1024):  # io.Copy's buffer in the kubelet
                await ws.send_bytes(b"\x00" + data)
            await ws.close()

        task = asyncio.create_task(down())
        async for message in ws:
            assert message.data[0] == 0
            self.largest = max(self.largest, len(message.data))
            writer.write(message.data[1:])
            await writer.drain()
        task.cancel()
        writer.close()
        return ws


async def far_end() -> tuple:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    dialler = Dialler(LOOPBACK)
    links = []

    def on_link(link) -> None:
        link.on_open = dialler.serve
        link.reasons = []
        link.on_closed = link.reasons.append
        links.append(link)

    return await serve_stream([listener], on_link), port, links


async def test_bulk_both_ways_and_orderly_close() -> None:
    server, port, links = await far_end()
    async with Forwarder(port) as forwarder:
        link = attach_port_forward(await forwarder.open())
        down = asyncio.get_running_loop().create_future()
        link.on_closed = down.set_result
        with Target() as target:
            verdict = Verdict()
            flow = link.open(encode(Dial("tcp", "127.0.0.1", target.port)), verdict)
            assert await asyncio.wait_for(verdict.future, 5) == "opened"
            app, near = tcp_pair()
            SocketPump.attach(asyncio.get_running_loop(), near, flow)
            far = await target.accept()
            block = os.urandom(1 << 20)

            async def push(sock: socket.socket) -> None:
                for _ in range(20):
                    await send(sock, block)
                sock.shutdown(socket.SHUT_WR)

            async def pull(sock: socket.socket) -> str:
                return hashlib.sha256(await read_all(sock)).hexdigest()

            got = await asyncio.gather(pull(app), pull(far), push(app), push(far))
            want = hashlib.sha256(block * 20).hexdigest()
            assert got[:2] == [want, want]
            assert forwarder.largest <= 66 * 1024
            app.close()
            far.close()
        link.close("done")
        assert await asyncio.wait_for(down, 5) == "done"
        assert links[0].reasons == ["done"]
    server.close()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([b"\x01unable to do port forwarding: connection refused"], "connection refused"),
        (["plain text"], "text"),
        ([b"\x00\x00\x00\x00\x00\x63\x00\x00\x00"], "does not speak this protocol"),
    ],
)
async def test_errors_of_the_port_forward_end_the_link_with_a_reason(script: list, reason: str) -> None:
    async with Forwarder(1, script) as forwarder:
        link = attach_port_forward(await forwarder.open())
        down = asyncio.get_running_loop().create_future()
        link.on_closed = down.set_result
        verdict = Verdict()
        link.open(b"", verdict)
        assert reason in await asyncio.wait_for(down, 5)
        assert await verdict.future is Refusal.LINK_DOWN


async def test_a_cut_port_forward_ends_the_link() -> None:
    server, port, _ = await far_end()
    async with Forwarder(port) as forwarder:
        link = attach_port_forward(await forwarder.open())
        down = asyncio.get_running_loop().create_future()
        link.on_closed = down.set_result
        while not forwarder.sockets:
            await asyncio.sleep(0)
        await forwarder.sockets[0].close(code=1011, message=b"pod gone")
        assert "1011" in await asyncio.wait_for(down, 5)
    server.close()


class Wire:
    """An upgraded connection and its transport, without a network; remembers what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def take(self, protocol: asyncio.BaseProtocol) -> tuple[Wire, bytes]:
        return self, b""

    def ended(self, error: Exception | None) -> None:
        self.closed = True

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None:
        assert high > 0


async def test_an_error_that_comes_byte_by_byte_is_told_whole() -> None:
    wire = Wire()
    link = attach_port_forward(wire)
    down = asyncio.get_running_loop().create_future()
    link.on_closed = down.set_result
    said = b"\x01error forwarding port 15701: connection refused"
    messages = (b"\x00\x55\x3d", b"\x01\x55\x3d", said)
    for byte in b"".join(bytes((0x82, len(message))) + message for message in messages):
        assert not down.done()
        link.get_buffer(-1)[0] = byte
        link.buffer_updated(1)
    assert await asyncio.wait_for(down, 5) == "port-forward: error forwarding port 15701: connection refused"
    assert wire.written[-8:-6] == b"\x88\x82"  # it says goodbye, and waits for the server's
    assert not wire.closed
    link.get_buffer(-1)[:4] = b"\x88\x02\x03\xe8"
    link.buffer_updated(4)
    assert wire.closed
