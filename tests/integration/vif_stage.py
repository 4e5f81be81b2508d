"""The stage of the VIF's tests: a network namespace for this thread, a VIF in it, and a small daemon."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from inroad.host.vif.api import Endpoint, Verdict, Vif, VifConfig
from inroad.host.vif.choose import open_vif
from inroad.host.vif.process_linux import ProcessVif

TARGET4, TARGET6 = "10.96.0.5", "fd00:10:96::5"
ABORT = b"\1\0\0\0\0\0\0\0"  # SO_LINGER on, 0 s: close() sends RST
_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    return done.stdout


class Namespace:
    """Moves this thread (and processes and sockets it makes) into a new network namespace and back."""

    def __enter__(self) -> Namespace:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        if _libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        ip("link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        if _libc.setns(self._home, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(self._home)


@dataclass
class Daemon:
    """Gives verdicts by target port, and echoes what comes over accepted connections and datagrams."""

    vif: Vif | None = None
    verdicts: dict[int, Verdict | None] = field(default_factory=dict)  # None: no verdict yet
    serve: Callable[[socket.socket], object] | None = None
    syns: list[tuple[int, Endpoint, Endpoint, int]] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    datagrams: list[tuple[int, Endpoint, Endpoint, bytes]] = field(default_factory=list)
    echoes: list[tuple[int, str, str, int, bytes]] = field(default_factory=list)
    hops: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    answer: Callable[[bytes], bytes | None] = bytes
    sockets: list[socket.socket] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def syn(self, flow: int, source: Endpoint, target: Endpoint, ttl: int) -> None:
        self.syns.append((flow, source, target, ttl))
        verdict = self.verdicts.get(target[1], Verdict.CONNECTED)
        if verdict is not None:
            self.vif.verdict(flow, verdict)
        self.changed.set()

    def cancelled(self, flow: int) -> None:
        self.gone.append(flow)
        self.changed.set()

    def accepted(self, flow: int, sock: socket.socket) -> None:
        self.sockets.append(sock)
        if self.serve is None:
            task = asyncio.get_running_loop().create_task(self._echo(sock))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        else:
            self.serve(sock)
        self.changed.set()

    async def _echo(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(sock, 1 << 20):
                await loop.sock_sendall(sock, data)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        sock.close()

    def datagram(self, flow: int, source: Endpoint, target: Endpoint, ttl: int, payload: bytes) -> None:
        self.hops.append(ttl)
        self.datagrams.append((flow, source, target, payload))
        reply = self.answer(payload)
        if reply is not None:
            self.vif.send_datagram(flow, reply)
        self.changed.set()

    def echo(self, flow: int, source: str, target: str, ttl: int, sequence: int, payload: bytes) -> None:
        self.hops.append(ttl)
        self.echoes.append((flow, source, target, sequence, payload))
        self.vif.echo_reply(flow, sequence, payload)
        self.changed.set()

    def expired(self, flow: int) -> None:
        self.ended.append(flow)
        self.changed.set()

    def failed(self, reason: str) -> None:
        self.failures.append(reason)
        self.changed.set()

    async def until(self, condition: Callable[[], object], timeout: float = 5.0) -> None:
        """Wait until something that happened makes `condition` true."""
        async with asyncio.timeout(timeout):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


async def connect(host: str, port: int, timeout: float = 5.0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    return sock


async def read_all(sock: socket.socket) -> bytes:
    parts = []
    while data := await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
        parts.append(data)
    return b"".join(parts)


class Stage:
    """A VIF with routes, and the daemon behind it."""

    def __init__(self, mode: str) -> None:
        self.daemon = Daemon()
        self.mode = mode

    async def open(self) -> None:
        addresses = (ip_address("246.246.0.1"), ip_address("fd00:0:0:246::1"))
        config = VifConfig(addresses=addresses, mode=self.mode)
        if self.mode == "one-tun":  # what `choose` takes where no namespace can be made
            self.vif = ProcessVif(config, self.daemon, self.mode, "")
            await self.vif.open()
        else:
            self.vif = await open_vif(config, self.daemon)
        self.daemon.vif = self.vif
        for network in ("10.96.0.0/16", "10.244.0.0/16", "fd00:10:96::/112"):
            quickack = ("quickack", "1") if self.vif.kind == "tun" else ()
            ip("route", "add", network, "dev", self.vif.name, *quickack)

    async def reopen(self) -> None:
        await self.vif.close()
        await self.open()

    async def close(self) -> None:
        await self.vif.close()
        for sock in self.daemon.sockets:
            sock.close()

    def source(self, host: str) -> str:
        """The address from which an application reaches `host`."""
        return "fd00:0:0:246::1" if ":" in host else "246.246.0.1"

    @property
    def worker(self) -> int:
        """The pid of the packet loop."""
        return self.vif.pid

    async def counter(self, name: str, least: int, timeout: float = 5.0) -> dict[str, int]:
        """Wait until a counter has reached `least`."""
        async with asyncio.timeout(timeout):
            while (counters := await self.vif.counters()).get(name, 0) < least:
                await asyncio.sleep(0.02)
        return counters


@pytest.fixture(params=["veth", "tun", "one-tun"])
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    with Namespace():
        stage = Stage(request.param)
        try:
            await stage.open()
            yield stage
        finally:
            await stage.close()
