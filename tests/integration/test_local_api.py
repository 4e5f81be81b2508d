"""The local API over both of its endpoints: a Unix socket, and (as on Windows) connections of another loop.

The pipe itself is Windows'. Here the second loop listens on a Unix socket in its place; all else is the same.
"""

from __future__ import annotations

import asyncio
import os
import stat
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from side_listener import listen_on

from inroad.cli.daemon_client import DaemonClient
from inroad.core.errors import ConnectedElsewhere, InroadError
from inroad.core.status import ConnectRequest, Outcome, Progress, Status, WorkloadList, WorkloadStatus
from inroad.daemon import choose, local_api
from inroad.daemon.local_api import LocalApi
from inroad.daemon.side_loop import SideLoop
from inroad.daemon.user_child import Peer


class Sessions:
    """Says who asked; connects when told to."""

    def __init__(self) -> None:
        self.asked: list[Peer] = []
        self.go = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def connect(self, request: ConnectRequest, peer: Peer, progress: asyncio.Queue[Any]) -> Outcome:
        self.asked.append(peer)
        progress.put_nowait(Progress("manager", "finding it", 1))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Outcome("connected", Status(connected=True, context=request.context), 2)

    async def quit(self, peer: Peer) -> Status:
        raise ConnectedElsewhere(f"the session does not belong to {peer.name}", "inroad status")

    async def status(self) -> Status:
        return Status(user="nobody")

    async def workloads(self, namespace: str, peer: Peer) -> WorkloadList:
        """A long answer: it does not fit any buffer on the way."""
        self.asked.append(peer)
        return WorkloadList(namespace, [WorkloadStatus(f"deploy/{n:06}", 1, 1) for n in range(20_000)])


def whoever(transport: asyncio.BaseTransport) -> tuple[int, bytes]:
    return 4711, b"S-1-5-21-1"


@pytest.fixture(params=["socket", "side"])
async def api(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Sessions, DaemonClient]]:
    path = tmp_path / "daemon.sock"
    if request.param == "side":

        async def open_endpoint(runner: Any, path: Path, owner: str, group: str) -> Any:
            side = SideLoop(asyncio.SelectorEventLoop, listen_on(path), whoever)
            await side.start(runner.server)
            return side.close

        monkeypatch.setattr(local_api, "open_endpoint", open_endpoint)
        monkeypatch.setattr(
            local_api, "caller", lambda transport: Peer(transport.get_extra_info("caller")[0], 0, (), "root")
        )
    sessions = Sessions()
    served = LocalApi(sessions)
    await served.start(path, "0")
    yield sessions, DaemonClient(str(path))
    await served.close()
    assert not any(thread.name == "local-api" for thread in __import__("threading").enumerate())


async def test_answers_and_failures(api: tuple[Sessions, DaemonClient]) -> None:
    _, client = api
    assert (await asyncio.to_thread(client.status)).user == "nobody"
    with pytest.raises(InroadError, match="the session does not belong to root"):
        await asyncio.to_thread(client.quit)


async def test_a_long_answer_arrives_whole(api: tuple[Sessions, DaemonClient]) -> None:
    sessions, client = api
    found = await asyncio.to_thread(client.workloads, "shop")
    assert found.workloads[-1].workload == "deploy/019999"
    assert len(found.workloads) == 20_000
    assert sessions.asked[0].uid in (os.getuid(), 4711)


async def test_progress_comes_while_there_is_no_outcome(api: tuple[Sessions, DaemonClient]) -> None:
    sessions, client = api
    lines = client.connect(ConnectRequest(context="kind"))
    first = await asyncio.to_thread(next, lines)
    assert isinstance(first, Progress)
    sessions.go.set()
    last = await asyncio.to_thread(next, lines)
    assert isinstance(last, Outcome)
    assert last.status.context == "kind"


async def test_a_caller_that_goes_away_cancels_what_it_asked_for(api: tuple[Sessions, DaemonClient]) -> None:
    sessions, client = api
    lines = client.connect(ConnectRequest())
    await asyncio.to_thread(next, lines)
    await asyncio.to_thread(lines.close)  # type: ignore[attr-defined]  # it is a generator
    await asyncio.wait_for(sessions.cancelled.wait(), 5)


async def test_many_callers_at_once(api: tuple[Sessions, DaemonClient]) -> None:
    _, client = api
    found = await asyncio.gather(*(asyncio.to_thread(client.status) for _ in range(30)))
    assert {one.user for one in found} == {"nobody"}


async def test_a_side_loop_that_can_not_listen_says_why(tmp_path: Path) -> None:
    side = SideLoop(asyncio.SelectorEventLoop, listen_on(tmp_path / "not" / "there"), whoever)
    with pytest.raises(OSError, match="No such file"):
        await side.start(asyncio.Protocol)
    await side.close()


async def test_only_the_owner_may_open_the_socket(tmp_path: Path) -> None:
    served = LocalApi(Sessions())
    await served.start(tmp_path / "daemon.sock", "65534")
    found = (tmp_path / "daemon.sock").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (65_534, 0o600)
    await served.close()
    assert not (tmp_path / "daemon.sock").exists()


def test_who_may_use_the_pipe() -> None:
    """FILE_GENERIC_READ, and all of writing but FILE_APPEND_DATA (4): to make an instance of the pipe."""
    assert choose.pipe_access("S-1-5-21-7") == "D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;0x12019b;;;S-1-5-21-7)"
    assert choose.pipe_access("").endswith("(A;;0x12019b;;;IU)")
    assert 0x12019B & 0x4 == 0


def test_who_calls_on_a_mac() -> None:
    """struct xucred, as sys/ucred.h has it: 76 bytes."""
    raw = struct.pack("=IIh2x16I", 0, 501, 2, 20, 80, *[0] * 14)
    assert len(raw) == choose.XUCRED.size == 76
    assert choose.unpack_xucred(raw) == (501, 20)
    with pytest.raises(PermissionError):
        choose.unpack_xucred(struct.pack("=IIh2x16I", 1, 501, 2, 20, 80, *[0] * 14))
