"""`agentAccess: namespace`: tickets and who takes them, and a session that seeks the ones it needs."""

from __future__ import annotations

import asyncio

import pytest

from inroad.agent.serving import Service
from inroad.core import access
from inroad.core.dial_policy import DialPolicy
from inroad.core.errors import Forbidden, TunnelFailed
from inroad.core.messages import AccessRequest, AccessTicket, AgentInfo, Agents
from inroad.core.origin import Wishes, Workload
from inroad.daemon.access import AgentAccess
from inroad.daemon.origins import Origins
from inroad.manager.access import MAX_ADMISSIONS, AccessRule, Admissions

NOW = 1_800_000_000.0
KEY = access.key_for(b"secret", "uid-1/sidecar")


def ticket(session="s1", agent="uid-1/sidecar", expires=int(NOW) + access.LIFE, key=KEY):
    return AccessTicket(1, agent, expires, access.proof(key, session, agent, expires))


def rule(*, by_namespace=True):
    return AccessRule(by_namespace=by_namespace, secret=b"secret", clock=lambda: NOW)


def test_who_shows_a_ticket_may_use_that_agent_for_a_while() -> None:
    rule_ = rule()
    admissions = Admissions(rule_)
    assert "a ticket" in admissions.objection("uid-1/sidecar")
    assert admissions.show("s1", ticket()) == ""
    assert admissions.objection("uid-1/sidecar") == ""
    assert admissions.objection("uid-2/sidecar")
    rule_.clock = lambda: NOW + access.LIFE + access.SKEW
    assert admissions.objection("uid-1/sidecar")


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (ticket(session="s2"), "not for this session"),
        (ticket(agent="uid-2/sidecar"), "not of that agent"),
        (ticket(key=access.key_for(b"other", "uid-1/sidecar")), "not of that agent"),
        (ticket(key=b""), "not of that agent"),
        (AccessTicket(1, "uid-1/sidecar", int(NOW) + 10, b""), "not of that agent"),
        (ticket(expires=int(NOW) - access.SKEW), "expired"),
        (ticket(expires=int(NOW) + access.LIFE + access.SKEW + 1), "clocks"),
    ],
)
def test_what_is_not_taken(shown: AccessTicket, words: str) -> None:
    admissions = Admissions(rule())
    assert words in admissions.show("s1", shown)
    assert admissions.objection(shown.agent)


def test_a_client_fills_no_memory_with_tickets() -> None:
    admissions = Admissions(rule())
    outcomes = [
        admissions.show("s1", ticket(agent=name, key=access.key_for(b"secret", name)))
        for name in (str(number) for number in range(MAX_ADMISSIONS + 1))
    ]
    assert not any(outcomes[:-1])
    assert outcomes[-1]


def test_without_the_rule_nobody_needs_a_ticket() -> None:
    assert Admissions(rule(by_namespace=False)).objection("uid-1/sidecar") == ""


async def test_an_agent_makes_tickets_once_it_is_admitted() -> None:
    service = Service(DialPolicy(), "uid-1/sidecar")
    assert "not admitted" in service.ticket(AccessRequest(7, "s1")).error
    service.key = KEY
    made = service.ticket(AccessRequest(7, "s1"))
    assert made.id == 7
    real = AccessRule(by_namespace=True, secret=b"secret")
    assert Admissions(real).show("s1", made) == ""
    assert Admissions(real).show("s2", made)


def agent(name: str, namespace: str = "shop", port: int = 15703) -> AgentInfo:
    return AgentInfo(name, namespace, f"pod-{name}", "namespace", "", (), port)


class World:
    """A manager that takes tickets, and pods to which only some port-forwards are allowed."""

    def __init__(self, *allowed: str, takes: bool = True) -> None:
        self.allowed = set(allowed)
        self.takes = takes
        self.fetched: list[str] = []
        self.shown: list[str] = []
        self.origins = Origins(Wishes("shop"))
        self.access = AgentAccess(self.origins, self.fetch, self.show)

    async def fetch(self, agent: AgentInfo) -> AccessTicket:
        self.fetched.append(agent.id)
        if agent.id not in self.allowed:
            raise Forbidden(f"pods/portforward is not allowed in {agent.namespace}", "ask for it")
        return ticket(agent=agent.id)

    async def show(self, shown: AccessTicket) -> None:
        if not self.takes:
            raise TunnelFailed("the traffic-manager did not take it")
        self.shown.append(shown.agent)

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


DEMANDED = Agents((agent("a"), agent("b"), agent("c", "default")), "namespace")


async def test_all_agents_count_where_nothing_is_demanded() -> None:
    world = World()
    world.access.set_agents(Agents(DEMANDED.agents))
    assert world.origins.current.agent == "a"
    await world.settle()
    assert world.fetched == []


async def test_the_one_that_would_be_chosen_is_asked_and_counts_then() -> None:
    world = World("a", "b", "c")
    world.access.set_agents(DEMANDED)
    assert world.origins.current.agent == ""
    await world.settle()
    assert (world.fetched, world.shown) == (["a"], ["a"])
    assert world.origins.current.agent == "a"
    assert world.origins.warning() == ""
    world.access.close()


async def test_what_rbac_denies_is_told_and_the_next_choice_holds() -> None:
    world = World("b")
    world.access.set_agents(DEMANDED)
    await world.settle()
    assert world.origins.current.agent == "b"
    assert "pod-a of shop is not used: pods/portforward is not allowed in shop" in world.origins.warning()
    nobody = World()
    nobody.access.set_agents(DEMANDED)
    await nobody.settle()
    assert nobody.origins.current.agent == ""
    assert nobody.fetched == ["a", "b"]
    for one in (world, nobody):
        one.access.close()


async def test_a_ticket_that_the_manager_does_not_take_opens_nothing() -> None:
    world = World("a", "b", takes=False)
    world.access.set_agents(DEMANDED)
    await world.settle()
    assert world.origins.current.agent == ""
    assert "did not take it" in world.origins.warning()
    world.access.close()


async def test_a_new_wish_is_sought_and_an_attachment_sees_its_agent_before() -> None:
    world = World("a", "c")
    world.access.set_agents(DEMANDED)
    await world.settle()
    wanted = Workload("default", "pod/pod-c")
    assert world.origins.has_agent(wanted)
    world.origins.set_wishes(Wishes("shop", wanted))
    assert world.origins.holds() == ()
    await world.settle()
    assert world.origins.current.agent == "c"
    world.access.close()
