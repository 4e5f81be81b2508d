"""Links to agents past the manager: made in the background, waited for by nobody, given up in silence."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from inroad.core import messages
from inroad.core.errors import Forbidden
from inroad.core.messages import AgentInfo, Hello, Lookup, LookupReply, Welcome
from inroad.core.origin import Wishes
from inroad.daemon.direct import Direct, OriginLookup
from inroad.daemon.origins import Origins

SHOP = AgentInfo("a-shop", "shop", "traffic-agent-1", "namespace", port=15703)
WEB = AgentInfo("a-web", "shop", "web-1", "ephemeral", "deploy/web", port=15703)


class FakeLink:
    """A link to an agent that greets, and answers lookups with `reply` unless that is None."""

    def __init__(self, reply=b"direct"):
        self.reply = reply
        self.closed = ""

    def send_control(self, payload):
        match messages.decode_control(payload):
            case Hello():
                self.say(Welcome(1, "test", "session"))
            case Lookup() as lookup if self.reply is not None:
                self.say(LookupReply(lookup.id, self.reply))

    def say(self, message):
        asyncio.get_running_loop().call_soon(lambda: self.on_control(messages.encode(message)))

    def heard(self):
        return float("inf")

    def adopt(self, bulk):
        pass

    def close(self, reason=""):
        self.closed = reason

    def end(self, reason):
        self.on_closed(reason)


class Stage:
    """Two agents of `shop`, their links, and what the manager was asked."""

    def __init__(self):
        self.opened, self.links, self.asked = [], [], []
        self.problem = None
        self.reply = b"direct"
        self.allowed = True
        self.origins = Origins(Wishes("shop"))
        self.direct = Direct(self.open, self.origins, lambda: self.allowed)
        self.up = asyncio.Event()
        self.direct.on_link = self.up.set
        self.lookup = OriginLookup(self.origins, self.direct, SimpleNamespace(lookup=self.ask_manager))
        self.origins.set_agents((SHOP, WEB))

    async def open(self, agent):
        self.opened.append(agent.pod)
        if self.problem:
            raise self.problem
        self.links.append(FakeLink(self.reply))
        return self.links[-1]

    async def ask_manager(self, lookup):
        self.asked.append(lookup.via)
        return LookupReply(0, b"relayed")

    async def ask(self):
        reply = await self.lookup(b"query", namespace="shop", deadline_ms=100, absolute=False)
        return reply.reply


@pytest.fixture
async def stage():
    stage = Stage()
    yield stage
    await stage.direct.close()


async def test_nobody_waits_for_the_link_and_then_it_is_used(stage):
    assert stage.direct.link("a-shop") is None
    assert await stage.ask() == b"relayed"
    await asyncio.wait_for(stage.up.wait(), 5)
    assert stage.direct.link("a-shop") is stage.links[0]
    assert await stage.ask() == b"direct"
    assert stage.asked == ["a-shop"]
    assert str(stage.direct.path("a-shop")) == "direct"
    assert str(stage.direct.path("a-web")) == "relayed (not in use)"


async def test_a_missing_right_is_told_and_everything_is_relayed(stage):
    stage.problem = Forbidden("no right to port-forward")
    stage.direct.link("a-shop")
    while "no right" not in stage.direct.path("a-shop").reason:
        await asyncio.sleep(0)
    assert await stage.ask() == b"relayed"
    assert set(stage.opened) == {"traffic-agent-1"}


async def test_the_configuration_turns_it_off_for_what_is_new(stage):
    stage.direct.link("a-shop")
    await asyncio.wait_for(stage.up.wait(), 5)
    stage.allowed = False
    assert stage.direct.link("a-shop") is None
    assert str(stage.direct.path("a-shop")) == "relayed (cluster.agentPortForward is false)"


async def test_a_silent_agent_is_passed_over_for_the_next_choice(stage):
    stage.reply = None
    stage.direct.link("a-shop")
    await asyncio.wait_for(stage.up.wait(), 5)
    assert await stage.ask() == b"relayed"
    assert stage.asked == ["a-web"]


async def test_a_link_that_ends_falls_back_at_once_and_no_longer_proves_the_agent(stage):
    stage.direct.link("a-shop")
    await asyncio.wait_for(stage.up.wait(), 5)
    stage.origins.set_agents((WEB,))
    assert stage.origins.current.agent == "a-shop", "the link proves that it lives"
    stage.links[0].end("the peer closed the connection")
    assert stage.direct.link("a-shop") is None
    while stage.origins.current.agent != "a-web":
        await asyncio.sleep(0)
