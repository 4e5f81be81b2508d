"""Agents reached past the traffic-manager: our own port-forward to the agent's pod, where RBAC allows it.

Such a link is made in the background, once the agent has been chosen as an origin; until it is there, and
whenever it can't be had, everything takes the way through the traffic-manager (the relay) and nothing waits.
A live link also proves that its agent lives, whatever happens to the traffic-manager meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import structlog

from inroad import __version__
from inroad.core import messages
from inroad.core.errors import Forbidden, InroadError
from inroad.core.messages import AgentInfo, Control, Hello, Lookup, LookupReply
from inroad.core.status import PathStatus
from inroad.daemon.manager_link import ManagerLink
from inroad.daemon.origins import Origins
from inroad.daemon.peer_link import PeerLink
from inroad.tunnel.api import Link
from inroad.tunnel.vigil import Vigil

FIRST_RETRY, LONGEST_RETRY = 0.5, 30.0
FORBIDDEN_RETRY = 60.0
"""Seconds until a right that was missing is tried again."""
LOOKUP_SHARE = 1_000
"""ms that an agent may take for a lookup before the next choice is asked."""

log = structlog.get_logger()

OpenAgent = Callable[[AgentInfo], Awaitable[Link]]
"""Make a connection to an agent's client port; raises `InroadError`."""


@dataclass(slots=True)
class _Way:
    """One agent: its link while there is one, and else why there is none."""

    keeper: asyncio.Task[None] | None = None
    peer: PeerLink | None = None
    vigil: Vigil | None = None
    reason: str = "a link of our own is being made"

    @property
    def answers(self) -> bool:
        """Whether there is a link, and the agent answers over it."""
        return self.peer is not None and self.vigil is not None and not self.vigil.mute


class Direct:
    """The session's links to agents. `allowed` tells whether the configuration lets it make any."""

    def __init__(self, open_agent: OpenAgent, origins: Origins, allowed: Callable[[], bool]) -> None:
        self._open_agent = open_agent
        self._origins = origins
        self._allowed = allowed
        self._ways: dict[str, _Way] = {}
        self._closed = False
        self.on_link: Callable[[], None] = lambda: None
        origins.lives = self.lives

    def link(self, agent: str) -> Link | None:
        """Return the link to an agent; None while there is none: it is being made then, if it may be."""
        peer = self._peer(agent)
        return peer.link if peer is not None else None

    def lives(self, agent: str) -> bool:
        """Tell whether there is a link to the agent."""
        way = self._ways.get(agent)
        return way is not None and way.answers

    def path(self, agent: str) -> PathStatus:
        """Return how an agent is reached and, where that is not directly, why."""
        if not self._allowed():
            return PathStatus("relayed", "cluster.agentPortForward is false")
        info = self._origins.info(agent)
        if info is not None and not info.port:
            return PathStatus("relayed", "the agent takes no clients itself")
        way = self._ways.get(agent)
        if way is not None and way.answers:
            return PathStatus("direct")
        return PathStatus("relayed", way.reason if way is not None else "not in use")

    def _peer(self, agent: str) -> PeerLink | None:
        if not agent or self._closed or not self._allowed():
            return None
        way = self._ways.get(agent)
        if way is None:
            info = self._origins.info(agent)
            if info is not None and info.port:
                way = self._ways[agent] = _Way()
                way.keeper = asyncio.create_task(self._keep(way, info))
            return None
        if not way.answers or way.vigil is None:
            return None
        way.vigil.asked()
        return way.peer

    def follow(self) -> None:
        """Make a link to the origin if it is an agent, and end those to agents that others have replaced."""
        self._peer(self._origins.current.agent)
        for agent, way in self._ways.items():
            if way.peer is not None and self._origins.info(agent) is None:
                way.peer.link.close("the agent was replaced")

    async def lookup(self, lookup: Lookup) -> LookupReply | None:
        """Have the agent `lookup.via` look up; None where it is not reached directly, or fails."""
        peer = self._peer(lookup.via)
        if peer is None:
            return None
        deadline = min(LOOKUP_SHARE, lookup.deadline)
        reply = await peer.lookup(msgspec.structs.replace(lookup, via="", deadline=deadline))
        return None if reply.error else reply

    async def _keep(self, way: _Way, agent: AgentInfo) -> None:
        """Keep a link to the agent for as long as the agent is known."""
        pause = FIRST_RETRY
        while self._origins.info(agent.id) is not None:
            try:
                ended = await self._connect(way, agent)
            except InroadError as error:
                if way.reason != str(error):
                    log.info("an agent is reached by the relay only", pod=agent.pod, reason=str(error))
                way.reason = str(error)
                pause = FORBIDDEN_RETRY if isinstance(error, Forbidden) else min(2 * pause, LONGEST_RETRY)
            else:
                way.reason = await ended
                pause = FIRST_RETRY
                self._origins.look_again()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
        del self._ways[agent.id]

    async def _connect(self, way: _Way, agent: AgentInfo) -> asyncio.Future[str]:
        """Make the link; returns what tells the reason when it has ended."""
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def on_closed(reason: str) -> None:
            if way.vigil is not None:
                way.vigil.close()
            way.peer = way.vigil = None
            ended.set_result(reason)

        async def open_lane() -> Link:
            return await self._open_agent(agent)

        link = await self._open_agent(agent)
        peer = PeerLink(link, f"agent {agent.pod}", open_lane, on_message=_unexpected, on_closed=on_closed)
        await peer.greet(Hello(messages.PROTOCOL_VERSION, __version__, agent.namespace))
        way.peer, way.vigil = peer, Vigil(link, lambda: self._mute(way), self._origins.look_again)
        log.info("linked to an agent", namespace=agent.namespace, pod=agent.pod)
        self.on_link()
        return ended

    def _mute(self, way: _Way) -> None:
        way.reason = "the agent does not answer"
        self._origins.look_again()

    async def close(self) -> None:
        """End every link orderly."""
        self._closed = True
        for way in self._ways.values():
            if way.keeper is not None:
                way.keeper.cancel()
            if way.vigil is not None:
                way.vigil.close()
            if way.peer is not None:
                way.peer.close("the session ends")


def _unexpected(message: Control) -> None:
    log.warning("not expected from an agent", message=type(message).__name__)


class OriginLookup:
    """Lookups by the origin: over a link of our own, else by way of the manager. An `AskCluster`."""

    def __init__(self, origins: Origins, direct: Direct, manager: ManagerLink) -> None:
        self._origins = origins
        self._direct = direct
        self._manager = manager

    async def __call__(
        self, query: bytes, *, namespace: str, deadline_ms: int, absolute: bool, bare: bool = True
    ) -> LookupReply:
        """Ask; a reply with `error` set when nobody answers in time."""
        end = asyncio.get_running_loop().time() + deadline_ms / 1000
        via = self._origins.current.agent
        lookup = Lookup(0, query, namespace, deadline_ms, absolute, bare, via)
        was_direct = self._direct.lives(via)
        reply = await self._direct.lookup(lookup)
        if reply is not None:
            return reply
        if was_direct and self._direct.lives(via):
            via = self._origins.choose(gone=via).agent  # silent or at a loss: the next choice
        left = max(int((end - asyncio.get_running_loop().time()) * 1000), 1)
        return await self._manager.lookup(msgspec.structs.replace(lookup, via=via, deadline=left))
