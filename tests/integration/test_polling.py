"""Both pollers, on both event loops, with real sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest
import uvloop

from inroad import polling
from inroad.polling import READ, WRITE, EpollPoller, LoopPoller, Poller, poller

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
POLLERS = ["epoll", "loop"]


class Owner:
    """Notes what it is told; reads what there is."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.told: list[str] = []
        self.read = b""

    def readable(self) -> None:
        self.told.append("readable")
        try:
            self.read += self.sock.recv(100)
        except ConnectionResetError:
            self.told.append("reset")

    def writable(self) -> None:
        self.told.append("writable")

    def broken(self) -> None:
        self.told.append("broken")


def pair() -> tuple[socket.socket, Owner]:
    """A TCP connection: the peer's end, and ours with an owner."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    return peer, Owner(ours)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(params=[(kind, loop) for kind in POLLERS for loop in LOOPS], ids=str)
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable:
    kind, new_loop = request.param
    monkeypatch.setattr(polling, "LOOK", 0.02)
    if kind == "loop":
        monkeypatch.setattr(polling, "_EPOLL", None)

    def run(story: Callable) -> None:
        async def main() -> None:
            made = poller(asyncio.get_running_loop())
            assert isinstance(made, EpollPoller if kind == "epoll" else LoopPoller)
            await story(made)

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())

    return run


def test_what_is_wanted_is_told_and_nothing_else(run: Callable) -> None:
    async def story(polls: Poller) -> None:
        peer, owner = pair()
        polls.watch(owner.sock, owner, READ)
        peer.sendall(b"one")
        await until(lambda: owner.read == b"one")
        polls.watch(owner.sock, owner, WRITE)
        await until(lambda: "writable" in owner.told)
        polls.watch(owner.sock, owner, 0)
        owner.told.clear()
        peer.sendall(b"two")
        await asyncio.sleep(0.05)
        assert owner.told == []
        polls.watch(owner.sock, owner, READ)
        await until(lambda: owner.read == b"onetwo")
        polls.forget(owner.sock)
        owner.told.clear()
        peer.sendall(b"three")
        await asyncio.sleep(0.05)
        assert owner.told == []
        peer.close()
        owner.sock.close()

    run(story)


def test_a_reset_is_told_to_who_does_not_read(run: Callable) -> None:
    async def story(polls: Poller) -> None:
        peer, owner = pair()
        polls.watch(owner.sock, owner, 0)
        reset(peer)
        await until(lambda: owner.told)
        assert owner.told[0] == "broken"
        polls.forget(owner.sock)
        owner.sock.close()

    run(story)


def test_a_peer_that_has_ended_is_no_work_for_who_does_not_read(run: Callable) -> None:
    """Both directions are shut: the kernel would report that for ever."""

    async def story(polls: Poller) -> None:
        peer, owner = pair()
        owner.sock.shutdown(socket.SHUT_WR)
        peer.close()
        polls.watch(owner.sock, owner, 0)
        await asyncio.sleep(0.05)
        assert owner.told == []
        polls.forget(owner.sock)
        owner.sock.close()

    run(story)


def test_bytes_before_a_reset_can_be_read_and_then_it_is_told() -> None:
    async def story() -> None:
        polls = poller(asyncio.get_running_loop())
        peer, owner = pair()
        peer.sendall(b"x" * 250)
        reset(peer)
        polls.watch(owner.sock, owner, READ)
        await until(lambda: "reset" in owner.told or owner.told.count("readable") > 4)
        assert "reset" in owner.told
        polls.forget(owner.sock)
        owner.sock.close()

    uvloop.run(story())


def test_an_owner_that_fails_costs_the_others_nothing() -> None:
    async def story() -> None:
        failures: list[dict] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
        polls = poller(asyncio.get_running_loop())
        pairs = [pair() for _ in range(3)]
        for number, (_, owner) in enumerate(pairs):
            if number == 0:
                owner.broken = lambda: 1 / 0  # type: ignore[method-assign]
            polls.watch(owner.sock, owner, 0)
        for peer, _ in pairs:
            reset(peer)
        await until(lambda: all(owner.told == ["broken"] for _, owner in pairs[1:]))
        assert len(failures) == 1
        for _, owner in pairs:
            polls.forget(owner.sock)
            owner.sock.close()

    uvloop.run(story())
