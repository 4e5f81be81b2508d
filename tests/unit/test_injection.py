"""How a sidecar comes into pods of many shapes: a table, and the same patch applied as an API server does."""

from __future__ import annotations

import copy

import pytest

from inroad.core.agent_container import NAME, AgentSpec
from inroad.core.injection import ANNOTATION, Decision, decide
from inroad.core.messages import TOKEN_AUDIENCE
from inroad.sandbox.apiserver import patches

AGENT = AgentSpec(
    "registry/inroad:1", "traffic-manager.inroad:15703", "PEM", resources={"limits": {"cpu": 1}}
)
APP = {"name": "app", "image": "app:1"}
ON = {"annotations": {ANNOTATION: "enabled"}}


def pod(metadata=None, **spec):
    return {"metadata": ON if metadata is None else metadata, "spec": {"containers": [APP], **spec}}


def injected(body, *, native=True):
    decision = decide(body, AGENT, native=native)
    assert decision.patch, decision
    return patches.apply(patches.JSON_PATCH, copy.deepcopy(body), list(decision.patch))


BARE = pod()
BUSY = pod(
    {**ON, "labels": {"app": "web"}, "generateName": "web-7d4b9-"},
    volumes=[{"name": "data", "emptyDir": {}}],
    initContainers=[{"name": "migrate", "image": "m"}],
    automountServiceAccountToken=False,
    securityContext={"runAsNonRoot": True, "fsGroup": 1000},
)
NULLS = pod(volumes=None, initContainers=None)
MESHED = pod(initContainers=[{"name": "istio-proxy", "restartPolicy": "Always", "image": "p"}])
TAKEN = pod(volumes=[{"name": "traffic-agent-identity", "emptyDir": {}}])


@pytest.mark.parametrize("body", [BARE, BUSY, NULLS, MESHED, TAKEN])
def test_it_is_the_last_container_and_has_its_own_token(body) -> None:
    after = injected(body)["spec"]
    *others, agent = after["containers"]
    assert others == body["spec"]["containers"]
    assert (agent["name"], agent["image"]) == (NAME, AGENT.image)
    assert agent["resources"] == {"limits": {"cpu": 1}}
    (mount,) = agent["volumeMounts"]
    *before, volume = after["volumes"]
    assert before == (body["spec"].get("volumes") or [])
    assert volume["name"] == mount["name"]
    assert volume["name"] not in {one["name"] for one in before}
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == TOKEN_AUDIENCE
    assert after.get("initContainers") == body["spec"].get("initContainers")


def test_what_it_is_told() -> None:
    agent = injected(BARE)["spec"]["containers"][-1]
    environment = {
        one["name"]: one.get("value") or one["valueFrom"]["fieldRef"]["fieldPath"] for one in agent["env"]
    }
    assert environment == {
        "INROAD_MANAGER": AGENT.manager,
        "INROAD_MANAGER_CA": "PEM",
        "INROAD_AGENT_KIND": "sidecar",
        "INROAD_CLIENT_PORT": "15703",
        "POD_NAMESPACE": "metadata.namespace",
        "POD_NAME": "metadata.name",
        "POD_UID": "metadata.uid",
    }


def test_it_satisfies_the_restricted_standard() -> None:
    """kubernetes.io/docs/concepts/security/pod-security-standards, what applies to a container."""
    security = injected(BARE)["spec"]["containers"][-1]["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"]["type"] == "RuntimeDefault"


def test_asked_again_it_changes_nothing() -> None:
    for body in (BARE, BUSY, MESHED, pod(restartPolicy="Never")):
        assert decide(injected(body), AGENT, native=True) == Decision(reason="it has one already")


def test_a_pod_that_ends_gets_a_container_that_does_not_keep_it() -> None:
    body = pod(restartPolicy="OnFailure", initContainers=[{"name": "first", "image": "f"}])
    after = injected(body)["spec"]
    assert after["containers"] == [APP]
    first, agent = after["initContainers"]
    assert (first["name"], agent["name"], agent["restartPolicy"]) == ("first", NAME, "Always")
    old = decide(body, AGENT, native=False)
    assert not old.patch
    assert old.warning
    assert "1.29" in old.reason


QUIETLY = {
    "no annotations at all": pod({}),
    "null annotations": pod({"annotations": None}),
    "another annotation": pod({"annotations": {"a": "b"}}),
    "disabled": pod({"annotations": {ANNOTATION: "disabled"}}),
    "one is there": pod(containers=[APP, {"name": NAME, "image": "x"}]),
    "one is there as init container": pod(initContainers=[{"name": NAME, "restartPolicy": "Always"}]),
    "nothing": {},
    "no pod": {"metadata": [], "spec": "x"},
}


@pytest.mark.parametrize("name", QUIETLY)
def test_left_alone_quietly(name: str) -> None:
    decision = decide(QUIETLY[name], AGENT, native=True)
    assert not decision.patch
    assert decision.reason
    assert not decision.warning


OURS = {"app.kubernetes.io/name": "inroad", "app.kubernetes.io/component": "traffic-manager"}
LOUDLY = {
    "yes": (pod({"annotations": {ANNOTATION: "yes"}}), "use enabled or disabled"),
    "host network": (pod(hostNetwork=True), "node's network"),
    "the manager": (pod({**ON, "labels": OURS}), "inroad itself"),
    "an agent": (pod({**ON, "labels": {**OURS, "app.kubernetes.io/component": NAME}}), "inroad itself"),
    "a mirror": (pod({"annotations": {**ON["annotations"], "kubernetes.io/config.mirror": "x"}}), "static"),
    "windows": (pod(os={"name": "windows"}), "Linux"),
    "deleted": (pod({**ON, "deletionTimestamp": "2026-01-01T00:00:00Z"}), "deleted"),
    "empty": (pod(containers=[]), "no containers"),
}


@pytest.mark.parametrize("name", LOUDLY)
def test_who_asked_is_told_why_not(name: str) -> None:
    body, words = LOUDLY[name]
    decision = decide(body, AGENT, native=True)
    assert not decision.patch
    assert decision.warning
    assert words in decision.reason
