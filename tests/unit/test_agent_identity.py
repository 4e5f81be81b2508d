"""Proofs of agents: tickets, passes, reviewed and signed tokens, and what their pod says."""

from __future__ import annotations

import msgspec
import pytest

from inroad.core.errors import ApiUnreachable, Forbidden
from inroad.core.messages import TOKEN_AUDIENCE, AgentHello, TicketRequest
from inroad.manager.agent_pods import AgentPod
from inroad.manager.agent_side import AgentSide
from inroad.manager.identity import TICKET_LIFE, NotNow, NotProved, Tickets
from inroad.manager.settings import Settings
from inroad.manager.token_check import ASK_AGAIN, REREAD, TokenCheck
from inroad.sandbox.apiserver.tokens import ISSUER, TokenIssuer

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
    for change in ({"pod": "web-2"}, {"workload": "deploy/cart"}, {"uid": "uid-2"}):
        with pytest.raises(NotProved):
            after_restart.redeem(with_ticket(mine, **change))
    with pytest.raises(NotProved):
        Tickets(b"another").redeem(with_ticket(mine))


@pytest.mark.parametrize("kind", ["namespace", "sidecar"])
def test_a_ticket_makes_ephemeral_agents_only(kind):
    tickets = Tickets(b"secret")
    for proof in (tickets.issue(REQUEST), tickets.pass_for(HELLO, "deploy/web")):
        with pytest.raises(NotProved, match="shows its token"):
            tickets.redeem(with_ticket(proof, kind=kind))


def test_an_invented_ticket_is_refused_whatever_it_is_made_of():
    for invented in ("invented", "pass:", "pass:00", "t\u00e4uschung", "pass:\u00e4"):
        with pytest.raises(NotProved):
            Tickets(b"secret").redeem(with_ticket(invented))


class Api:
    """Answers TokenReviews from what it was told of tokens, and the cluster's keys."""

    def __init__(self, tokens=None, issuer=None):
        self.tokens = tokens
        self.issuer = issuer
        self.asked = []

    async def create(self, path, body):
        self.asked.append(path)
        assert path == "/apis/authentication.k8s.io/v1/tokenreviews"
        if self.tokens is None:
            raise Forbidden("tokenreviews may not be created")
        user = self.tokens.get(body["spec"]["token"])
        status = {"authenticated": bool(user), "user": user or {}, "audiences": body["spec"]["audiences"]}
        return msgspec.json.encode({"status": status})

    async def get(self, path):
        self.asked.append(path)
        if self.issuer is None:
            raise Forbidden("the keys may not be read")
        if path == "/openid/v1/jwks":
            return msgspec.json.encode(self.issuer.keys())
        return msgspec.json.encode({"issuer": ISSUER, "jwks_uri": "https://elsewhere/openid/v1/jwks"})


def user(namespace="shop", pod="web-1", uid="uid-1"):
    extra = {
        "authentication.kubernetes.io/pod-name": [pod],
        "authentication.kubernetes.io/pod-uid": [uid],
    }
    return {"username": f"system:serviceaccount:{namespace}:default", "extra": extra}


async def test_a_token_proves_its_own_pod_only():
    hello = msgspec.structs.replace(HELLO, token="good")
    await TokenCheck(Api({"good": user()})).prove(hello)
    for other in (user("other"), user(pod="web-2"), user(uid="uid-2"), {"username": "admin"}):
        with pytest.raises(NotProved, match="not of the claimed one"):
            await TokenCheck(Api({"good": other})).prove(hello)


async def test_an_unknown_token_and_a_denied_review_are_told():
    hello = msgspec.structs.replace(HELLO, token="bad")
    with pytest.raises(NotProved, match="does not accept the token"):
        await TokenCheck(Api({})).prove(hello)
    with pytest.raises(NotProved, match="create tokenreviews, or the ClusterRole"):
        await TokenCheck(Api(None)).prove(signed(TokenIssuer()))


def signed(issuer, *, audience=TOKEN_AUDIENCE, pod="web-1", uid="uid-1", namespace="shop"):
    return msgspec.structs.replace(
        HELLO,
        token=issuer.issue(
            namespace, "default", "sa", audiences=[audience], lifetime=600.0, pod=pod, pod_uid=uid
        ),
    )


async def test_without_reviews_the_signature_counts():
    clock = Clock()
    issuer = TokenIssuer(clock)
    api = Api(None, issuer)
    tokens = TokenCheck(api, clock)
    await tokens.prove(signed(issuer))
    await tokens.prove(signed(issuer))
    assert len(api.asked) == 3  # one denied review, the issuer and its keys; then all is known
    for change in ({"pod": "web-2"}, {"uid": "uid-2"}, {"namespace": "other"}):
        with pytest.raises(NotProved, match="not of the claimed one"):
            await tokens.prove(signed(issuer, **change))
    with pytest.raises(NotProved, match="not for inroad-traffic-manager"):
        await tokens.prove(signed(issuer, audience=ISSUER))
    late = signed(issuer)
    clock.now += 620.0
    with pytest.raises(NotProved, match="expired"):
        await tokens.prove(late)
    assert len(api.asked) == 4  # reviews may be allowed by now
    assert ASK_AGAIN < 620.0


