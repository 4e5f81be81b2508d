"""Links, pumps and the dialler over real sockets (tunnel_stage.py draws the stage)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import select
import socket

import pytest
from tunnel_stage import Target, Tunnel, Verdict, abort, joined, read_all, readable, send, tcp_pair

from inroad.tunnel.api import Refusal
from inroad.tunnel.stream import TRIES, connect_stream, serve_stream

LOOPS = ("asyncio", "uvloop")


async def test_bytes_and_half_close_each_way() -> None:
    async with Tunnel() as tunnel:
        with Target() as target:
            app, far = await joined(tunnel, target)
            await send(app, b"request")
            app.shutdown(socket.SHUT_WR)
            assert await read_all(far) == b"request"
            await send(far, b"answer after your end")
            far.close()
            assert await read_all(app) == b"answer after your end"
            app.close()


async def test_the_target_may_end_first() -> None:
    async with Tunnel() as tunnel:
        with Target() as target:
            app, far = await joined(tunnel, target)
            await send(far, b"all I have")
            far.shutdown(socket.SHUT_WR)
            assert await read_all(app) == b"all I have"
            await send(app, b"thanks")
            app.close()
            assert await read_all(far) == b"thanks"
            far.close()


async def push(sock: socket.socket, block: bytes, times: int) -> None:
    for _ in range(times):
        await send(sock, block)
    sock.shutdown(socket.SHUT_WR)


async def pull(sock: socket.socket) -> str:
    digest = hashlib.sha256()
    while part := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1 << 18), 10):
        digest.update(part)
    return digest.hexdigest()


@pytest.mark.parametrize("lanes", [1, 2])
async def test_100_mb_each_way_at_once_arrive_whole(lanes: int) -> None:
    block = os.urandom(1 << 20)
    want = hashlib.sha256(block * 100).hexdigest()
    async with Tunnel(lanes=lanes) as tunnel:
        with Target() as target:
            app, far = await joined(tunnel, target)
            got = await asyncio.gather(pull(app), pull(far), push(app, block, 100), push(far, block, 100))
            assert got[:2] == [want, want]
            app.close()
            far.close()
            if lanes == 2:
                assert tunnel.bulk.stats()["lanes"] == 2


async def test_a_newer_bulk_lane_takes_the_place_of_one_whose_end_was_not_noticed() -> None:
    async with Tunnel(lanes=2) as tunnel:
        with Target() as target:
            app, far = await joined(tunnel, target)
            await tunnel.join(await tunnel.new_link())
            block = os.urandom(1 << 20)
            got = await asyncio.gather(pull(app), pull(far), push(app, block, 5), push(far, block, 5))
            assert got[:2] == [hashlib.sha256(block * 5).hexdigest()] * 2
            assert tunnel.closed == ["another bulk lane took its place"]
            app.close()
            far.close()


async def test_a_lost_bulk_lane_resets_its_flows_and_the_link_goes_on() -> None:
    async with Tunnel(lanes=2) as tunnel:
        with Target() as target:
            bulk_app, bulk_far = await joined(tunnel, target)
            app, far = await joined(tunnel, target)
            pushing = asyncio.ensure_future(push(bulk_app, bytes(1 << 20), 1000))
            while tunnel.bulk._lane.bytes_out < 10 << 20:
                await asyncio.get_running_loop().sock_recv(bulk_far, 1 << 18)
            tunnel.bulk._sock.shutdown(socket.SHUT_RDWR)
            with pytest.raises(ConnectionResetError):
                await read_all(bulk_far)
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await pushing
            again_app, again_far = await joined(tunnel, target)
            block = os.urandom(1 << 20)
            got = await asyncio.gather(
                pull(far), pull(again_far), push(app, b"x", 1), push(again_app, block, 9)
            )
            assert got[:2] == [hashlib.sha256(b"x").hexdigest(), hashlib.sha256(block * 9).hexdigest()]
            await tunnel.join(await tunnel.new_link())
            for sock in (bulk_app, bulk_far, app, far, again_app, again_far):
                sock.close()


@pytest.mark.parametrize("side", ["application", "target"])
async def test_reset_stays_a_reset(side: str) -> None:
    async with Tunnel() as tunnel:
        with Target() as target:
            app, far = await joined(tunnel, target)
            await send(app, b"x")
            assert await asyncio.get_running_loop().sock_recv(far, 10) == b"x"
            one, other = (app, far) if side == "application" else (far, app)
            abort(one)
            with pytest.raises(ConnectionResetError):
                await read_all(other)
            other.close()


async def test_close_with_unread_data_resets() -> None:
    async with Tunnel() as tunnel:
        with Target() as target:
            app, far = await joined(tunnel, target)
            await send(far, b"never read")
            await readable(app)
            app.close()
            with pytest.raises(ConnectionResetError):
                await read_all(far)
            far.close()


async def test_an_upload_into_a_stalled_target_stops_and_others_go_on() -> None:
    async with Tunnel() as tunnel:
        with Target() as target:
            app, far = await joined(tunnel, target)
            accepted = 0
            chunk = bytes(1 << 16)
            with contextlib.suppress(TimeoutError):
                while True:
                    await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(app, chunk), 1)
                    accepted += len(chunk)
            assert accepted < 40 << 20, "back-pressure reaches the application"
            other_app, other_far = await joined(tunnel, target)
            await send(other_app, b"still here?")
            assert (
                await asyncio.wait_for(asyncio.get_running_loop().sock_recv(other_far, 99), 1)
                == b"still here?"
            )
            for sock in (app, far, other_app, other_far):
                sock.close()


async def reset(sock: socket.socket) -> bool:
    """Wait until a socket that nobody reads has been reset."""
    for _ in range(100):
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET:
            return True
        await asyncio.sleep(0.1)
    return False


async def test_an_application_that_resets_while_nobody_reads_it_is_noticed() -> None:
    async with Tunnel() as tunnel:
        with Target() as target:
            app, far = await joined(tunnel, target)
            with contextlib.suppress(TimeoutError):
                while True:  # until the stalled target has stopped it
                    await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(app, bytes(1 << 16)), 0.5)
            abort(app)
            assert await reset(far), "the target was not told"
            far.close()


async def test_a_reset_that_comes_together_with_bytes_is_noticed() -> None:
    async with Tunnel() as tunnel:
        with Target() as target:
            app, far = await joined(tunnel, target)
            for _ in range(4):  # an old connection, not one whose first bytes are read with care
                await send(app, b"request")
                assert await asyncio.get_running_loop().sock_recv(far, 100) == b"request"
            app.setblocking(True)
            app.sendall(b"last words")  # and the reset before the loop turns
            abort(app)
            assert await reset(far), "the target was not told"
            far.close()


async def test_refused_and_policy_and_nonsense() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    async with Tunnel() as tunnel:
        asked = {
            ("127.0.0.1", port): Refusal.REFUSED,
            ("169.254.169.254", 80): Refusal.NOT_ALLOWED,
            ("::ffff:169.254.169.254", 80): Refusal.NOT_ALLOWED,
            ("0.0.0.0", 80): Refusal.NOT_ALLOWED,
            ("fe80::1", 80): Refusal.NOT_ALLOWED,
            ("localhost", 80): Refusal.BAD_REQUEST,
            ("127.0.0.1", 0): Refusal.BAD_REQUEST,
            ("127.0.0.1", 70_000): Refusal.BAD_REQUEST,
        }
        answers = {key: tunnel.ask(*key)[1] for key in asked}
        got = {key: await asyncio.wait_for(verdict.future, 5) for key, verdict in answers.items()}
        assert got == asked


def full_backlog() -> tuple[socket.socket, list[socket.socket]]:
    """A listener that answers no further SYN: connecting to it takes for ever."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    return listener, fillers


