"""The session's origin: who dials and looks up for it, as agents come and go and the user wishes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from inroad.core.messages import AgentInfo
from inroad.core.origin import Origin, Wishes, Workload, choose, warning

log = structlog.get_logger()


class Pulse:
    """Wakes everybody who waits at the moment it fires; nobody who comes later."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next `fire`."""
        await self._event.wait()

    def fire(self) -> None:
        """Wake those who wait."""
        event, self._event = self._event, asyncio.Event()
        event.set()


class Origins:
    """Holds the agents that the manager pushed and the user's wishes; `current` is the choice."""

    def __init__(self, wishes: Wishes) -> None:
        self.wishes = wishes
        self.agents: tuple[AgentInfo, ...] = ()
        self.current: Origin = choose((), wishes)
        self.changed = Pulse()
        self.on_change: Callable[[], None] = lambda: None

    def set_agents(self, agents: tuple[AgentInfo, ...]) -> None:
        """Take the manager's newest set."""
        self.agents = agents
        self._choose()
        self.changed.fire()

    def set_wishes(self, wishes: Wishes) -> None:
        """Take the user's wishes."""
        self.wishes = wishes
        self._choose()

    def agent(self) -> str:
        """Return the id of the agent that looks up, "" for the manager."""
        return self.current.agent

    def agent_but(self, gone: str) -> str:
        """Return the id of the agent that dials; `gone` has just turned out not to be there."""
        if gone and self.current.agent == gone:
            return choose((agent for agent in self.agents if agent.id != gone), self.wishes).agent
        return self.current.agent

    def bound(self, workload: Workload) -> str:
        """Return the id of the agent for a virtual address bound to `workload`, "" when there is none."""
        return choose(self.agents, self.wishes, workload).agent

    def warning(self) -> str:
        """Return what status has to say about the choice, "" when it is what was asked for."""
        return warning(self.current, self.wishes)

    def holds(self) -> tuple[str, ...]:
        """Return the ids of the agents that the attachments use."""
        return tuple(
            agent.id for agent in self.agents if any(one.owns(agent) for one in self.wishes.attachments)
        )

    def has_agent(self, workload: Workload) -> bool:
        """Tell whether some agent runs in the workload."""
        return any(workload.owns(agent) for agent in self.agents)

    def _choose(self) -> None:
        chosen = choose(self.agents, self.wishes)
        if chosen == self.current:
            return
        log.info("origin", agent=chosen.agent or "the traffic-manager", reason=chosen.reason)
        self.current = chosen
        self.on_change()
