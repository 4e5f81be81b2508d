"""When something is full: the pair to the daemon, the table of descriptors; and what tracking remembers."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from pathlib import Path

import pytest
from vif_stage import TARGET4, Stage, connect, stage

from inroad.host.vif import veth_linux, wire
from inroad.host.vif.outbox import Outbox

__all__ = ["stage"]


def pair() -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def numbers(sock: socket.socket) -> list[int]:
    """Read every record that is there now; return the flow numbers."""
    found = []
    while True:
        try:
            message = sock.recv(wire.MAX_MESSAGE)
        except BlockingIOError:
            return found
        found += [flow for _, flow, _ in wire.records(message)]


def test_events_wait_for_a_reader_in_order_and_none_is_lost() -> None:
    ours, theirs = pair()
    with ours, theirs:
        outbox = Outbox(ours)
        for number in range(50_000):
            assert outbox.put(wire.record(wire.CANCELLED, number))
        assert not outbox.flush()
        seen = []
        while outbox.pending:
            seen += numbers(theirs)
            outbox.flush()
        assert seen + numbers(theirs) == list(range(50_000))


def test_beyond_the_limit_the_newest_datagrams_are_refused() -> None:
    ours, theirs = pair()
    with ours, theirs:
        outbox = Outbox(ours, limit=100_000)
        taken = []
        for number in range(5_000):
            if outbox.put(wire.record(wire.DATAGRAM, number, bytes(1_000))):
                taken.append(number)
            outbox.flush()
        assert taken == list(range(len(taken)))
        assert len(taken) < 5_000
        seen = []
        while outbox.pending:
            seen += numbers(theirs)
            outbox.flush()
        assert seen + numbers(theirs) == taken


async def test_without_descriptors_connections_wait_and_then_arrive(stage: Stage) -> None:
    stage.daemon.serve = lambda sock: None
    client = await connect(TARGET4, 7)
    await stage.daemon.until(lambda: len(stage.daemon.sockets) == 1)
    second = socket.socket()
    second.setblocking(False)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir()) + 1
    spare = [os.dup(0) for _ in range(open_now)]  # fill the holes below the limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare) + 1, before[1]))
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(second, (TARGET4, 7)), 3)
        await asyncio.sleep(0.3)  # the kernel has it; accept() fails meanwhile
        assert len(stage.daemon.sockets) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in spare:
            os.close(fd)
    await stage.daemon.until(lambda: len(stage.daemon.sockets) == 2)
    client.close()
    second.close()


async def test_half_closed_connections_are_remembered_for_days(stage: Stage) -> None:
    if stage.mode != "veth":
        pytest.skip("only veth mode tracks connections")
    loop = asyncio.get_running_loop()
    (await connect(TARGET4, 7)).close()  # everything the daemon said at the start has been read by now

    def settings() -> dict[str, str]:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        inside = os.open(f"/proc/{stage.worker}/ns/net", os.O_RDONLY)
        try:
            with veth_linux.namespace_linux.visiting(inside, home):
                return {name: (Path("/proc/sys") / name).read_text().strip() for name in veth_linux.TRACKING}
        finally:
            os.close(home)
            os.close(inside)

    assert await loop.run_in_executor(None, settings) == veth_linux.TRACKING
