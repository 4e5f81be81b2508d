"""Who may use an agent: every client, or, with `agentAccess: namespace`, who shows a ticket of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from inroad.core import access
from inroad.core.messages import AccessTicket

MAX_ADMISSIONS = 1_000
"""Agents that one client may have shown tickets of."""


class AccessRule:
    """The rule of this manager. `secret` is shared by all replicas; `clock`: seconds since the epoch."""

    def __init__(self, *, by_namespace: bool, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self.by_namespace = by_namespace
        self.secret = secret
        self.clock = clock

    def key(self, agent: str) -> bytes:
        """Return what the agent makes tickets with."""
        return access.key_for(self.secret, agent)


class Admissions:
    """The agents that one client may use."""

    def __init__(self, rule: AccessRule) -> None:
        self._rule = rule
        self._until: dict[str, float] = {}

    def show(self, session: str, ticket: AccessTicket) -> str:
        """Take a ticket; returns why it is not taken, "" when it is."""
        rule = self._rule
        now = rule.clock()
        shown = (session, ticket.agent, ticket.expires, ticket.proof)
        objection = access.objection(rule.key(ticket.agent), *shown, now)
        if objection:
            return objection
        self._until = {agent: until for agent, until in self._until.items() if until > now}
        if len(self._until) >= MAX_ADMISSIONS and ticket.agent not in self._until:
            return f"tickets of {MAX_ADMISSIONS} agents were shown already"
        self._until[ticket.agent] = ticket.expires + access.SKEW
        return ""

    def objection(self, agent: str) -> str:
        """Return why an agent may not be used now, "" when it may."""
        if not self._rule.by_namespace or self._until.get(agent, 0.0) > self._rule.clock():
            return ""
        return "agentAccess is namespace: a ticket from the agent's own pod is needed"
