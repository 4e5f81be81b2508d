"""What an agent does for whoever is at the other end of a link: looks up and dials from its pod."""

from __future__ import annotations

import asyncio
import time

from inroad.core import access, messages
from inroad.core.dial_policy import DialPolicy
from inroad.core.messages import AccessRequest, AccessTicket, Lookup, LookupReply
from inroad.origin.dial import Dialler
from inroad.origin.lookup import LookupService
from inroad.tunnel.api import Flow, FlowHandler, Link

MAX_LOOKUPS = 4_096
"""In flight, of all links together; one beyond it is answered with an error at once."""


class Service:
    """Lookups and dials, the same for every link. Needs a running loop.

    `agent`: this agent's id with the manager. `key`: given by the manager, for access tickets.
    """

    def __init__(self, policy: DialPolicy, agent: str = "", key: bytes = b"") -> None:
        self.key = key
        self._agent = agent
        self._dialler = Dialler(policy)
        self._lookups = LookupService()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def policy(self) -> DialPolicy:
        """What may be dialled, for all links."""
        return self._dialler.policy

    @policy.setter
    def policy(self, policy: DialPolicy) -> None:
        self._dialler.policy = policy

    def dial(self, flow: Flow, request: bytes) -> FlowHandler:
        """Begin what a flow's request asks for; returns the flow's handler."""
        return self._dialler.serve(flow, request)

    def look_up(self, link: Link, lookup: Lookup) -> None:
        """Answer a lookup over the link it came from."""
        if len(self._tasks) >= MAX_LOOKUPS:
            link.send_control(messages.encode(LookupReply(lookup.id, error="too many lookups in flight")))
            return
        task = asyncio.create_task(self._answer(link, lookup))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def ticket(self, request: AccessRequest) -> AccessTicket:
        """Return what shows the manager that a client came to this agent itself."""
        if not self.key:
            return AccessTicket(request.id, error="the traffic-manager has not admitted this agent yet")
        expires = int(time.time()) + access.LIFE
        proof = access.proof(self.key, request.session, self._agent, expires)
        return AccessTicket(request.id, self._agent, expires, proof)

    async def _answer(self, link: Link, lookup: Lookup) -> None:
        link.send_control(messages.encode(await self._lookups.answer(lookup)))
