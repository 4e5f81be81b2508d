"""UDP and ICMP echo through a real VIF; the picture is in test_vif_tcp.py."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from pathlib import Path

import pytest
from vif_stage import TARGET4, TARGET6, Stage, connect, ip, stage

from inroad.host.vif.api import Verdict

__all__ = ["stage"]

both = pytest.mark.parametrize("host", [TARGET4, TARGET6])


def client(host: str, port: int = 7) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.connect((host, port))
    return sock


async def receive(sock: socket.socket, timeout: float = 3.0) -> bytes:
    async with asyncio.timeout(timeout):
        return await asyncio.get_running_loop().sock_recv(sock, 70_000)


@both
@pytest.mark.parametrize("size", [0, 1, 1200, 1500, 40_000, 65_487, 65_507])
async def test_datagrams_of_any_size_both_ways(stage: Stage, host: str, size: int) -> None:
    if ":" in host:
        size = min(size, 65_487)
    sock = client(host)
    payload = (bytes(range(251)) * 262)[:size]
    sock.send(payload)
    assert await receive(sock) == payload
    _, source, target, _ = stage.daemon.datagrams[0]
    assert (source, target) == (sock.getsockname()[:2], (host, 7))
    sock.close()


@both
async def test_one_association_in_order(stage: Stage, host: str) -> None:
    sock = client(host)
    for number in range(200):
        sock.send(b"%d" % number)
    assert [int(await receive(sock)) for _ in range(200)] == list(range(200))
    assert len({flow for flow, *_ in stage.daemon.datagrams}) == 1
    sock.close()


@both
async def test_port_unreachable_reaches_the_application(stage: Stage, host: str) -> None:
    stage.daemon.answer = lambda _: None
    sock = client(host)
    sock.send(b"anyone?")
    await stage.daemon.until(lambda: stage.daemon.datagrams)
    stage.vif.unreachable(stage.daemon.datagrams[0][0], Verdict.REFUSED)
    with pytest.raises(ConnectionRefusedError):
        await receive(sock)
    sock.close()


async def test_a_dns_association_ends_after_five_seconds(stage: Stage) -> None:
    sock = client(TARGET4, 53)
    sock.send(b"question")
    await receive(sock)
    flow = stage.daemon.datagrams[0][0]
    began = time.monotonic()
    await stage.daemon.until(lambda: stage.daemon.ended, timeout=8)
    assert stage.daemon.ended == [flow]
    assert time.monotonic() - began > 4.5
    sock.close()


async def test_a_datagram_for_an_application_that_is_gone(stage: Stage) -> None:
    stage.daemon.answer = lambda _: None
    sock = client(TARGET4)
    sock.send(b"wait for me")
    await stage.daemon.until(lambda: stage.daemon.datagrams)
    flow = stage.daemon.datagrams[0][0]
    sock.close()
    stage.vif.send_datagram(flow, b"too late")
    await stage.daemon.until(lambda: stage.daemon.ended)
    assert stage.daemon.ended == [flow]


@both
async def test_a_flood_is_dropped_and_counted_and_tcp_goes_on(stage: Stage, host: str) -> None:
    """The daemon does not read while 64 MB come in: memory stays bounded, the newest are dropped."""
    stage.daemon.answer = lambda _: None
    sock = client(host)
    payload = bytes(16_000)
    for _ in range(4_000):
        with contextlib.suppress(BlockingIOError):
            sock.send(payload)
    resident = int(Path(f"/proc/{stage.worker}/statm").read_text().split()[1]) * 4096
    assert resident < 80 << 20
    tcp = await connect(host, 7)
    loop = asyncio.get_running_loop()
    await asyncio.wait_for(loop.sock_sendall(tcp, b"hello"), 3)
    assert await asyncio.wait_for(loop.sock_recv(tcp, 10), 3) == b"hello"
    assert stage.daemon.datagrams[0][3] == payload
    tcp.close()
    sock.close()


def pinger(host: str) -> socket.socket:
    """A ping socket, as `ping` has it for ordinary users; a new namespace lets nobody."""
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
    six = ":" in host
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM, protocol)
    sock.setblocking(False)
    sock.connect((host, 0))
    return sock


def request(host: str, sequence: int, payload: bytes) -> bytes:
    """An echo request; the kernel fills in checksum and identifier."""
    return struct.pack("!BBHHH", 128 if ":" in host else 8, 0, 0, 0, sequence) + payload


@both
@pytest.mark.parametrize("size", [0, 56, 3000, 60_000])
async def test_echo_requests(stage: Stage, host: str, size: int) -> None:
    sock = pinger(host)
    for sequence in (1, 2, 65_535):
        sock.send(request(host, sequence, bytes(size)))
        reply = await receive(sock)
        assert reply[0] == (129 if ":" in host else 0)
        assert reply[6:] == struct.pack("!H", sequence) + bytes(size)
    assert {(echo[2], echo[4]) for echo in stage.daemon.echoes} == {(host, bytes(size))}
    assert len({echo[0] for echo in stage.daemon.echoes}) == 1
    sock.close()


async def test_no_answer_where_the_far_side_gives_none(stage: Stage) -> None:
    stage.daemon.echo = lambda *_: stage.daemon.changed.set()
    sock = pinger(TARGET4)
    sock.send(request(TARGET4, 1, b"anyone?"))
    with pytest.raises(TimeoutError):
        await receive(sock, timeout=0.5)
    sock.close()


async def test_odd_packets_do_no_harm_and_are_counted(stage: Stage) -> None:
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
    raw.sendto(bytes(20), (TARGET4, 0))
    raw.close()
    options = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    options.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01\x01\x01\x00")
    options.connect((TARGET4, 7))
    options.setblocking(False)
    options.send(b"with options")
    assert await receive(options) == b"with options"
    options.close()
    counters = await stage.counter("protocol-other", 1)
    assert counters["ipv4-options"] == 1


async def test_a_container_behind_a_narrow_link_says_so(stage: Stage) -> None:
    """Packet Too Big from the workstation (DF on a narrow way) makes the next datagrams smaller."""
    name = f"iv-narrow-{stage.worker}"
    ip("netns", "add", name)
    try:
        ip("link", "add", "narrow0", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("-6", "address", "add", "fd00:30::1/64", "dev", "narrow0", "nodad")
        ip("link", "set", "narrow0", "mtu", "1300", "up")
        ip("-n", name, "-6", "address", "add", "fd00:30::2/64", "dev", "eth0", "nodad")
        ip("-n", name, "link", "set", "eth0", "mtu", "1300", "up")
        ip("-n", name, "-6", "route", "add", "default", "via", "fd00:30::1")
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        program = (
            "import socket, sys; u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.settimeout(0.5)\n"
            f"u.connect(({TARGET6!r}, 7))\n"
            "for n in range(8):\n"
            "    u.send(b'y' * 1400)\n"
            "    try: print(len(u.recv(9000))); break\n"
            "    except TimeoutError: pass\n"
        )
        process = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", name, "python3", "-c", program, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(process.communicate(), 10)
        assert out == b"1400\n"
        await stage.counter("too-big", 1)
    finally:
        ip("netns", "delete", name)
