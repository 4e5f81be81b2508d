"""Agents on a real cluster: a namespace's own, and ephemeral containers, also where pods are restricted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.e2e import workloads
from tests.e2e.cluster.machine import wait_for
from tests.e2e.stage import NAMESPACE, Stage

AGENT = "app.kubernetes.io/component=traffic-agent"
RESTRICTED = "restricted"
AT_ONCE = {"terminationGracePeriodSeconds": 1}
"""For pods whose program, being the first process of its pod, does not hear of SIGTERM."""


@pytest.fixture(scope="module")
def connected(stage: Stage) -> Iterator[Stage]:
    """The stage with its workstation connected to namespace `shop`."""
    stage.inroad("quit", status=None)
    before = stage.dump()
    stage.wait_for_pods(NAMESPACE)
    stage.ask("connect", "-n", "shop")
    yield stage
    stage.inroad("quit")
    assert stage.dump() == before


def origin(stage: Stage) -> dict[str, Any]:
    """Return what `inroad status` says about where connections start."""
    found: dict[str, Any] = stage.ask("status")["origin"]
    return found


def addresses(stage: Stage, namespace: str, name: str) -> set[str]:
    """Return a pod's addresses."""
    return {one["ip"] for one in stage.cluster.get("pod", "-n", namespace, name)["status"]["podIPs"]}


def peers(stage: Stage, url: str = "http://web/") -> set[str]:
    """Return who the `web` workload says called it, by IPv4 and by IPv6."""
    return {stage.curl(url, family)["client_ip"] for family in ("-4", "-6")}


def wait_for_origin(stage: Stage, kind: str) -> None:
    """Wait until connections start at such an origin."""
    wait_for(f"the origin {kind}", lambda: origin(stage)["kind"] == kind, 30, lambda: str(origin(stage)))


def test_a_namespace_agent_dials_and_looks_up_until_it_is_removed(connected: Stage) -> None:
    stage = connected
    stage.inroad("agent", "add", "-n", "shop")
    [pod] = stage.objects("pods", "-n", "shop", "-l", AGENT)
    name = pod["metadata"]["name"]
    assert (origin(stage)["kind"], origin(stage)["pod"]) == ("namespace", name)
    assert peers(stage) == addresses(stage, "shop", name)
    assert peers(stage, "http://web.default/") == addresses(stage, "shop", name)
    v4 = stage.cluster.get("service", "-n", "shop", "web")["spec"]["clusterIP"]
    assert stage.run("dig", "+short", "web.shop.svc.cluster.local").stdout.split() == [v4]
    stage.inroad("agent", "remove", "-n", "shop")
    wait_for_origin(stage, "traffic-manager")
    [manager] = stage.manager_pods()
    assert peers(stage) == addresses(stage, NAMESPACE, manager["metadata"]["name"])


def test_a_killed_agent_is_replaced_and_nobody_waits(connected: Stage) -> None:
    stage = connected
    stage.inroad("agent", "add", "-n", "shop")
    first = origin(stage)["pod"]
    stage.kubectl("delete", "pod", "-n", "shop", first, "--force", "--grace-period=0", "--wait=false")
    assert stage.curl("http://web/")["namespace"] == "shop"  # by the manager, or already by the next agent
    wait_for("another agent", lambda: origin(stage)["pod"] != first, 60)
    wait_for_origin(stage, "namespace")
    assert peers(stage) == addresses(stage, "shop", origin(stage)["pod"])
    stage.inroad("agent", "remove", "-n", "shop")
    wait_for_origin(stage, "traffic-manager")


@contextmanager
def attached(stage: Stage, workload: str, namespace: str) -> Iterator[None]:
    """Attach to a workload and detach again."""
    stage.inroad("attach", workload, "-n", namespace)
    try:
        yield
    finally:
        stage.inroad("detach", workload, "-n", namespace)
        wait_for("the agent to end", lambda: not agents(stage, namespace), 30, lambda: str(agents(stage)))


