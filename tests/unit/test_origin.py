"""Who dials: the rule as a table."""

from __future__ import annotations

import pytest

from inroad.core.messages import AgentInfo
from inroad.core.origin import Wishes, Workload, choose, warning

SHOP = AgentInfo("a-shop", "shop", "traffic-agent-1", "namespace")
WEB = AgentInfo("a-web", "shop", "web-1", "ephemeral", "deploy/web")
WEB2 = AgentInfo("a-web-2", "shop", "web-2", "sidecar", "deploy/web")
CART = AgentInfo("a-cart", "shop", "cart-1", "ephemeral", "deploy/cart")
OTHER = AgentInfo("a-other", "other", "x-1", "sidecar", "deploy/x")
ALL = (OTHER, CART, WEB2, WEB, SHOP)


def shop(name: str) -> Workload:
    return Workload("shop", name)


CART_LOAD = shop("deploy/cart")


@pytest.mark.parametrize(
    ("agents", "wishes", "bound", "agent", "reason"),
    [
        ((), Wishes("shop"), None, "", "no agent in namespace shop"),
        ((OTHER,), Wishes("shop"), None, "", "no agent in namespace shop"),
        (ALL, Wishes("shop"), None, "a-shop", "an agent of namespace shop"),
        (ALL, Wishes("other"), None, "a-other", "an agent of namespace other"),
        ((WEB2, WEB), Wishes("shop"), None, "a-web", "an agent of namespace shop"),
        (ALL, Wishes("shop", shop("deploy/web")), None, "a-web", "pinned to deploy/web in shop"),
        (ALL, Wishes("shop", shop("pod/web-2")), None, "a-web-2", "pinned to pod/web-2 in shop"),
        (ALL, Wishes("shop", Workload("other", "deploy/x")), None, "a-other", "pinned to deploy/x in other"),
        (ALL, Wishes("shop", Workload("other", "deploy/web")), None, "a-shop", "an agent of namespace shop"),
        (
            ALL,
            Wishes("shop", None, (shop("deploy/cart"),)),
            None,
            "a-cart",
            "attached to deploy/cart in shop",
        ),
        (
            ALL,
            Wishes("shop", None, (shop("deploy/cart"), shop("deploy/web"))),
            None,
            "a-shop",
            "an agent of namespace shop",
        ),
        (
            ALL,
            Wishes("shop", shop("deploy/web"), (shop("deploy/cart"),)),
            None,
            "a-web",
            "pinned to deploy/web in shop",
        ),
        (
            ALL,
            Wishes("shop", shop("deploy/web")),
            shop("deploy/cart"),
            "a-cart",
            "proxied via deploy/cart in shop",
        ),
    ],
)
def test_the_first_rule_that_applies(agents, wishes, bound, agent, reason):
    origin = choose(agents, wishes, bound)
    assert (origin.agent, origin.reason) == (agent, reason)


def test_a_bound_workload_without_an_agent_is_an_error():
    origin = choose((SHOP,), Wishes("shop"), shop("deploy/web"))
    assert origin.failed
    assert origin.agent == ""


def test_a_pin_without_an_agent_is_told_and_the_next_choice_holds():
    wishes = Wishes("shop", shop("deploy/web"))
    origin = choose((SHOP,), wishes)
    assert origin.agent == "a-shop"
    expected = "deploy/web in shop has no agent; the origin is: an agent of namespace shop"
    assert warning(origin, wishes) == expected


def test_several_attachments_need_a_pin():
    wishes = Wishes("shop", None, (shop("deploy/cart"), shop("deploy/web")))
    assert warning(choose(ALL, wishes), wishes).startswith("origin not pinned")
    assert warning(choose(ALL, Wishes("shop")), Wishes("shop")) == ""


def test_the_choice_does_not_depend_on_the_order_of_arrival():
    for wishes in (Wishes("shop"), Wishes("shop", shop("deploy/web"))):
        assert choose(ALL, wishes) == choose(tuple(reversed(ALL)), wishes)
