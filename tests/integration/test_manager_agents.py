"""The manager's agents over real links: admission, abuse of it, and agents that nobody wants any more."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from inroad.core import messages
from inroad.core.messages import AgentHello, AgentInfo, AgentKind, Agents, Hello, Holding, Problem, Welcome
from inroad.manager import clients as clients_module
from inroad.manager.access import AccessRule
from inroad.manager.agents import AgentRegistry
from inroad.manager.authority import SERVER_NAME, make
from inroad.manager.clients import Clients, Services
from inroad.manager.identity import NotNow, NotProved
from inroad.origin.dial import Dialler
from inroad.tunnel.stream import connect_stream
from inroad.tunnel.tls import TlsLink, connect_tls, serve_tls


async def nobody(*arguments: object) -> object:
    raise NotImplementedError


class Stage:
    """A manager's clients and agents, without a cluster; `verdict` is what comes of the next proof."""

    def __init__(self) -> None:
        self.rule = AccessRule(by_namespace=False, secret=b"secret")
        self.registry = AgentRegistry(self.prove, self.changed, self.rule)
        services = Services(Dialler(), nobody, self.registry, nobody, self.rule)
        self.clients = Clients("manager-0", services)
        self.proving = asyncio.Event()
        self.verdict: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.news = asyncio.Event()

    async def prove(self, hello: AgentHello, address: str) -> tuple[str, str]:
        self.proving.set()
        await asyncio.shield(self.verdict)
        return "deploy/web", "pass:1"

    def changed(self, agents: Agents) -> None:
        self.clients.publish_agents(agents)
        self.news.set()

    async def agent(self, kind: AgentKind = "ephemeral", first: bytes = b"") -> Agent:
        hello = messages.encode(AgentHello(1, "test", "shop", "web-1", "uid-1", kind, ticket="t"))
        agent = Agent()
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.load_verify_locations(cadata=self.ca)
        agent.link = await connect_tls(
            "127.0.0.1", self.port, trust, server_hostname=SERVER_NAME, setup=agent.set_up
        )
        agent.link.send_control(first or hello)
        return agent

    async def until(self, number: int) -> None:
        async with asyncio.timeout(10):
            while len(self.registry) != number:
                self.news.clear()
                await self.news.wait()


class Agent:
    """An agent's end."""

    link: TlsLink

    def __init__(self) -> None:
        self.heard: asyncio.Queue[messages.Control] = asyncio.Queue()
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def set_up(self, link: TlsLink) -> None:
        link.on_control = lambda payload: self.heard.put_nowait(messages.decode_control(payload))
        link.on_closed = self.closed.set_result

    async def next(self) -> messages.Control:
        return await asyncio.wait_for(self.heard.get(), 10)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    made = make(datetime.now(UTC), [SERVER_NAME])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.install(context)
    listener = socket.create_server(("127.0.0.1", 0))
    stage.ca, stage.port = made.ca, listener.getsockname()[1]
    servers = await serve_tls([listener], context, stage.registry.attach)
    yield stage
    stage.registry.close()
    for server in servers:
        server.close()


async def test_an_agent_is_admitted_once_it_is_proved(stage: Stage) -> None:
    agent = await stage.agent()
    await stage.proving.wait()
    assert len(stage.registry) == 0
    stage.verdict.set_result(None)
    welcome = await agent.next()
    assert isinstance(welcome, Welcome)
    assert (welcome.session, welcome.key) == ("pass:1", stage.rule.key("uid-1/ephemeral"))
    assert len(stage.registry) == 1
    agent.link.close()
    await stage.until(0)


@pytest.mark.parametrize(("error", "fatal"), [(NotProved("it is not"), True), (NotNow("who knows"), False)])
async def test_who_is_turned_away_knows_whether_to_come_again(
    stage: Stage, error: Exception, fatal: bool
) -> None:
    stage.verdict.set_exception(error)
    agent = await stage.agent()
    assert await agent.next() == Problem(f"not admitted: {error}", fatal)
    await asyncio.wait_for(agent.closed, 10)


@pytest.mark.parametrize("first", [b"\xc1", messages.encode(Hello(1, "no agent"))])
async def test_who_begins_with_something_else_is_turned_away(stage: Stage, first: bytes) -> None:
    agent = await stage.agent(first=first)
    problem = await agent.next()
    assert isinstance(problem, Problem) and problem.fatal
    await asyncio.wait_for(agent.closed, 10)
    assert not stage.proving.is_set()


async def test_who_goes_while_its_proof_is_looked_at_is_never_there(stage: Stage) -> None:
    agent = await stage.agent()
    await stage.proving.wait()
    agent.link.close()
    async with asyncio.timeout(10):
        while stage.registry._greeting:
            await asyncio.sleep(0)
    other = await stage.agent("sidecar")
    stage.verdict.set_result(None)
    assert isinstance(await other.next(), Welcome)
    assert [one.kind for one in stage.registry.current().agents] == ["sidecar"]


async def test_an_ephemeral_agent_that_nobody_claims_is_sent_home(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients_module, "ABSENCE", 0.2)
    stage.verdict.set_result(None)
    unwanted, sidecar = await stage.agent(), await stage.agent("sidecar")
    await asyncio.wait_for(unwanted.closed, 10)
    assert not sidecar.closed.done()
    await stage.until(1)
    assert [one.kind for one in stage.registry.current().agents] == ["sidecar"]


async def test_clients_hear_of_many_agents_at_once_not_of_each(stage: Stage) -> None:
    ours, theirs = socket.socketpair()
    workstation = await connect_stream(theirs)
    heard: list[Agents] = []
    news = asyncio.Event()

    def on_control(payload: bytes) -> None:
        message = messages.decode_control(payload)
        if isinstance(message, Agents):
            heard.append(message)
            news.set()

    workstation.on_control = on_control
    stage.clients.attach(await connect_stream(ours, client=False))
    workstation.send_control(messages.encode(Hello(1, "test", "shop")))
    await asyncio.wait_for(news.wait(), 10)
    agents = tuple(AgentInfo(str(number), "shop", f"web-{number}", "sidecar") for number in range(200))
    for number in range(len(agents)):
        stage.clients.publish_agents(Agents(agents[: number + 1]))
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        while heard[-1] != Agents(agents):
            news.clear()
            await news.wait()
    assert len(heard) < 50
    workstation.close()


async def test_one_that_is_claimed_stays(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients_module, "ABSENCE", 0.2)
    stage.verdict.set_result(None)
    ours, theirs = socket.socketpair()
    workstation = await connect_stream(theirs)
    stage.clients.attach(await connect_stream(ours, client=False))
    workstation.send_control(messages.encode(Hello(1, "test", "shop")))
    workstation.send_control(messages.encode(Holding(("uid-1/ephemeral",))))
    async with asyncio.timeout(10):
        while not any(client.held for client in stage.clients._clients):
            await asyncio.sleep(0)
    agent = await stage.agent()
    assert isinstance(await agent.next(), Welcome)
    timer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.4, timer.set_result, None)
    await timer  # later than the other one's
    assert not agent.closed.done()
    workstation.close()
