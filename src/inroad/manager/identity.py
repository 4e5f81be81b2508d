"""Who an agent really is: a service-account token (`token_check`), or a ticket of ours.

A claim is only taken for what the proof says: the pod of the token (Kubernetes binds projected tokens to
their pod), or the pod for which a client asked for the ticket.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from inroad.core.messages import AgentHello, TicketRequest

TICKET_LIFE = 60.0
MAX_TICKETS = 1_000
"""Tickets that may be waiting for their agent; a client that asks for more is refused."""
PASS = "pass:"  # noqa: S105 - a prefix


class NotProved(Exception):
    """The agent is not who it claims to be; the text says why, in one line."""


class NotNow(NotProved):
    """It can't be found out at the moment; the agent may ask again."""


@dataclass(frozen=True, slots=True)
class _Issued:
    request: TicketRequest
    until: float


class Tickets:
    """Single-use proofs for pods into which a client is about to put an agent.

    An agent that used one gets a pass for its later links: an authentication code over its pod, made with
    `secret`, which all replicas share and which outlives a restart.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._secret = secret
        self._clock = clock
        self._issued: dict[str, _Issued] = {}

    def issue(self, request: TicketRequest) -> str:
        """Return a ticket for the pod of `request`; raises `NotProved` when too many are out."""
        now = self._clock()
        self._issued = {text: one for text, one in self._issued.items() if one.until > now}
        if len(self._issued) >= MAX_TICKETS:
            raise NotProved(f"{MAX_TICKETS} tickets are waiting for their agents already")
        ticket = secrets.token_urlsafe(24)
        self._issued[ticket] = _Issued(request, now + TICKET_LIFE)
        return ticket

    def redeem(self, hello: AgentHello) -> str:
        """Check and use up a ticket, or check a pass; returns the workload. Raises `NotProved`."""
        if hello.kind != "ephemeral":
            raise NotProved(f"tickets are for ephemeral agents; a {hello.kind} agent shows its token")
        if hello.ticket.startswith(PASS):
            if not _same(hello.ticket, self.pass_for(hello, hello.workload)):
                raise NotProved("the pass is not for the claimed pod")
            return hello.workload
        found = next((text for text in self._issued if _same(text, hello.ticket)), None)
        if found is None:
            raise NotProved("the ticket is unknown or was used already")
        issued = self._issued.pop(found)
        if issued.until <= self._clock():
            raise NotProved(f"the ticket is older than {TICKET_LIFE:.0f} s")
        asked = issued.request
        if (hello.namespace, hello.pod, hello.uid) != (asked.namespace, asked.pod, asked.uid):
            raise NotProved(f"the ticket is for pod {asked.namespace}/{asked.pod}, not for the claimed one")
        return asked.workload

    def pass_for(self, hello: AgentHello, workload: str) -> str:
        """Return the pass of an admitted agent."""
        text = "\0".join((hello.namespace, hello.pod, hello.uid, hello.kind, workload))
        return PASS + hmac.new(self._secret, text.encode(), "sha256").hexdigest()


def _same(left: str, right: str) -> bool:
    """Compare in a time that tells nothing; texts that are not ASCII may come from the network."""
    return hmac.compare_digest(left.encode(), right.encode())
