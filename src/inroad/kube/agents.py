"""What a traffic-agent is to Kubernetes: a Deployment of its own, or an ephemeral container in a pod.

What the container looks like is in `core.agent_container`; an ephemeral one gets no volume, hence a ticket.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from inroad.core.agent_container import NAME, AgentSpec, container, environment, identity
from inroad.core.errors import ConfigInvalid, Forbidden, InroadError
from inroad.core.messages import Ticket
from inroad.kube.client import ApiClient
from inroad.kube.failures import ApiStatus

Json = dict[str, Any]

LABELS = {"app.kubernetes.io/name": "inroad", "app.kubernetes.io/component": NAME}
OWNERS = {"deploy": ("apps/v1", "deployments"), "sts": ("apps/v1", "statefulsets")}


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    uid: str = ""
    deletion_timestamp: str = ""


class _Condition(msgspec.Struct):
    type: str
    status: str


class _PodStatus(msgspec.Struct):
    phase: str = ""
    conditions: list[_Condition] = []


class Pod(msgspec.Struct):
    """What is needed of a pod into which an agent may go."""

    metadata: _Metadata
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)

    @property
    def ready(self) -> bool:
        """True while it runs, is ready and is not being deleted."""
        return _Condition("Ready", "True") in self.status.conditions and not self.metadata.deletion_timestamp


async def pod_of(api: ApiClient, namespace: str, workload: str) -> Pod:
    """Return a ready pod of `deploy/NAME`, `sts/NAME` or `pod/NAME`; raises `ConfigInvalid` without one."""
    kind, _, name = workload.partition("/")
    base = f"/api/v1/namespaces/{namespace}/pods"
    if kind == "pod":
        return msgspec.json.decode(await api.get(f"{base}/{quote(name)}"), type=Pod)
    version, resource = OWNERS[kind]
    owner = msgspec.json.decode(
        await api.get(f"/apis/{version}/namespaces/{namespace}/{resource}/{quote(name)}"), type=Json
    )
    selector = ",".join(f"{key}={value}" for key, value in owner["spec"]["selector"]["matchLabels"].items())
    pods = await api.list_all(base, {"labelSelector": selector}, kind=Pod)
    ready = sorted((pod for pod in pods if pod.ready), key=lambda pod: pod.metadata.name)
    if not ready:
        raise ConfigInvalid(
            f"{workload} in {namespace} has no ready pod ({len(pods)} in all)",
            f"kubectl get pods -n {namespace} -l {selector}",
        )
    return ready[0]


async def workloads(api: ApiClient, namespace: str) -> list[tuple[str, int, int]]:
    """Return (workload, ready replicas, wanted replicas) of a namespace, sorted by name."""
    found = []
    for kind, (version, resource) in OWNERS.items():
        for one in await api.list_all(f"/apis/{version}/namespaces/{namespace}/{resource}", kind=dict):
            name = f"{kind}/{one['metadata']['name']}"
            found.append(
                (name, one.get("status", {}).get("readyReplicas", 0), one["spec"].get("replicas", 1))
            )
    return sorted(found)


def _spec(ticket: Ticket) -> AgentSpec:
    return AgentSpec(
        ticket.image,
        ticket.manager,
        ticket.ca_pem,
        ticket.pull_policy,
        ticket.resources,
        ticket.security,
        ticket.port,
    )


def ephemeral_container(name: str, pod: Pod, namespace: str, workload: str, ticket: Ticket) -> Json:
    """Return the container that is added to a running pod; its proof is the ticket."""
    own = {
        "POD_NAMESPACE": namespace,
        "POD_NAME": pod.metadata.name,
        "POD_UID": pod.metadata.uid,
        "INROAD_WORKLOAD": workload,
        "INROAD_TICKET": ticket.ticket,
    }
    spec = _spec(ticket)
    return {
        "name": name,
        "image": spec.image,
        "imagePullPolicy": spec.pull_policy,
        "args": ["serve", "agent"],
        "env": environment(spec, "ephemeral") + [{"name": key, "value": value} for key, value in own.items()],
        "securityContext": spec.security,
    }


async def inject(api: ApiClient, namespace: str, pod: str, container: Json) -> None:
    """Add an ephemeral container; what admission refuses is said with the remedy."""
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/ephemeralcontainers"
    body = msgspec.json.encode({"spec": {"ephemeralContainers": [container]}})
    try:
        await api.send("PATCH", path, None, body, content_type="application/strategic-merge-patch+json")
    except (Forbidden, ApiStatus) as error:
        raise refused(error, namespace) from error


def refused(error: InroadError, namespace: str) -> InroadError:
    """Return the error that says why no agent may go into a pod, and what to do.

    RBAC names the resource that may not be patched; Pod Security and admission webhooks speak for themselves,
    with 403 or any other status of theirs.
    """
    instead = f"use a namespace agent: inroad agent add -n {namespace}"
    if "violates PodSecurity" in error.message:
        return Forbidden(
            f"Pod Security in namespace {namespace} admits no agent into this pod: {error.message}",
            f"the agent keeps to `restricted`, so the pod itself does not: make it conform, or {instead}",
        )
    if "admission webhook" in error.message or "ValidatingAdmissionPolicy" in error.message:
        return Forbidden(
            f"a policy of the cluster admits no agent into this pod: {error.message}",
            f"ask whoever keeps the policy to admit ephemeral containers of inroad's image, or {instead}",
        )
    if isinstance(error, Forbidden):
        right = "ask for the right to patch pods/ephemeralcontainers"
        return Forbidden(error.message, f"{right}, or {instead}")
    return error


def namespace_agent(ticket: Ticket) -> Json:
    """Return the Deployment of a namespace agent; its proof is a projected token of its own audience."""
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 5,
        "containers": [container(_spec(ticket), "namespace")],
        "volumes": [identity()],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "labels": LABELS},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": pod},
        },
    }


async def add_namespace_agent(api: ApiClient, namespace: str, ticket: Ticket) -> None:
    """Create the Deployment; one that is there already stays."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    names = await api.list_all(path, {"fieldSelector": f"metadata.name={NAME}"}, kind=dict)
    if not names:
        await api.create(path, namespace_agent(ticket))


async def deployment_problem(api: ApiClient, namespace: str) -> str:
    """Return why the Deployment has no pods, as its controller says it; "" when it does not complain."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{NAME}"
    found = msgspec.json.decode(await api.get(path), type=Json)
    for condition in found.get("status", {}).get("conditions", ()):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return " ".join(str(condition.get("message", "")).split())
    return ""


async def remove_namespace_agent(api: ApiClient, namespace: str) -> None:
    """Delete the Deployment; raises `ConfigInvalid` when there is none."""
    try:
        await api.delete(f"/apis/apps/v1/namespaces/{namespace}/deployments/{NAME}")
    except InroadError as error:
        if getattr(error, "status", 0) != 404:
            raise
        raise ConfigInvalid(f"namespace {namespace} has no namespace agent", "inroad list") from None