async def test_new_keys_of_the_cluster_are_found_but_not_looked_for_all_the_time():
    clock = Clock()
    api = Api(None, TokenIssuer(clock, key_id="first"))
    tokens = TokenCheck(api, clock)
    await tokens.prove(signed(api.issuer))
    api.issuer = TokenIssuer(clock, key_id="second")
    asked = len(api.asked)
    for _ in range(3):
        with pytest.raises(NotProved, match="not the cluster's"):
            await tokens.prove(signed(api.issuer))
    assert len(api.asked) == asked
    clock.now += REREAD
    await tokens.prove(signed(api.issuer))


async def test_a_failing_api_server_is_no_verdict():
    class Down(Api):
        async def create(self, path, body):
            raise ApiUnreachable("nothing answers")

    with pytest.raises(NotNow):
        await TokenCheck(Down()).prove(msgspec.structs.replace(HELLO, token="any"))


def agent_pod(owner=None, containers=("web",), labels=None, uid="uid-1", phase="Running"):
    owners = [{"kind": owner[0], "name": owner[1], "controller": True}] if owner else []
    body = {
        "metadata": {"name": "web-1", "uid": uid, "labels": labels or {}, "ownerReferences": owners},
        "spec": {"containers": [{"name": name} for name in containers]},
        "status": {"phase": phase},
    }
    return msgspec.convert(body, AgentPod)


@pytest.mark.parametrize(
    ("owner", "labels", "workload"),
    [
        (("ReplicaSet", "web-7d4b9"), {"pod-template-hash": "7d4b9"}, "deploy/web"),
        (("ReplicaSet", "web-a-7d4b9"), {"pod-template-hash": "7d4b9"}, "deploy/web-a"),
        (("ReplicaSet", "web-7d4b9"), {}, "rs/web-7d4b9"),
        (("ReplicaSet", "web"), {"pod-template-hash": "7d4b9"}, "rs/web"),
        (("StatefulSet", "db"), {}, "sts/db"),
        (("DaemonSet", "log"), {}, "ds/log"),
        (("Job", "load"), {}, "job/load"),
        (None, {}, ""),
    ],
)
def test_what_a_pod_belongs_to(owner, labels, workload):
    assert agent_pod(owner, labels=labels).workload == workload


AGENTS = (("ReplicaSet", "traffic-agent-x"), ("traffic-agent",), {"pod-template-hash": "x"})


@pytest.mark.parametrize(
    ("pod", "kind", "words"),
    [
        (agent_pod(*AGENTS), "namespace", ""),
        (agent_pod(), "namespace", "no namespace agent"),
        (agent_pod(("ReplicaSet", "web-x"), labels={"pod-template-hash": "x"}), "namespace", "no namespace"),
        (agent_pod(containers=("web", "traffic-agent")), "sidecar", ""),
        (agent_pod(), "sidecar", "no container traffic-agent"),
        (agent_pod(), "ephemeral", ""),
        (agent_pod(uid="uid-2"), "ephemeral", "another one by now"),
        (agent_pod(phase="Failed"), "ephemeral", "has ended"),
    ],
)
def test_an_agent_fits_its_pod(pod, kind, words):
    objection = pod.objection(msgspec.structs.replace(HELLO, kind=kind))
    assert words in objection
    assert bool(objection) == bool(words)


def test_the_audience_is_of_no_other_use():
    assert TOKEN_AUDIENCE == "inroad-traffic-manager"


@pytest.mark.parametrize(
    ("settings", "known", "refusal"),
    [
        (Settings(), None, ""),
        (Settings(namespaces=("shop",)), None, ""),
        (Settings(namespaces=("default",)), ("default",), "does not serve namespace shop"),
        (Settings(namespace_selector="team=a"), ("shop",), ""),
        (Settings(namespace_selector="team=a"), ("default",), "does not serve namespace shop"),
        (Settings(namespace_selector="team=a"), None, "not known yet"),
    ],
)
async def test_agents_of_other_namespaces_are_turned_away(settings, known, refusal):
    side = AgentSide(Api({}), settings, lambda agents: None, lambda: known)
    with pytest.raises(NotProved, match=refusal or "does not accept the token") as told:
        await side._prove(msgspec.structs.replace(HELLO, kind="sidecar", token="bad"), "10.0.0.1")
    assert isinstance(told.value, NotNow) == (known is None and bool(refusal))
