"""Where a connection or a lookup starts: the ordered rule, as one pure function that names its reason.

The first that applies decides, for lookups and dials alike and for every subnet of the VIF:

1. a virtual address bound to a workload (`--proxy-via`): that workload's agent, an error if there is none;
2. the pinned workload's or pod's agent (`--via`);
3. the agent of the only attachment;
4. an agent of the connected namespace;
5. the traffic-manager.

An agent that is gone is not in the set any more, so the next choice holds at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from inroad.core.messages import AgentInfo

KINDS = {"namespace": 0, "ephemeral": 1, "sidecar": 2}
"""Among several agents the one that was made for this is taken first; then by pod name."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a user names: `deploy/web`, `sts/db` or `pod/NAME`, in a namespace."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} in {self.namespace}"

    def owns(self, agent: AgentInfo) -> bool:
        """Tell whether the agent runs in (a pod of) this."""
        named = self.name in (agent.workload, f"pod/{agent.pod}")
        return agent.namespace == self.namespace and named


@dataclass(frozen=True, slots=True)
class Origin:
    """Who dials and looks up: the agent with this id, or the manager when it is empty; and why.

    `missing`: the workload that should have been the origin but has no agent; an error when `failed`.
    """

    agent: str
    reason: str
    missing: Workload | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Wishes:
    """What decides besides the agents there are."""

    namespace: str
    via: Workload | None = None
    attachments: tuple[Workload, ...] = ()


def choose(agents: Iterable[AgentInfo], wishes: Wishes, bound: Workload | None = None) -> Origin:
    """Choose the origin. `bound`: the workload to which the destination's virtual address is bound."""
    known = sorted(agents, key=lambda agent: (KINDS[agent.kind], agent.pod))
    if bound is not None:
        agent = _first(known, bound.owns)
        if agent is None:
            return Origin("", f"proxied via {bound}, which has no agent", missing=bound, failed=True)
        return Origin(agent.id, f"proxied via {bound}")
    missing = None
    if wishes.via is not None:
        agent = _first(known, wishes.via.owns)
        if agent is not None:
            return Origin(agent.id, f"pinned to {wishes.via}")
        missing = wishes.via
    elif len(wishes.attachments) == 1:
        agent = _first(known, wishes.attachments[0].owns)
        if agent is not None:
            return Origin(agent.id, f"attached to {wishes.attachments[0]}")
        missing = wishes.attachments[0]
    agent = _first(known, lambda agent: agent.namespace == wishes.namespace)
    if agent is not None:
        return Origin(agent.id, f"an agent of namespace {wishes.namespace}", missing)
    return Origin("", f"no agent in namespace {wishes.namespace}", missing)


def _first(agents: list[AgentInfo], wanted: Callable[[AgentInfo], bool]) -> AgentInfo | None:
    return next(filter(wanted, agents), None)


def warning(origin: Origin, wishes: Wishes) -> str:
    """Return what status has to say about a choice that may not be the one the user had in mind."""
    if origin.missing is not None:
        return f"{origin.missing} has no agent; the origin is: {origin.reason}"
    if len(wishes.attachments) > 1 and wishes.via is None:
        return "origin not pinned: several attachments; choose one with --via"
    return ""