async def test_a_slow_dial_times_out_at_its_deadline_and_a_cancelled_one_frees_its_place() -> None:
    listener, fillers = full_backlog()
    port = listener.getsockname()[1]
    async with Tunnel(max_dialing=1) as tunnel:
        loop = asyncio.get_running_loop()
        start = loop.time()
        _, slow = tunnel.ask("127.0.0.1", port, deadline=300)
        with Target() as target:
            _, behind = tunnel.ask("127.0.0.1", target.port)
            assert await asyncio.wait_for(slow.future, 3) is Refusal.TIMED_OUT
            assert 0.25 < loop.time() - start < 2
            assert await asyncio.wait_for(behind.future, 3) == "opened", "waited for its turn"
            cancelled, _ = tunnel.ask("127.0.0.1", port, deadline=60_000)
            _, after = tunnel.ask("127.0.0.1", target.port)
            cancelled.reset()
            assert await asyncio.wait_for(after.future, 3) == "opened"
    for sock in (listener, *fillers):
        sock.close()


async def test_a_thousand_dials_at_once_are_all_answered() -> None:
    async with Tunnel(max_dialing=16) as tunnel:
        with Target() as target:
            target.sock.listen(1024)
            verdicts = [tunnel.ask("127.0.0.1", target.port)[1] for _ in range(1000)]
            answers = await asyncio.wait_for(asyncio.gather(*(v.future for v in verdicts)), 30)
            assert answers == ["opened"] * 1000


