"""Which agents a session knows: what the manager pushes, and what its own links prove."""

from __future__ import annotations

from inroad.core.messages import AgentInfo
from inroad.core.origin import Wishes, Workload
from inroad.daemon.origins import Origins

SHOP = AgentInfo("a-shop", "shop", "traffic-agent-1", "namespace", port=15703)
WEB = AgentInfo("a-web", "shop", "web-1", "ephemeral", "deploy/web")
DB = AgentInfo("a-db", "shop", "db-0", "sidecar", "sts/db")


def test_an_agent_that_a_link_proves_alive_stays_while_a_new_manager_does_not_know_it():
    origins = Origins(Wishes("shop"))
    links = {"a-shop"}
    origins.lives = links.__contains__
    origins.set_agents((SHOP, WEB))
    origins.set_agents(())
    assert origins.agents == (SHOP,)
    assert origins.current.agent == "a-shop"
    links.clear()
    origins.look_again()
    assert origins.agents == ()
    assert origins.current.agent == ""


def test_an_agent_in_the_same_place_replaces_one_to_which_there_is_still_a_link():
    origins = Origins(Wishes("shop"))
    origins.lives = lambda agent: True
    origins.set_agents((DB,))
    again = AgentInfo("a-db-again", "shop", "db-0", "sidecar", "sts/db")
    origins.set_agents((again,))
    assert origins.agents == (again,)


def test_a_choice_is_told_once_and_one_flow_may_pass_an_agent_over():
    origins = Origins(Wishes("shop"))
    told = []
    origins.on_choice.append(lambda: told.append(origins.current.agent))
    origins.set_agents((SHOP, WEB))
    origins.set_agents((WEB, SHOP))
    assert told == ["a-shop"]
    assert origins.choose(gone="a-shop").agent == "a-web"
    assert origins.choose(gone="a-web").agent == "a-shop"
    bound = origins.choose(Workload("shop", "deploy/web"))
    assert (bound.agent, bound.failed) == ("a-web", False)
    assert origins.choose(Workload("shop", "deploy/cart")).failed
