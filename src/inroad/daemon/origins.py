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


def _place(agent: AgentInfo) -> tuple[str, str, str]:
    """Return what only one agent is at a time; a pod that comes again has another id."""
    return agent.namespace, agent.pod, agent.kind


class Origins:
    """Holds the agents there are and the user's wishes; `current` is the choice.

    There are those that the manager pushed last, and those to which a link of our own `lives`: a manager
    that has just begun does not know its agents yet.
    """

    def __init__(self, wishes: Wishes) -> None:
        self.wishes = wishes
        self.agents: tuple[AgentInfo, ...] = ()
        self.current: Origin = choose((), wishes)
        self.changed = Pulse()
        self.on_choice: list[Callable[[], None]] = []
        self.on_wishes: Callable[[], None] = lambda: None
        self.lives: Callable[[str], bool] = lambda agent: False
        self.problems: dict[str, str] = {}
        """Why agents, by id, may not be used although they are there."""
        self._pushed: tuple[AgentInfo, ...] = ()
        self._known: tuple[AgentInfo, ...] = ()

    def set_agents(self, agents: tuple[AgentInfo, ...], known: tuple[AgentInfo, ...] = ()) -> None:
        """Take the manager's newest set; `known` has those too that this session may not use (yet)."""
        self._pushed, self._known = agents, known
        self.look_again()

    def look_again(self) -> None:
        """Work out which agents there are; a link of our own may have ended."""
        places = {_place(agent) for agent in self._pushed}
        living = (one for one in self.agents if self.lives(one.id) and _place(one) not in places)
        agents = (*self._pushed, *living)
        if agents != self.agents:
            self.agents = agents
            self._choose()
        self.changed.fire()

    def set_wishes(self, wishes: Wishes) -> None:
        """Take the user's wishes."""
        self.wishes = wishes
        self._choose()
        self.on_wishes()

    def info(self, agent: str) -> AgentInfo | None:
        """Return what is known of the agent with this id; None when there is no such agent (any more)."""
        return next((one for one in self.agents if one.id == agent), None)

    def choose(self, bound: Workload | None = None, gone: str = "") -> Origin:
        """Choose for one flow; `bound` as in `core.origin`, `gone`: an agent that proved not to be there."""
        if bound is None and (not gone or self.current.agent != gone):
            return self.current
        return choose((agent for agent in self.agents if agent.id != gone), self.wishes, bound)

    def warning(self) -> str:
        """Return what status has to say about the choice, "" when it is what was asked for."""
        return next(iter(self.problems.values()), "") or warning(self.current, self.wishes)

    def holds(self) -> tuple[str, ...]:
        """Return the ids of the agents that the attachments use."""
        wanted = self.wishes.attachments
        held = (agent.id for agent in self._all() if any(one.owns(agent) for one in wanted))
        return tuple(dict.fromkeys(held))

    def has_agent(self, workload: Workload) -> bool:
        """Tell whether some agent runs in the workload."""
        return any(workload.owns(agent) for agent in self._all())

    def _all(self) -> tuple[AgentInfo, ...]:
        return (*self.agents, *self._known)

    def _choose(self) -> None:
        chosen = choose(self.agents, self.wishes)
        if chosen == self.current:
            return
        log.info("origin", agent=chosen.agent or "the traffic-manager", reason=chosen.reason)
        self.current = chosen
        for call in self.on_choice:
            call()
