"""Proofs of agents: tickets, passes and reviewed tokens."""

from __future__ import annotations

import msgspec
import pytest

from inroad.core.errors import Forbidden
from inroad.core.messages import TOKEN_AUDIENCE, AgentHello, TicketRequest
from inroad.manager.identity import TICKET_LIFE, NotProved, Tickets, check_token

HELLO = AgentHello(1, "test", "shop", "web-1", "uid-1", "ephemeral", "deploy/web")
REQUEST = TicketRequest(7, "shop", "web-1", "uid-1", "deploy/web")


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def with_ticket(ticket, **changes):
    return msgspec.structs.replace(HELLO, ticket=ticket, **changes)


def test_a_ticket_is_good_once():
    tickets = Tickets(b"secret")
    ticket = tickets.issue(REQUEST)
    assert tickets.redeem(with_ticket(ticket)) == "deploy/web"
    with pytest.raises(NotProved, match="used already"):
        tickets.redeem(with_ticket(ticket))


@pytest.mark.parametrize("change", [{"namespace": "other"}, {"pod": "web-2"}, {"uid": "uid-2"}])
def test_a_ticket_is_for_one_pod_and_gone_after_a_wrong_claim(change):
    tickets = Tickets(b"secret")
    ticket = tickets.issue(REQUEST)
    with pytest.raises(NotProved, match="not for the claimed one"):
        tickets.redeem(with_ticket(ticket, **change))
    with pytest.raises(NotProved):
        tickets.redeem(with_ticket(ticket))


def test_a_ticket_ends():
    clock = Clock()
    tickets = Tickets(b"secret", clock)
    ticket = tickets.issue(REQUEST)
    clock.now += TICKET_LIFE
    with pytest.raises(NotProved, match="older than 60 s"):
        tickets.redeem(with_ticket(ticket))


def test_a_pass_outlives_the_manager_but_fits_one_pod_only():
    mine = Tickets(b"secret").pass_for(HELLO, "deploy/web")
    after_restart = Tickets(b"secret")
    assert after_restart.redeem(with_ticket(mine)) == "deploy/web"
    for change in ({"pod": "web-2"}, {"workload": "deploy/cart"}, {"kind": "sidecar"}):
        with pytest.raises(NotProved):
            after_restart.redeem(with_ticket(mine, **change))
    with pytest.raises(NotProved):
        Tickets(b"another").redeem(with_ticket(mine))


class Api:
    """Answers TokenReviews from what it was told of tokens."""

    def __init__(self, tokens):
        self.tokens = tokens

    async def create(self, path, body):
        assert path == "/apis/authentication.k8s.io/v1/tokenreviews"
        if self.tokens is None:
            raise Forbidden("tokenreviews may not be created")
        user = self.tokens.get(body["spec"]["token"])
        status = {"authenticated": bool(user), "user": user or {}, "audiences": body["spec"]["audiences"]}
        return msgspec.json.encode({"status": status})


def user(namespace="shop", pod="web-1", uid="uid-1"):
    extra = {
        "authentication.kubernetes.io/pod-name": [pod],
        "authentication.kubernetes.io/pod-uid": [uid],
    }
    return {"username": f"system:serviceaccount:{namespace}:default", "extra": extra}


async def test_a_token_proves_its_own_pod_only():
    hello = msgspec.structs.replace(HELLO, token="good")
    await check_token(Api({"good": user()}), hello)
    for other in (user("other"), user(pod="web-2"), user(uid="uid-2"), {"username": "admin"}):
        with pytest.raises(NotProved, match="not of the claimed one"):
            await check_token(Api({"good": other}), hello)


async def test_an_unknown_token_and_a_denied_review_are_told():
    hello = msgspec.structs.replace(HELLO, token="bad")
    with pytest.raises(NotProved, match="does not accept the token"):
        await check_token(Api({}), hello)
    with pytest.raises(NotProved, match="could not be reviewed"):
        await check_token(Api(None), hello)


def test_the_audience_is_of_no_other_use():
    assert TOKEN_AUDIENCE == "inroad-traffic-manager"
