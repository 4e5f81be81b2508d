"""Finds a traffic-manager's pod and opens the tunnel to its client port."""

from __future__ import annotations

import msgspec

from inroad.core.errors import NoManager
from inroad.kube.client import ApiClient
from inroad.kube.portforward import port_forward
from inroad.tunnel.api import Link
from inroad.tunnel.websocket import attach_port_forward

CLIENT_PORT = 15701
SELECTOR = "app.kubernetes.io/name=inroad,app.kubernetes.io/component=traffic-manager"


class _Condition(msgspec.Struct):
    type: str
    status: str


class _Status(msgspec.Struct):
    phase: str = ""
    conditions: list[_Condition] = []


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    deletion_timestamp: str = ""


class _Pod(msgspec.Struct):
    metadata: _Metadata
    status: _Status = msgspec.field(default_factory=_Status)

    @property
    def ready(self) -> bool:
        wanted = _Condition("Ready", "True")
        return wanted in self.status.conditions and not self.metadata.deletion_timestamp


class _Pods(msgspec.Struct):
    items: list[_Pod]


_decoder = msgspec.json.Decoder(_Pods)


async def find(client: ApiClient, namespace: str) -> str:
    """Return the name of a ready manager pod; raises `NoManager` saying what is there instead."""
    answer = await client.get(f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": SELECTOR})
    pods = _decoder.decode(answer).items
    for pod in pods:
        if pod.ready:
            return pod.metadata.name
    if pods:
        states = ", ".join(f"{pod.metadata.name} is {pod.status.phase or 'not started'}" for pod in pods)
        raise NoManager(
            f"the traffic-manager in namespace {namespace} is not ready: {states}",
            f"kubectl describe pod -n {namespace} {pods[0].metadata.name}",
        )
    raise NoManager(
        f"no traffic-manager runs in namespace {namespace}",
        "inroad install, or name its namespace with --manager-namespace",
    )


async def open_link(client: ApiClient, namespace: str, pod: str = "") -> tuple[Link, str]:
    """Return a link to a manager pod, to some ready one when `pod` is "", and the pod's name."""
    pod = pod or await find(client, namespace)
    return attach_port_forward(await port_forward(client, namespace, pod, CLIENT_PORT)), pod
