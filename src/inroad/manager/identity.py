"""Who an agent really is: a service-account token checked by the API server, or a ticket of ours.

A claim is only taken for what the proof says: the pod of the token (Kubernetes binds projected tokens to
their pod), or the pod for which a client asked for the ticket.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from inroad.core.errors import InroadError
from inroad.core.messages import TOKEN_AUDIENCE, AgentHello, TicketRequest

TICKET_LIFE = 60.0
MAX_TICKETS = 1_000
"""Tickets that may be waiting for their agent; a client that asks for more is refused."""
PASS = "pass:"  # noqa: S105 - a prefix
POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"


class NotProved(Exception):
    """The agent is not who it claims to be; the text says why, in one line."""


class Reviewer(Protocol):
    """Creates objects through the Kubernetes API."""

    async def create(self, path: str, body: Any) -> bytes:
        """Create an object; returns the answer's body; raises `InroadError`."""


class _User(msgspec.Struct):
    username: str = ""
    extra: dict[str, list[str]] = {}


class _ReviewStatus(msgspec.Struct):
    authenticated: bool = False
    user: _User = msgspec.field(default_factory=_User)
    audiences: list[str] = []
    error: str = ""


class _Review(msgspec.Struct):
    status: _ReviewStatus


_review = msgspec.json.Decoder(_Review)


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
        if hello.ticket.startswith(PASS):
            if not hmac.compare_digest(hello.ticket, self.pass_for(hello, hello.workload)):
                raise NotProved("the pass is not for the claimed pod")
            return hello.workload
        found = next((text for text in self._issued if hmac.compare_digest(text, hello.ticket)), None)
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


async def check_token(api: Reviewer, hello: AgentHello) -> None:
    """Have the API server review the agent's token; raises `NotProved` when it says another pod."""
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": hello.token, "audiences": [TOKEN_AUDIENCE]},
    }
    try:
        answer = await api.create("/apis/authentication.k8s.io/v1/tokenreviews", body)
        status = _review.decode(answer).status
    except (InroadError, msgspec.MsgspecError) as error:
        raise NotProved(f"the token could not be reviewed: {error}") from None
    if not status.authenticated or TOKEN_AUDIENCE not in status.audiences:
        raise NotProved(f"the API server does not accept the token: {status.error or 'not authenticated'}")
    account = status.user.username.split(":")
    namespace = account[2] if account[:2] == ["system", "serviceaccount"] and len(account) == 4 else ""
    proved = (namespace, *(status.user.extra.get(key, [""])[0] for key in (POD_NAME, POD_UID)))
    if proved != (hello.namespace, hello.pod, hello.uid):
        raise NotProved(f"the token is of pod {proved[0]}/{proved[1]}, not of the claimed one")
