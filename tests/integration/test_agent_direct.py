"""Clients that come to an agent itself: a raw mux client on its loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from tunnel_stage import LOOPBACK, Target, Verdict

from inroad.agent.direct import MAX_LINKS, Direct
from inroad.agent.serving import Service
from inroad.core import messages
from inroad.core.dial_policy import DialPolicy
from inroad.core.flows import Refusal
from inroad.core.messages import Dial, Hello, Lookup, LookupReply, Problem, Welcome
from inroad.tunnel.stream import connect_stream


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextlib.asynccontextmanager
async def agent(policy: DialPolicy) -> AsyncIterator[Direct]:
    direct = Direct("web-1", Service(policy))
    await direct.start(free_port())
    assert direct.port
    try:
        yield direct
    finally:
        direct.close()


class Raw:
    """A client that sends what the test wants."""

    @classmethod
    async def to(cls, direct: Direct) -> Raw:
        raw = cls()
        raw.heard = asyncio.Queue()
        raw.closed = asyncio.get_running_loop().create_future()
        raw.link = await connect_stream(socket.create_connection(("127.0.0.1", direct.port)))
        raw.link.on_control = lambda payload: raw.heard.put_nowait(messages.decode_control(payload))
        raw.link.on_closed = raw.closed.set_result
        return raw

    async def say(self, message):
        self.link.send_control(messages.encode(message))
        return await asyncio.wait_for(self.heard.get(), 5)

    async def hello(self, **more) -> Welcome:
        return await self.say(Hello(messages.PROTOCOL_VERSION, "test", **more))

    async def dial(self, host: str, port: int, transport: str = "tcp"):
        verdict = Verdict()
        self.link.open(messages.encode(Dial(transport, host, port)), verdict)
        return await asyncio.wait_for(verdict.future, 5)


async def test_it_dials_and_looks_up_for_who_says_hello() -> None:
    async with agent(LOOPBACK) as direct:
        raw = await Raw.to(direct)
        welcome = await raw.hello()
        assert isinstance(welcome, Welcome)
        assert welcome.pod == "web-1"
        with Target() as target:
            assert await raw.dial("127.0.0.1", target.port) == "opened"
        reply = await raw.say(Lookup(7, b"no dns message", ""))
        assert isinstance(reply, LookupReply)
        assert (reply.id, bool(reply.error)) == (7, True)


async def test_nothing_is_done_before_hello() -> None:
    async with agent(LOOPBACK) as direct:
        raw = await Raw.to(direct)
        with Target() as target:
            assert await raw.dial("127.0.0.1", target.port) == Refusal.NOT_ALLOWED
        assert isinstance(await raw.say(Lookup(7, b"", "")), Problem)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("169.254.169.254", 80),
        ("127.0.0.1", 15000),
        ("::ffff:127.0.0.1", 15000),
        ("64:ff9b::a9fe:a9fe", 80),
        ("0.0.0.0", 15000),
        ("224.0.0.251", 5353),
        ("255.255.255.255", 9),
    ],
)
async def test_a_raw_client_can_not_reach_what_is_the_pods_own(host: str, port: int, transport: str) -> None:
    async with agent(DialPolicy()) as direct:
        raw = await Raw.to(direct)
        await raw.hello()
        assert await raw.dial(host, port, transport) == Refusal.NOT_ALLOWED


async def test_a_second_connection_becomes_the_bulk_lane_of_its_session_and_no_other() -> None:
    async with agent(LOOPBACK) as direct:
        raw, bulk, stranger = await Raw.to(direct), await Raw.to(direct), await Raw.to(direct)
        session = (await raw.hello(session="mine")).session
        assert session != "mine"
        assert isinstance(await bulk.hello(session=session, lane="bulk"), Welcome)
        raw.link.adopt(bulk.link)
        assert raw.link.stats()["lanes"] == 2
        problem = await stranger.hello(session="mine", lane="bulk")
        assert isinstance(problem, Problem) and problem.fatal
        await asyncio.wait_for(stranger.closed, 10)


async def test_a_client_of_another_time_is_told_so() -> None:
    async with agent(LOOPBACK) as direct:
        raw = await Raw.to(direct)
        problem = await raw.say(Hello(0, "0.0.1"))
        assert isinstance(problem, Problem) and "not spoken here" in problem.message


async def test_connections_are_bounded() -> None:
    async with agent(LOOPBACK) as direct:
        many = [await Raw.to(direct) for _ in range(MAX_LINKS + 1)]
        await asyncio.wait({raw.closed for raw in many}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert sum(raw.closed.done() for raw in many) == 1
        for raw in many:
            raw.link.close()


async def test_a_pod_with_two_agents_has_one_that_takes_clients() -> None:
    async with agent(LOOPBACK) as direct:
        second = Direct("web-1", Service(LOOPBACK))
        await second.start(direct.port)
        assert second.port == 0
        direct.close()
        await second.start(direct.port)
        assert second.port == direct.port
        second.close()
