"""Tickets by which a client shows that it may reach an agent's own pod (`agentAccess: namespace`).

The manager gives each agent a key of its own. An agent makes tickets for clients that came to it by a
port-forward to its pod, so Kubernetes RBAC has let them through; the manager, knowing the key, checks them. A
ticket is for one session and one agent, and ends soon, because rights may be taken away.
"""

from __future__ import annotations

import hashlib
import hmac

LIFE = 300
"""Seconds that a ticket holds; a client fetches another one when half of that is over."""
SKEW = 60
"""Seconds by which the clocks of agent and manager may differ."""


def key_for(secret: bytes, agent: str) -> bytes:
    """Return an agent's key; `secret` is the managers'."""
    return _code(secret, "access key", agent)


def proof(key: bytes, session: str, agent: str, expires: int) -> bytes:
    """Return what makes a ticket: only who has the agent's key can. `expires`: seconds since the epoch."""
    return _code(key, session, agent, str(expires))


def objection(key: bytes, session: str, agent: str, expires: int, shown: bytes, now: float) -> str:
    """Return why a ticket is not taken, "" when it is."""
    if not hmac.compare_digest(shown, proof(key, session, agent, expires)):
        return "the ticket is not of that agent, or not for this session"
    if expires + SKEW <= now:
        return "the ticket has expired"
    if expires > now + LIFE + SKEW:
        return "the ticket is of the future; the clocks of agent and traffic-manager differ"
    return ""


def _code(key: bytes, *texts: str) -> bytes:
    return hmac.new(key, "\0".join(texts).encode(), hashlib.sha256).digest()