async def test_udp_there_and_back_and_port_unreachable() -> None:
    async with Tunnel() as tunnel:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target:
            target.bind(("127.0.0.1", 0))
            target.setblocking(False)
            port = target.getsockname()[1]
            flow, verdict = tunnel.ask("127.0.0.1", port, "udp")
            for size in (0, 1, 1400, 65_507):
                flow.send_datagram(bytes(size))
                await readable(target)
                data, peer = target.recvfrom(70_000)
                assert len(data) == size
                target.sendto(data, peer)
                assert await asyncio.wait_for(verdict.datagrams.get(), 5) == bytes(size)
        flow.send_datagram(b"anybody?")
        assert await asyncio.wait_for(verdict.datagrams.get(), 5) is Refusal.REFUSED


@pytest.mark.parametrize("lanes", [1, 2])
async def test_closing_the_link_sends_what_was_accepted_and_resets_what_ran(lanes: int) -> None:
    async with Tunnel(lanes=lanes) as tunnel:
        with Target() as target:
            done_app, done_far = await joined(tunnel, target)
            open_app, open_far = await joined(tunnel, target)
            await send(done_app, bytes(300_000))
            await readable(done_far)
            flow, verdict = tunnel.ask("127.0.0.1", target.port)
            await verdict.future
            last = await target.accept()
            flow.write(b"z" * 3_000_000, True)
            reading = asyncio.ensure_future(read_all(last))
            tunnel.link.close("quit")
            assert await asyncio.wait_for(tunnel.down, 5) == "quit"
            assert await reading == b"z" * 3_000_000
            with pytest.raises(ConnectionResetError):
                await read_all(open_far)
            with pytest.raises(ConnectionResetError):
                await read_all(open_app)
            for sock in (done_app, done_far, open_app, open_far, last):
                sock.close()
        assert tunnel.closed == ["quit"] * lanes
        late = Verdict()
        tunnel.link.open(b"", late)
        assert await asyncio.wait_for(late.future, 1) is Refusal.LINK_DOWN


async def test_a_peer_that_speaks_something_else_is_told_so() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    closed = asyncio.get_running_loop().create_future()

    def on_link(link) -> None:
        link.on_closed = closed.set_result

    server = await serve_stream([listener], on_link)
    with socket.create_connection(listener.getsockname()) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert "does not speak this protocol" in await asyncio.wait_for(closed, 5)
        sock.setblocking(False)
        assert b"does not speak" in await read_all(sock)
    server.close()


async def test_on_a_long_way_sending_is_tried_before_the_kernel_asks_for_it() -> None:
    """Nobody reads the other end, so the socket never becomes writable."""
    app, near = tcp_pair()
    link = await connect_stream(near)
    link._lane.pace.rtt = 0.05
    tried = asyncio.Event()

    def send() -> None:
        tried.set()
        link._send([bytes(1 << 20)])

    link._room = send
    with contextlib.suppress(BlockingIOError):
        while True:
            near.send(bytes(1 << 20))
    assert not link._send([b"x"])
    assert link._pause >= 0.05 / TRIES
    assert not select.select([], [near], [], 0)[1]
    while link._pause < 0.05:  # less and less often, as long as nothing moves
        tried.clear()
        await asyncio.wait_for(tried.wait(), 5)
    assert not select.select([], [near], [], 0)[1]
    link._lost("done")
    app.close()
