"""A daemon of a few lines: a VIF whose connections are spliced to one server. No tunnel, no cluster.

`python -m bench.vif_relay MODE TARGET [MTU]` in the client's namespace; says `ready` when 10.96.0.0/16
leads to TARGET. It shows what the VIF alone costs: payload never enters Python here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from ipaddress import ip_address

import uvloop

from inroad.host.vif.api import Endpoint, Verdict, Vif, VifConfig
from inroad.host.vif.choose import open_vif

PIPE = 1 << 20
F_SETPIPE_SZ = 1031


class Half:
    """One direction of a connection, through a pipe."""

    def __init__(self, pair: Pair, source: socket.socket, sink: socket.socket) -> None:
        self.pair, self.source, self.sink = pair, source.fileno(), sink
        self.read, self.write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.write, F_SETPIPE_SZ, PIPE)
        self.waiting = 0
        self.done = False
        pair.loop.add_reader(self.source, self.pull)

    def pull(self) -> None:
        try:
            size = os.splice(self.source, self.write, PIPE, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
        except BlockingIOError:
            return
        except OSError:
            self.pair.close()
            return
        self.waiting += size
        if not size:
            self.pair.loop.remove_reader(self.source)
            self.done = True
        self.push()

    def push(self) -> None:
        while self.waiting:
            try:
                self.waiting -= os.splice(
                    self.read, self.sink.fileno(), self.waiting, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
                )
            except BlockingIOError:
                self.pair.loop.remove_reader(self.source)
                self.pair.loop.add_writer(self.sink.fileno(), self.push)
                return
            except OSError:
                self.pair.close()
                return
        self.pair.loop.remove_writer(self.sink.fileno())
        if not self.done:
            self.pair.loop.add_reader(self.source, self.pull)
            return
        with contextlib.suppress(OSError):
            self.sink.shutdown(socket.SHUT_WR)
        self.pair.finished()


class Pair:
    """A connection of the application and one to the server."""

    def __init__(self, loop: asyncio.AbstractEventLoop, near: socket.socket, far: socket.socket) -> None:
        self.loop, self.near, self.far = loop, near, far
        self.closed = False
        self.halves = (Half(self, near, far), Half(self, far, near))

    def finished(self) -> None:
        if all(half.done and not half.waiting for half in self.halves):
            self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for sock in (self.near, self.far):
            self.loop.remove_reader(sock.fileno())
            self.loop.remove_writer(sock.fileno())
            sock.close()
        for half in self.halves:
            os.close(half.read)
            os.close(half.write)


class Relay:
    """The daemon's part: dial the server at the same port, say how that ended, splice."""

    def __init__(self, target: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.target = target
        self.vif: Vif
        self.dialled: dict[int, socket.socket] = {}
        self.associations: dict[int, socket.socket] = {}

    def syn(self, flow: int, source: Endpoint, target: Endpoint, ttl: int) -> None:
        del source, ttl
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sock.connect_ex((self.target, target[1])) in (0, errno.EINPROGRESS):
            self.loop.add_writer(sock.fileno(), self.dial_ended, flow, sock)

    def dial_ended(self, flow: int, sock: socket.socket) -> None:
        self.loop.remove_writer(sock.fileno())
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            sock.close()
            self.vif.verdict(flow, Verdict.REFUSED)
            return
        self.dialled[flow] = sock
        self.vif.verdict(flow, Verdict.CONNECTED)

    def accepted(self, flow: int, sock: socket.socket) -> None:
        Pair(self.loop, sock, self.dialled.pop(flow))

    def cancelled(self, flow: int) -> None:
        if flow in self.dialled:
            self.dialled.pop(flow).close()

    def datagram(self, flow: int, source: Endpoint, target: Endpoint, ttl: int, payload: bytes) -> None:
        del source, ttl
        sock = self.associations.get(flow)
        if sock is None:
            sock = self.associations[flow] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect((self.target, target[1]))
            self.loop.add_reader(sock.fileno(), self.answer, flow, sock)
        with contextlib.suppress(OSError):
            sock.send(payload)

    def answer(self, flow: int, sock: socket.socket) -> None:
        for _ in range(32):
            try:
                payload = sock.recv(65_536)
            except OSError:
                return
            self.vif.send_datagram(flow, payload)

    def echo(self, flow: int, source: str, target: str, ttl: int, sequence: int, payload: bytes) -> None:
        self.vif.echo_reply(flow, sequence, payload)

    def expired(self, flow: int) -> None:
        sock = self.associations.pop(flow, None)
        if sock is not None:
            self.loop.remove_reader(sock.fileno())
            sock.close()

    def failed(self, reason: str) -> None:
        sys.exit(reason)


async def main(mode: str, target: str, mtu: int) -> None:
    relay = Relay(target)
    config = VifConfig(addresses=(ip_address("246.246.0.1"),), mode=mode, mtu=mtu)
    relay.vif = await open_vif(config, relay)
    quickack = ["quickack", "1"] if relay.vif.kind == "tun" else []
    route = ["ip", "route", "add", "10.96.0.0/16", "dev", relay.vif.name, *quickack]
    subprocess.run(route, check=True)  # noqa: ASYNC221  nothing runs yet
    print("ready", flush=True)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        relay.loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    print(await relay.vif.counters(), flush=True)
    await relay.vif.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 65_535))
