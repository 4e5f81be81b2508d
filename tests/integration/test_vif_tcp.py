"""TCP through a real VIF: real applications, a daemon of the test's own, no cluster.

this process, in a network namespace of its own          private namespace (the worker's)
application --- inroad0 (VIF) ---- packet loop ---- inner TUN --- listener
                                                                    |
the test's daemon: verdicts, and a relay in place of the tunnel <---+
"""

from __future__ import annotations

import asyncio
import socket

import pytest
from vif_stage import Stage, stage

from inroad.host.vif.api import Verdict

__all__ = ["stage"]

TARGET = "10.96.0.5"


async def connect(stage: Stage, port: int, host: str = TARGET, timeout: float = 5.0) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    async with asyncio.timeout(timeout):
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    return sock


async def read_all(sock: socket.socket) -> bytes:
    parts = []
    while data := await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
        parts.append(data)
    return b"".join(parts)


async def test_echo(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    sock = await connect(stage, 7)
    await loop.sock_sendall(sock, b"hello")
    sock.shutdown(socket.SHUT_WR)
    assert await read_all(sock) == b"hello"
    sock.close()
    assert stage.daemon.syns[0][2] == (TARGET, 7)


async def test_refused(stage: Stage) -> None:
    stage.daemon.verdicts[81] = Verdict.REFUSED
    with pytest.raises(ConnectionRefusedError):
        await connect(stage, 81)
