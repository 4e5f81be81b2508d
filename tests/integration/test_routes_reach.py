"""Trying whether the cluster answers past the VIF."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web
from names_stage import TableDns, serving

from inroad.core.host_config import FWMARK
from inroad.host.routes.reach import answers, resolves

LOOPS = ("asyncio", "uvloop")
Serve = Callable[[str], int]


@pytest.fixture
async def health() -> AsyncIterator[int]:
    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def other(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/other", other)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield int(runner.addresses[0][1])
    await runner.cleanup()


async def test_a_manager_that_answers(health: int) -> None:
    mark = FWMARK if os.geteuid() == 0 else 0
    assert await answers("127.0.0.1", health, mark=mark, timeout=2.0)


async def test_somebody_else_who_answers(health: int) -> None:
    assert not await answers("127.0.0.1", health, mark=0, timeout=2.0, path="/other")
    assert not await answers("127.0.0.1", health, mark=0, timeout=2.0, path="/missing")


async def test_nobody_and_silence() -> None:
    assert not await answers("127.0.0.1", 1, mark=0, timeout=2.0)
    assert not await answers("::1", 1, mark=0, timeout=2.0)
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    assert not await answers("127.0.0.1", port, mark=0, timeout=0.1)
    silent.close()


async def test_a_name_server_that_knows_the_cluster_and_others() -> None:
    mark = FWMARK if os.geteuid() == 0 else 0
    name = "kubernetes.default.svc.cluster.local"
    async with serving(TableDns({name: ["A 10.96.0.1"], "office": ["A 192.0.2.1"]}), "127.0.0.1", 15353):
        for asked, known in ((name, True), ("office", True), (f"{name}.office", False)):
            assert await resolves("127.0.0.1", asked, mark=mark, timeout=2.0, port=15353) == known
    assert not await resolves("127.0.0.1", name, mark=0, timeout=0.2, port=15353)