def agents(stage: Stage, namespace: str = "") -> dict[str, dict[str, Any]]:
    """Return the agents of a namespace (of all of them) that status lists, by pod."""
    found = stage.ask("status")["agents"]
    return {one["pod"]: one for one in found if namespace in ("", one["namespace"])}


def test_attach_makes_that_very_pod_the_origin_and_leaves_it_running(connected: Stage) -> None:
    stage = connected
    with attached(stage, "deploy/web", "shop"):
        pod = origin(stage)["pod"]
        assert origin(stage)["kind"] == "ephemeral"
        assert peers(stage, "http://web.default/") == addresses(stage, "shop", pod)
        status = stage.cluster.get("pod", "-n", "shop", pod)["status"]
        assert [one["restartCount"] for one in status["containerStatuses"]] == [0]
    wait_for_origin(stage, "traffic-manager")

    wait_for("the agent's container to end", lambda: "terminated" in newest(stage, pod)["state"], 30)
    assert newest(stage, pod)["state"]["terminated"]["exitCode"] == 0


def newest(stage: Stage, pod: str) -> dict[str, Any]:
    """Return the status of the ephemeral container that was added last: the statuses are in order of name."""
    found = stage.cluster.get("pod", "-n", "shop", pod)
    name = found["spec"]["ephemeralContainers"][0]["name"]
    [status] = [one for one in found["status"]["ephemeralContainerStatuses"] if one["name"] == name]
    return dict(status)


def test_a_pod_is_seen_through_its_own_service_as_its_node(connected: Stage) -> None:
    """kube-proxy translates a connection that comes back to the pod where it started."""
    stage = connected
    with attached(stage, "deploy/web", "shop"):
        name = origin(stage)["pod"]
        own = addresses(stage, "shop", name)
        for _ in range(20):
            page = stage.curl("http://web/")
            assert (page["client_ip"] in own) == (page["pod"] != name)


def test_via_a_pod_that_has_an_agent(connected: Stage) -> None:
    """The flag of `connect`, for a pod of the connected namespace."""
    stage = connected
    name = stage.objects("pods", "-n", "default", "-l", "app=web")[0]["metadata"]["name"]
    with attached(stage, f"pod/{name}", "default"):
        stage.inroad("quit")
        stage.ask("connect", "-n", "default", "--via", f"pod/{name}")
        assert origin(stage)["pod"] == name
        assert peers(stage, "http://web.shop/") == addresses(stage, "default", name)
        stage.inroad("quit")
        stage.ask("connect", "-n", "shop")
        stage.inroad("attach", f"pod/{name}", "-n", "default")  # the new session's, so that it can detach


@pytest.fixture
def annotated(connected: Stage) -> Iterator[Stage]:
    """A Deployment in `shop` whose pods ask for a sidecar."""
    labels = {"app": "annotated"}
    container = {
        "name": "main",
        "image": workloads.IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "inroad.sandbox.workloads.web", "8080"],
    }
    metadata = {"labels": labels, "annotations": {"inroad.dev/inject-traffic-agent": "enabled"}}
    pod = {"containers": [container], "automountServiceAccountToken": False, **AT_ONCE}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "annotated", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": metadata, "spec": pod}},
    }
    connected.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    try:
        connected.wait_for_pods("shop")
        yield connected
    finally:
        connected.kubectl("delete", "deployment", "annotated", "-n", "shop", timeout=120)
        connected.kubectl("wait", "--for=delete", "pod", "-l", "app=annotated", "-n", "shop", "--timeout=60s")


def test_a_sidecar_comes_with_its_pod_and_goes_with_it(annotated: Stage) -> None:
    stage = annotated
    [pod] = stage.objects("pods", "-n", "shop", "-l", "app=annotated")
    name = pod["metadata"]["name"]
    wait_for_origin(stage, "sidecar")
    assert origin(stage)["pod"] == name
    assert peers(stage, "http://web.default/") == addresses(stage, "shop", name)
    stage.inroad("attach", "deploy/annotated", "-n", "shop")  # it has an agent: nothing is added
    assert "ephemeralContainers" not in stage.cluster.get("pod", "-n", "shop", name)["spec"]
    stage.inroad("detach", "deploy/annotated", "-n", "shop")
    stage.kubectl("delete", "pod", "-n", "shop", name)
    wait_for("the next pod's agent", lambda: origin(stage)["pod"] not in (name, ""), 60)
    wait_for_origin(stage, "sidecar")
    assert peers(stage, "http://web.default/") == addresses(stage, "shop", origin(stage)["pod"])


