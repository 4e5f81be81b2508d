"""TCP through a real VIF: real applications, a daemon of the test's own, no cluster.

this process, in a network namespace of its own          private namespace (the worker's)
application --- inroad0 (VIF) ---- packet loop ---- inner TUN --- listener
                                                                    |
the test's daemon: verdicts, and an echo in place of the tunnel <---+
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import socket
import time

import pytest
from vif_stage import ABORT, TARGET4, TARGET6, Stage, connect, ip, read_all, stage

from inroad.host.vif.api import Verdict

__all__ = ["stage"]

both = pytest.mark.parametrize("host", [TARGET4, TARGET6])


@both
async def test_echo_and_half_close_by_the_application(stage: Stage, host: str) -> None:
    loop = asyncio.get_running_loop()
    sock = await connect(host, 7)
    await loop.sock_sendall(sock, b"x" * 1_048_576)
    sock.shutdown(socket.SHUT_WR)
    assert await read_all(sock) == b"x" * 1_048_576
    _, source, target, ttl = stage.daemon.syns[0]
    assert source == sock.getsockname()[:2]
    assert (target, ttl) == ((host, 7), 64)
    sock.close()


@both
async def test_half_close_by_the_far_side(stage: Stage, host: str) -> None:
    loop = asyncio.get_running_loop()
    stage.daemon.serve = lambda sock: sock.shutdown(socket.SHUT_WR)
    sock = await connect(host, 7)
    assert await read_all(sock) == b""
    await loop.sock_sendall(sock, b"still listening?")
    assert await loop.sock_recv(stage.daemon.sockets[0], 100) == b"still listening?"
    sock.close()


@both
@pytest.mark.parametrize(
    ("verdict", "numbers"),
    [
        (Verdict.REFUSED, {errno.ECONNREFUSED}),
        (Verdict.NET_UNREACHABLE, {errno.ENETUNREACH}),
        (Verdict.HOST_UNREACHABLE, {errno.EHOSTUNREACH}),
        (Verdict.PROHIBITED, {errno.EHOSTUNREACH, errno.EACCES}),  # Linux: IPv4, IPv6
    ],
)
async def test_the_application_is_told_why(
    stage: Stage, host: str, verdict: Verdict, numbers: set[int]
) -> None:
    stage.daemon.verdicts[81] = verdict
    began = time.monotonic()
    with pytest.raises(OSError) as caught:
        await connect(host, 81)
    assert caught.value.errno in numbers
    assert time.monotonic() - began < 0.5


@both
async def test_a_held_connect_waits_and_dials_once(stage: Stage, host: str) -> None:
    stage.daemon.verdicts[80] = None
    pending = asyncio.create_task(connect(host, 80))
    await stage.daemon.until(lambda: stage.daemon.syns)
    await stage.counter("syn-retransmitted", 1)  # the kernel's, after 1 s
    assert not pending.done()
    assert len(stage.daemon.syns) == 1
    stage.vif.verdict(stage.daemon.syns[0][0], Verdict.CONNECTED)
    (await pending).close()


async def test_after_silence_a_retransmission_dials_anew(stage: Stage) -> None:
    stage.daemon.verdicts[80] = Verdict.TIMED_OUT
    pending = asyncio.create_task(connect(TARGET4, 80))
    await stage.daemon.until(lambda: stage.daemon.syns)
    stage.daemon.verdicts[80] = Verdict.CONNECTED
    (await pending).close()
    assert len(stage.daemon.syns) == 2
    assert stage.daemon.syns[0][1] == stage.daemon.syns[1][1]


async def test_giving_up_while_held_cancels_the_dial(stage: Stage) -> None:
    stage.daemon.verdicts[80] = None
    with pytest.raises(TimeoutError):
        await connect(TARGET4, 80, timeout=0.3)
    await stage.daemon.until(lambda: stage.daemon.gone)
    assert stage.daemon.gone == [stage.daemon.syns[0][0]]


async def test_giving_up_just_before_the_verdict_is_a_reset_and_a_cancel(stage: Stage) -> None:
    stage.daemon.verdicts[80] = None
    with pytest.raises(TimeoutError):
        await connect(TARGET4, 80, timeout=0.2)
    flow = stage.daemon.syns[0][0]
    stage.vif.verdict(flow, Verdict.CONNECTED)
    await stage.daemon.until(lambda: stage.daemon.gone, timeout=3)
    assert stage.daemon.gone == [flow]
    assert stage.daemon.sockets == []


@both
async def test_reset_by_the_application_stays_a_reset(stage: Stage, host: str) -> None:
    stage.daemon.serve = lambda sock: None
    sock = await connect(host, 7)
    await stage.daemon.until(lambda: stage.daemon.sockets)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    sock.close()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(read_all(stage.daemon.sockets[0]), 2)


@both
async def test_reset_by_the_far_side_stays_a_reset(stage: Stage, host: str) -> None:
    def reset(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        sock.close()

    stage.daemon.serve = reset
    sock = await connect(host, 7)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(read_all(sock), 2)
    sock.close()


async def test_close_with_unread_data_is_a_reset(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    stage.daemon.serve = lambda sock: None
    sock = await connect(TARGET4, 7)
    await stage.daemon.until(lambda: stage.daemon.sockets)
    await loop.sock_sendall(stage.daemon.sockets[0], b"nobody reads this")
    while True:
        try:
            assert sock.recv(1, socket.MSG_PEEK)
            break
        except BlockingIOError:
            await asyncio.sleep(0)
    sock.close()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(read_all(stage.daemon.sockets[0]), 2)


@both
async def test_the_same_ports_again_right_after_close(stage: Stage, host: str) -> None:
    loop = asyncio.get_running_loop()
    for linger in (False, True, False, True):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((stage.source(host), 45_678))
        async with asyncio.timeout(2):
            while True:
                try:
                    await loop.sock_connect(sock, (host, 7))
                    break
                except OSError as problem:  # the last one's final acknowledgement is still on its way
                    assert problem.errno == errno.EADDRNOTAVAIL
                    await asyncio.sleep(0.001)
            await loop.sock_sendall(sock, b"again")
            assert await loop.sock_recv(sock, 10) == b"again"
            if linger:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            else:  # the far side closes first, so the application's side has no TIME_WAIT
                stage.daemon.sockets[-1].shutdown(socket.SHUT_WR)
                assert await loop.sock_recv(sock, 10) == b""
        sock.close()
    assert len(stage.daemon.syns) == 4


async def test_one_port_towards_many_destinations(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    socks = []
    for host, port in ((TARGET4, 7), (TARGET4, 8), ("10.96.0.6", 7), ("10.244.1.9", 7)):
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((stage.source(host), 45_678))
        await asyncio.wait_for(loop.sock_connect(sock, (host, port)), 2)
        socks.append((sock, f"{host}:{port}".encode()))
    for sock, text in socks:
        await loop.sock_sendall(sock, text)
    for sock, text in socks:
        assert await loop.sock_recv(sock, 100) == text
        sock.close()


async def test_bound_to_another_local_address(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    ip("address", "add", "192.0.2.7/32", "dev", "lo")
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind(("192.0.2.7", 0))
    await asyncio.wait_for(loop.sock_connect(sock, (TARGET4, 7)), 2)
    await loop.sock_sendall(sock, b"hello")
    assert await loop.sock_recv(sock, 100) == b"hello"
    assert stage.daemon.syns[0][1][0] == "192.0.2.7"
    sock.close()


@both
async def test_a_large_transfer_both_ways_at_once(stage: Stage, host: str) -> None:
    loop = asyncio.get_running_loop()
    block = os.urandom(1 << 20)
    sock = await connect(host, 7)
    sent, received = hashlib.sha256(), hashlib.sha256()

    async def send() -> None:
        for _ in range(64):
            sent.update(block)
            await loop.sock_sendall(sock, block)
        sock.shutdown(socket.SHUT_WR)

    sending = asyncio.create_task(send())
    while data := await loop.sock_recv(sock, 1 << 20):
        received.update(data)
    await sending
    assert received.digest() == sent.digest()
    sock.close()


async def test_many_at_once_while_the_daemon_is_busy(stage: Stage) -> None:
    """2,000 SYNs and their events wait while the daemon's loop is stuck; none is lost."""
    stage.daemon.serve = lambda sock: None
    socks = []
    for number in range(2_000):
        sock = socket.socket()
        sock.setblocking(False)
        assert sock.connect_ex((f"10.96.{number // 250}.{number % 250 + 1}", 80)) == errno.EINPROGRESS
        socks.append(sock)
    await stage.daemon.until(lambda: len(stage.daemon.sockets) == 2_000, timeout=20)
    assert len({flow for flow, *_ in stage.daemon.syns}) == 2_000
    for sock in socks:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        sock.close()


