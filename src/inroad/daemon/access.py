"""Which agents this session may use, where the manager demands a ticket from each agent's own pod.

That is the chart's `agentAccess: namespace` (`core.access`). Only agents that would be chosen are asked, by a
port-forward with the user's own rights; until the manager has taken the ticket, and where the user may not
port-forward, the agent does not count. Otherwise all agents count and nothing here happens.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable

import msgspec
import structlog

from inroad import __version__
from inroad.core import access, messages
from inroad.core.errors import Forbidden, InroadError, TunnelFailed
from inroad.core.messages import AccessRequest, AccessTicket, AgentInfo, Agents, Hello, Problem
from inroad.core.origin import Workload, choose
from inroad.daemon.origins import Origins
from inroad.tunnel.api import Link

ANSWER_TIMEOUT = 5.0
RETRY, FORBIDDEN_RETRY = 5.0, 60.0
"""Seconds until a ticket that could not be had is asked for again."""

log = structlog.get_logger()

Fetch = Callable[[AgentInfo], Awaitable[AccessTicket]]
"""Get a ticket from an agent's own pod; raises `InroadError`."""
Show = Callable[[AccessTicket], Awaitable[None]]
"""Show a ticket to the manager; raises `InroadError` when it is not taken."""


class AgentAccess:
    """Tells `origins` of the agents that may be used. `bound`: workloads to which subnets are bound."""

    def __init__(
        self,
        origins: Origins,
        fetch: Fetch,
        show: Show,
        bound: Callable[[], Iterable[Workload]] = lambda: (),
    ) -> None:
        self._origins = origins
        self._fetch = fetch
        self._show = show
        self._bound = bound
        self._agents: dict[str, AgentInfo] = {}
        self._demanded = False
        self._tickets: dict[str, AccessTicket] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        origins.on_wishes = self._seek

    def set_agents(self, pushed: Agents) -> None:
        """Take the manager's newest set."""
        self._agents = {agent.id: agent for agent in pushed.agents}
        self._demanded = pushed.access == "namespace"
        self._offer()
        self._seek()

    def close(self) -> None:
        """Seek no more."""
        for task in self._keepers.values():
            task.cancel()

    def _offer(self) -> None:
        known = tuple(self._agents.values())
        usable = tuple(agent for agent in known if not self._demanded or agent.id in self._tickets)
        self._origins.set_agents(usable, known)

    def _seek(self) -> None:
        """See to tickets of the agents that would be chosen now."""
        if not self._demanded:
            return
        problems = self._origins.problems
        candidates = [agent for agent in self._agents.values() if agent.port and agent.id not in problems]
        for bound in (None, *self._bound()):
            wanted = choose(candidates, self._origins.wishes, bound).agent
            if wanted and wanted not in self._keepers:
                self._keepers[wanted] = asyncio.create_task(self._keep(self._agents[wanted]))

    async def _keep(self, agent: AgentInfo) -> None:
        """Have a ticket of the agent for as long as the agent is known."""
        while agent.id in self._agents:
            pause = access.LIFE / 2
            try:
                ticket = await self._fetch(agent)
                await self._show(ticket)
            except InroadError as error:
                self._failed(agent, error)
                pause = FORBIDDEN_RETRY if isinstance(error, Forbidden) else RETRY
            else:
                self._tickets[agent.id] = ticket
                self._origins.problems.pop(agent.id, None)
                self._offer()
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))  # noqa: S311 - jitter, no secret
        for known in (self._keepers, self._tickets, self._origins.problems):
            known.pop(agent.id, None)

    def _failed(self, agent: AgentInfo, error: InroadError) -> None:
        """The agent can't be used (any more): the next choice holds."""
        problem = f"the agent in pod {agent.pod} of {agent.namespace} is not used: {error}"
        if self._origins.problems.get(agent.id) != problem:
            log.warning("no access to an agent", pod=agent.pod, reason=str(error))
        self._origins.problems[agent.id] = problem
        self._tickets.pop(agent.id, None)
        self._offer()
        self._seek()


async def fetch_ticket(link: Link, agent: AgentInfo, session: str) -> AccessTicket:
    """Get a ticket over a link to the agent, which is closed then; raises `TunnelFailed`."""
    answer: asyncio.Future[AccessTicket] = asyncio.get_running_loop().create_future()

    def fail(text: str) -> None:
        if not answer.done():
            answer.set_exception(TunnelFailed(f"the agent in pod {agent.pod} gave no ticket: {text}"))

    def on_control(payload: bytes) -> None:
        try:
            message = messages.decode_control(payload)
        except msgspec.MsgspecError as error:
            fail(str(error))
            return
        if isinstance(message, Problem):
            fail(message.message)
        elif isinstance(message, AccessTicket) and message.error:
            fail(message.error)
        elif isinstance(message, AccessTicket) and not answer.done():
            answer.set_result(message)

    link.on_control, link.on_closed = on_control, fail
    link.send_control(messages.encode(Hello(messages.PROTOCOL_VERSION, __version__, agent.namespace)))
    link.send_control(messages.encode(AccessRequest(1, session)))
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            return await answer
    except TimeoutError:
        raise TunnelFailed(f"the agent in pod {agent.pod} gave no ticket in {ANSWER_TIMEOUT:.0f} s") from None
    finally:
        link.close("done")
