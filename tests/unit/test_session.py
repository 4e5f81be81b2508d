"""A session whose host refuses for a while."""

from __future__ import annotations

import asyncio

import pytest

from inroad.core.errors import HostChangeFailed
from inroad.daemon import session as module
from inroad.daemon.cluster_view import ClusterView
from inroad.daemon.relay import Relay
from inroad.daemon.session import Session
from inroad.daemon.settings import Settings


class Refused(Session):
    """Only what following needs; `refusals` are raised one after the other."""

    def __init__(self, *refusals: Exception) -> None:
        self.cluster = ClusterView("shop", Settings())
        self.relay = Relay()
        self.relay.vif = object()
        self.host_problems: list[str] = []
        self.told: list[str] = []
        self.done = asyncio.Event()
        self._refusals = list(refusals)

    async def update_host(self) -> None:
        self.told += self.host_problems
        if self._refusals:
            raise self._refusals.pop(0)
        self.done.set()


async def test_what_the_host_refused_is_tried_again_and_told_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.001)
    session = Refused(OSError("no buffers"), HostChangeFailed("the kernel refused a route"))
    following = asyncio.create_task(session._follow())
    session.cluster.changed.set()
    async with asyncio.timeout(5):
        await session.done.wait()
    assert session.told == ["no buffers", "the kernel refused a route"]
    assert session.host_problems == []
    following.cancel()