@pytest.mark.parametrize("small", [False, True])
async def test_small_writes_are_quick_without_nodelay(stage: Stage, small: bool) -> None:
    """Two writes, then a read: Nagle waits for an acknowledgement that must not be delayed (40 ms)."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    if small:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await loop.sock_connect(sock, (TARGET4, 7))
    times = []
    for _ in range(10):
        began = time.monotonic()
        await loop.sock_sendall(sock, b"a" * 20_000)
        await loop.sock_sendall(sock, b"b" * 20_000)
        left = 40_000
        while left:
            left -= len(await loop.sock_recv(sock, left))
        times.append(time.monotonic() - began)
    assert sorted(times)[5] < 0.02
    sock.close()


async def test_what_is_accepted_is_ready_to_relay(stage: Stage) -> None:
    """Nobody sets these again for each connection."""
    stage.daemon.serve = lambda sock: None
    sock = await connect(TARGET4, 7)
    await stage.daemon.until(lambda: stage.daemon.sockets)
    accepted = stage.daemon.sockets[0]
    assert accepted.getblocking() is False
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    sock.close()


async def test_an_unknown_connection_is_reset(stage: Stage) -> None:
    """Connections of a packet loop that is gone end with a reset as soon as they say something."""
    loop = asyncio.get_running_loop()
    stage.daemon.serve = lambda sock: None
    sock = await connect(TARGET4, 7)
    await stage.daemon.until(lambda: stage.daemon.sockets)
    await stage.reopen()
    await loop.sock_sendall(sock, b"anyone?")
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(loop.sock_recv(sock, 10), 3)
    sock.close()
