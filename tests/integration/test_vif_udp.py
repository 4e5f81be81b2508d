"""UDP through a real VIF; the picture is in test_vif_tcp.py."""

from __future__ import annotations

import socket

import pytest
from vif_stage import Stage, stage

from inroad.host.vif.api import Verdict

__all__ = ["stage"]

TARGET = ("10.96.0.5", 7)


def client(family: int = socket.AF_INET) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock


async def receive(sock: socket.socket, timeout: float = 3.0) -> bytes:
    import asyncio

    async with asyncio.timeout(timeout):
        return await asyncio.get_running_loop().sock_recv(sock, 70_000)


@pytest.mark.parametrize("size", [0, 1, 1200, 40_000, 65_507])
async def test_echo(stage: Stage, size: int) -> None:
    sock = client()
    sock.connect(TARGET)
    payload = bytes(range(256)) * 256
    sock.send(payload[:size])
    assert await receive(sock) == payload[:size]
    _, source, target, _ = stage.daemon.datagrams[0]
    assert (source, target) == (sock.getsockname(), TARGET)
    sock.close()


async def test_port_unreachable(stage: Stage) -> None:
    stage.daemon.answer = lambda _: None
    sock = client()
    sock.connect(TARGET)
    sock.send(b"anyone?")
    await stage.daemon.until(lambda: stage.daemon.datagrams)
    stage.vif.unreachable(stage.daemon.datagrams[0][0], Verdict.REFUSED)
    with pytest.raises(ConnectionRefusedError):
        await receive(sock)
    sock.close()
