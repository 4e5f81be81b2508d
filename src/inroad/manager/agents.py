"""The traffic-agents of the cluster: admitted by proof, offered to clients, and reached through here.

A flow or lookup that a client wants `via` an agent is passed on to that agent's link. When an agent's
link ends its flows are reset with it, its lookups fail at once, and every client is told, so that the
next flow takes the next choice without waiting for anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import msgspec
import structlog

from inroad import __version__
from inroad.core import messages
from inroad.core.dial_policy import Network
from inroad.core.messages import AgentHello, AgentInfo, Agents, Dial, Lookup, LookupReply, Problem, Welcome
from inroad.manager.access import AccessRule
from inroad.manager.identity import NotNow, NotProved
from inroad.tunnel.api import Flow, FlowHandler, Link, Quiet, Refusal
from inroad.tunnel.splice import splice
from inroad.tunnel.tls import TlsLink
from inroad.tunnel.vigil import Vigil

HELLO_TIMEOUT = 10.0
AGENT_SHARE = 1.0
"""Seconds that an agent may take for a lookup before the next choice is asked."""
MAX_AGENTS = 5_000
MAX_GREETING = 1_024
"""Links that have not proved anything yet; more are closed at once, an agent comes again."""

DISMISSED = "no longer used"

log = structlog.get_logger()

Prove = Callable[[AgentHello, str], Awaitable[tuple[str, str]]]
"""Check a claim made from an address; returns the workload and a pass. Raises `NotProved`."""


@dataclass(slots=True)
class Agent:
    """An admitted agent and its link."""

    info: AgentInfo
    link: Link
    vigil: Vigil
    lookups: dict[int, asyncio.Future[LookupReply]] = field(default_factory=dict)


class AgentRegistry:
    """All admitted agents. `on_change` gets the whole new set.

    `rule`: which clients may use them. `allow`: what they may dial although it is loopback, link-local and
    the like.
    """

    def __init__(
        self,
        prove: Prove,
        on_change: Callable[[Agents], None],
        rule: AccessRule,
        allow: Iterable[Network] = (),
    ) -> None:
        self._prove = prove
        self._on_change = on_change
        self._rule = rule
        self._allow = tuple(map(str, allow))
        self._agents: dict[str, Agent] = {}
        self._greeting: set[asyncio.Task[None]] = set()
        self._ids = itertools.count(1)

    def __len__(self) -> int:
        return len(self._agents)

    def current(self) -> Agents:
        """Return the set as it is pushed to clients: the agents that answer."""
        agents = tuple(agent.info for agent in self._agents.values() if not agent.vigil.mute)
        return Agents(agents, "namespace" if self._rule.by_namespace else "manager")

    def attach(self, link: TlsLink) -> None:
        """Take over a new link; it must say who it is within `HELLO_TIMEOUT` seconds."""
        if len(self._greeting) >= MAX_GREETING:
            link.close("too many agents come at once")
            return
        hello: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def on_control(payload: bytes) -> None:
            if not hello.done():
                hello.set_result(payload)

        def on_closed(reason: str) -> None:
            del reason
            task.cancel()  # also while its proof is looked at: nobody would ever tell that it has gone

        link.on_control, link.on_closed = on_control, on_closed
        task = asyncio.create_task(self._admit(link, hello))
        self._greeting.add(task)
        task.add_done_callback(self._greeting.discard)

    async def _admit(self, link: TlsLink, hello: asyncio.Future[bytes]) -> None:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT):
                payload = await hello
            message = messages.decode_control(payload)
            if not isinstance(message, AgentHello):
                raise NotProved("the first message is no agent-hello")
            if message.version < messages.OLDEST_VERSION:
                raise NotProved(f"it speaks protocol {message.version}, older than {messages.OLDEST_VERSION}")
            if len(self._agents) >= MAX_AGENTS:
                raise NotProved(f"{MAX_AGENTS} agents are registered already")
            workload, pass_ = await self._prove(message, link.peer)
        except (NotProved, msgspec.MsgspecError, TimeoutError) as error:
            text = str(error) or f"it said nothing for {HELLO_TIMEOUT:.0f} s"
            log.warning("an agent was turned away", address=link.peer, reason=text)
            fatal = not isinstance(error, NotNow)
            link.send_control(messages.encode(Problem(f"not admitted: {text}", fatal=fatal)))
            link.close("not admitted")
            return
        except asyncio.CancelledError:
            return
        self._register(link, message, workload, pass_)

    def _register(self, link: TlsLink, hello: AgentHello, workload: str, pass_: str) -> None:
        # one agent of a kind per pod: one that comes back replaces a link that has not yet died
        number = messages.agent_id(hello.uid, hello.kind)
        old = self._agents.pop(number, None)
        if old is not None:
            old.link.close("the agent has connected anew")
        addresses = (link.peer,) if link.peer else ()
        info = AgentInfo(number, hello.namespace, hello.pod, hello.kind, workload, addresses, hello.port)
        vigil = Vigil(link, lambda: self._mute(agent), lambda: self._back(agent))
        agent = self._agents[number] = Agent(info, link, vigil)
        link.on_control = lambda payload: self._on_control(agent, payload)
        link.on_closed = lambda reason: self._gone(agent, reason)
        welcome = Welcome(
            messages.PROTOCOL_VERSION, __version__, pass_, allow=self._allow, key=self._rule.key(number)
        )
        link.send_control(messages.encode(welcome))
        log.info(
            "agent admitted", namespace=hello.namespace, pod=hello.pod, kind=hello.kind, workload=workload
        )
        self._on_change(self.current())

    def _mute(self, agent: Agent) -> None:
        """It does not answer: nobody is to start there until it does."""
        log.warning("agent does not answer", namespace=agent.info.namespace, pod=agent.info.pod)
        self._fail_lookups(agent, "the agent does not answer")
        self._on_change(self.current())

    def _back(self, agent: Agent) -> None:
        log.info("agent answers again", namespace=agent.info.namespace, pod=agent.info.pod)
        self._on_change(self.current())

    def _fail_lookups(self, agent: Agent, reason: str) -> None:
        for number, future in agent.lookups.items():
            if not future.done():
                future.set_result(LookupReply(number, error=reason))

    def _gone(self, agent: Agent, reason: str) -> None:
        agent.vigil.close()
        self._fail_lookups(agent, "the agent has gone")
        if self._agents.get(agent.info.id) is agent:
            del self._agents[agent.info.id]
            log.info("agent gone", namespace=agent.info.namespace, pod=agent.info.pod, reason=reason)
            self._on_change(self.current())

    def _on_control(self, agent: Agent, payload: bytes) -> None:
        try:
            message = messages.decode_control(payload)
        except msgspec.MsgspecError as error:
            log.warning("message from an agent not understood", pod=agent.info.pod, error=str(error))
            return
        if isinstance(message, LookupReply):
            future = agent.lookups.get(message.id)
            if future is not None and not future.done():
                future.set_result(message)

    def open(self, flow: Flow, dial: Dial) -> FlowHandler:
        """Have the agent `dial.via` dial for a client's flow."""
        agent = self._agents.get(dial.via)
        if agent is None or agent.vigil.mute:
            flow.refuse(Refusal.LINK_DOWN, "the agent has gone")
            return Quiet()
        agent.vigil.asked()
        request = msgspec.structs.replace(dial, via="")
        return splice(flow, agent.link, messages.encode(request))

    async def look_up(self, lookup: Lookup) -> LookupReply | None:
        """Have the agent `lookup.via` ask; None when it is gone or silent: ask the next choice."""
        agent = self._agents.get(lookup.via)
        if agent is None or agent.vigil.mute:
            return None
        agent.vigil.asked()
        number = next(self._ids)
        future: asyncio.Future[LookupReply] = asyncio.get_running_loop().create_future()
        agent.lookups[number] = future
        share = min(AGENT_SHARE, lookup.deadline / 1000)
        request = msgspec.structs.replace(lookup, id=number, via="", deadline=int(share * 1000))
        agent.link.send_control(messages.encode(request))
        reply = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(share):
                reply = await future
        agent.lookups.pop(number, None)
        if reply is None or reply.error:
            return None
        return msgspec.structs.replace(reply, id=lookup.id)

    def dismiss(self, number: str) -> None:
        """Send an ephemeral agent home: nobody uses it any more, and its container can't be removed."""
        agent = self._agents.get(number)
        if agent is not None and agent.info.kind == "ephemeral":
            log.info("agent dismissed", namespace=agent.info.namespace, pod=agent.info.pod)
            agent.link.send_control(messages.encode(Problem(DISMISSED, fatal=True)))
            agent.link.close(DISMISSED)

    def close(self) -> None:
        """End every link orderly."""
        for task in self._greeting:
            task.cancel()
        for agent in list(self._agents.values()):
            agent.link.close("the traffic-manager shuts down")
