"""Who answers a client's lookup: its agent, else the next agent of its namespace, else the manager."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from inroad.core import messages
from inroad.core.messages import AgentInfo, Agents, Hello, Lookup, LookupReply
from inroad.manager.access import AccessRule
from inroad.manager.clients import Clients, Services

FIRST = AgentInfo("a-1", "shop", "traffic-agent-1", "namespace")
SECOND = AgentInfo("a-2", "shop", "web-1", "sidecar", "deploy/web")
OTHER = AgentInfo("a-3", "other", "x-1", "sidecar", "deploy/x")


class FakeAgents:
    """Agents of which some do not answer; `asked` holds those that were asked, in order."""

    def __init__(self, silent):
        self.silent = silent
        self.asked = []

    def current(self):
        return Agents((OTHER, FIRST, SECOND))

    async def look_up(self, lookup):
        self.asked.append(lookup.via)
        return None if lookup.via in self.silent else LookupReply(lookup.id, lookup.via.encode())


class FakeLink:
    """A client's link that keeps what it is sent."""

    def __init__(self):
        self.replies = asyncio.Queue()

    def send_control(self, payload, state=""):
        message = messages.decode_control(payload)
        if isinstance(message, LookupReply):
            self.replies.put_nowait(message.reply)


@pytest.mark.parametrize(
    ("silent", "asked", "reply"),
    [
        ((), ["a-1"], b"a-1"),
        (("a-1",), ["a-1", "a-2"], b"a-2"),
        (("a-1", "a-2"), ["a-1", "a-2"], b"manager"),
    ],
)
async def test_an_agent_that_fails_is_passed_over(silent, asked, reply):
    async def answer(lookup):
        return LookupReply(lookup.id, b"manager")

    agents, link = FakeAgents(silent), FakeLink()
    rule = AccessRule(by_namespace=False, secret=b"")
    clients = Clients("manager-0", Services(SimpleNamespace(), answer, agents, None, rule))
    clients.attach(link)
    link.on_control(messages.encode(Hello(1, "test", "shop")))
    link.on_control(messages.encode(Lookup(7, b"query", "shop", via="a-1")))
    assert await asyncio.wait_for(link.replies.get(), 5) == reply
    assert agents.asked == asked
