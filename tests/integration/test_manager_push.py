"""What the traffic-manager pushes: to slow clients the newest state, to returning ones the current one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from inroad.core import messages
from inroad.core.messages import Agents, ClusterInfo, Hello, Subnet, Welcome
from inroad.manager.access import AccessRule
from inroad.manager.agents import AgentRegistry
from inroad.manager.clients import Clients, Services
from inroad.origin.dial import Dialler
from inroad.tunnel.api import Link
from inroad.tunnel.stream import connect_stream

STATES = 300
SUBNETS = tuple(Subnet(f"10.{n >> 8}.{n & 255}.0/24", "pod", "node podCIDR") for n in range(5_000))


def nobody(*arguments: object) -> object:
    raise NotImplementedError


class Client:
    """A workstation's end, which reads when it is told to."""

    def __init__(self, link: Link, session: str) -> None:
        self.link = link
        self.heard: list[messages.Control] = []
        self.news = asyncio.Event()
        link.on_control = self.control
        link.send_control(messages.encode(Hello(1, "test", "shop", session)))

    def control(self, payload: bytes) -> None:
        self.heard.append(messages.decode_control(payload))
        self.news.set()

    @property
    def generations(self) -> list[int]:
        return [one.generation for one in self.heard if isinstance(one, ClusterInfo)]

    async def until_generation(self, number: int) -> None:
        async with asyncio.timeout(20):
            while number not in self.generations:
                self.news.clear()
                await self.news.wait()


class Stage:
    """A manager's clients without a cluster."""

    def __init__(self) -> None:
        rule = AccessRule(by_namespace=False, secret=b"")
        registry = AgentRegistry(nobody, lambda agents: None, rule)
        self.clients = Clients("manager-0", Services(Dialler(), nobody, registry, nobody, rule))
        self.links: list[Link] = []

    async def connect(self, session: str = "") -> tuple[Client, socket.socket]:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        manager, workstation = await connect_stream(ours, client=False), await connect_stream(theirs)
        self.links += [manager, workstation]
        self.clients.attach(manager)
        return Client(workstation, session), theirs


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    for link in stage.links:
        link.close()


def state(generation: int) -> ClusterInfo:
    return ClusterInfo(generation, SUBNETS)


async def test_a_slow_client_gets_the_newest_state_and_never_a_queue_of_old_ones(stage: Stage) -> None:
    slow, sock = await stage.connect()
    quick, _ = await stage.connect()
    stage.clients.publish(state(1))
    await slow.until_generation(1)
    asyncio.get_running_loop().remove_reader(sock)
    for number in range(2, STATES + 1):
        stage.clients.publish(state(number))
        await quick.until_generation(number)
    asyncio.get_running_loop().add_reader(sock, slow.link.readable)
    await slow.until_generation(STATES)
    assert len(slow.generations) <= 4, "what had begun to go out, and the last one"
    assert slow.generations == sorted(slow.generations)
    assert quick.generations == list(range(1, STATES + 1))
    assert max(link.stats()["flows"] for link in stage.links) == 0


async def test_who_comes_back_gets_the_current_state_first(stage: Stage) -> None:
    first, _ = await stage.connect()
    stage.clients.publish(state(1))
    await first.until_generation(1)
    session = next(one.session for one in first.heard if isinstance(one, Welcome))
    first.link.close()
    stage.clients.publish(state(2))
    stage.clients.publish(state(3))
    again, _ = await stage.connect(session)
    await again.until_generation(3)
    stage.clients.publish(state(4))
    await again.until_generation(4)
    welcome, agents, *states = again.heard
    assert isinstance(welcome, Welcome) and welcome.session == session
    assert isinstance(agents, Agents)
    assert [one.generation for one in states if isinstance(one, ClusterInfo)] == [3, 4]