def test_pods_are_created_while_no_manager_answers_the_webhook(connected: Stage) -> None:
    """The webhook must never stand in anybody's way: `failurePolicy: Ignore`, and a short time-out."""
    stage = connected
    scale = ("scale", "deployment/traffic-manager", "-n", NAMESPACE)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "alone",
            "namespace": "shop",
            "annotations": {"inroad.dev/inject-traffic-agent": "enabled"},
        },
        "spec": {"containers": [{"name": "main", "image": workloads.IMAGE}], **AT_ONCE},
    }
    stage.kubectl(*scale, "--replicas=0")
    try:
        wait_for("the manager to be gone", lambda: not stage.objects("pods", "-n", NAMESPACE), 60)
        stage.kubectl("create", "-f", "-", stdin=json.dumps(pod))
        made = stage.cluster.get("pod", "-n", "shop", "alone")["spec"]
        assert [one["name"] for one in made["containers"] + made.get("initContainers", [])] == ["main"]
    finally:
        stage.kubectl("delete", "pod", "alone", "-n", "shop", "--ignore-not-found", "--grace-period=0")
        stage.kubectl(*scale, "--replicas=1")
        stage.wait_for_pods(NAMESPACE)
    wait_for("the link", lambda: stage.ask("status")["tunnel"]["state"] == "up", 30)


@pytest.fixture
def restricted(connected: Stage) -> Iterator[Stage]:
    """A namespace under the restricted Pod Security Standard, with a pod that it admits."""
    security = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    labels = {"pod-security.kubernetes.io/enforce": RESTRICTED, "pod-security.kubernetes.io/warn": RESTRICTED}
    container = {
        "name": "main",
        "image": workloads.IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "inroad.sandbox.workloads.web", "8080"],
        "securityContext": security,
    }
    spec = {"containers": [container], "automountServiceAccountToken": False, **AT_ONCE}
    pod = {"spec": spec, "kind": "Pod"}
    items = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": RESTRICTED, "labels": labels}},
        {"apiVersion": "v1", "metadata": {"name": "plain", "namespace": RESTRICTED}, **pod},
    ]
    listed = {"apiVersion": "v1", "kind": "List", "items": items}
    connected.kubectl("apply", "-f", "-", stdin=json.dumps(listed))
    try:
        connected.wait_for_pods(RESTRICTED)
        yield connected
    finally:
        connected.kubectl("delete", "namespace", RESTRICTED, timeout=120)


@pytest.mark.parametrize("how", ["attach", "agent"])
def test_the_restricted_standard_admits_our_agents(restricted: Stage, how: str) -> None:
    stage = restricted
    refused = ("run", "root", "-n", RESTRICTED, f"--image={workloads.IMAGE}", "--dry-run=server")
    assert stage.kubectl(*refused, check=False) == "", "the standard is not enforced"
    wanted = ("attach", "pod/plain") if how == "attach" else ("agent", "add")
    undo = ("detach", "pod/plain") if how == "attach" else ("agent", "remove")
    stage.inroad(*wanted, "-n", RESTRICTED)
    names = {pod["metadata"]["name"] for pod in stage.objects("pods", "-n", RESTRICTED)}
    [agent] = agents(stage, RESTRICTED).values()
    assert agent["pod"] in names
    assert agent["kind"] == ("ephemeral" if how == "attach" else "namespace")
    stage.inroad(*undo, "-n", RESTRICTED)
    wait_for("the agent to go", lambda: not agents(stage, RESTRICTED), 30)
