"""A TCP connection whose way to the application is narrower than both of its ends know.

    container eth0 (MTU 1500) === narrow0 (MTU 1300) workstation: forwards, VIF

The workstation says "too big" of full segments. Nobody else can tell the listener's kernel.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from vif_stage import TARGET4, TARGET6, Stage, ip, stage

__all__ = ["stage"]

SIZE = 300_000
PROGRAM = """
import socket, sys
s = socket.create_connection((sys.argv[1], 7), 3)
s.settimeout(5)
n = 0
while d := s.recv(65536): n += len(d)
print(n)
"""


@pytest.fixture
def container(stage: Stage) -> Iterator[str]:
    name = f"iv-way-{os.getpid()}"
    ip("netns", "add", name)
    try:
        ip("link", "add", "narrow0", "type", "veth", "peer", "name", "eth0", "netns", name)
        for where in ([], ["-n", name]):
            host, device = (1, "narrow0") if not where else (2, "eth0")
            ip(*where, "address", "add", f"172.30.0.{host}/24", "dev", device)
            ip(*where, "-6", "address", "add", f"fd00:30::{host}/64", "dev", device, "nodad")
            ip(*where, "link", "set", device, "up")
        ip("link", "set", "narrow0", "mtu", "1300")
        ip("-n", name, "route", "add", "default", "via", "172.30.0.1")
        ip("-n", name, "-6", "route", "add", "default", "via", "fd00:30::1")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        yield name
    finally:
        ip("netns", "delete", name)


@pytest.mark.parametrize("host", [TARGET4, TARGET6])
async def test_a_download_finds_the_narrow_way(stage: Stage, container: str, host: str) -> None:
    def serve(sock: socket.socket) -> None:
        stage.daemon.tasks.add(asyncio.get_running_loop().create_task(send(sock)))

    async def send(sock: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(sock, b"z" * SIZE)
        sock.shutdown(socket.SHUT_WR)

    stage.daemon.serve = serve
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", container, sys.executable, "-c", PROGRAM, host, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 15)
    assert out.split() == [str(SIZE).encode()]
    if stage.mode != "veth":  # there the kernel takes it to the connection, and Python never sees it
        assert (await stage.vif.counters())["tcp-error"] >= 1
