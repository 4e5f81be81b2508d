"""A traffic-agent as a container: for a sidecar, and for the Deployment of a namespace agent.

It runs the manager's image with the command `serve agent`, as a user other than root, without capabilities
and on a read-only root, so that the restricted Pod Security Standard admits it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from inroad.core.messages import AGENT_CLIENT_PORT, TOKEN_AUDIENCE, AgentKind

Json = dict[str, Any]

NAME = "traffic-agent"
VOLUME = "traffic-agent-identity"
IDENTITY = "/var/run/secrets/inroad"
TOKEN_LIFE = 3600
"""Seconds; the kubelet renews the token before it ends."""
USER = 65532
SECURITY: Json = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What the restricted Pod Security Standard asks for."""
RESOURCES: Json = {"requests": {"cpu": "10m", "memory": "40Mi"}}

_FIELDS = {"POD_NAMESPACE": "metadata.namespace", "POD_NAME": "metadata.name", "POD_UID": "metadata.uid"}


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """What an agent's container needs: where its manager is, whom it trusts, and the chart's values.

    `port`: where it takes clients on the pod's loopback, 0 for nowhere.
    """

    image: str
    manager: str
    ca_pem: str
    pull_policy: str = "IfNotPresent"
    resources: Json = field(default_factory=lambda: RESOURCES)
    security: Json = field(default_factory=lambda: SECURITY)
    port: int = AGENT_CLIENT_PORT


def environment(spec: AgentSpec, kind: AgentKind) -> list[Json]:
    """Return what the agent's program reads, its pod's own identity excepted."""
    values = {
        "INROAD_MANAGER": spec.manager,
        "INROAD_MANAGER_CA": spec.ca_pem,
        "INROAD_AGENT_KIND": kind,
        "INROAD_CLIENT_PORT": str(spec.port),
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def container(spec: AgentSpec, kind: AgentKind, volume: str = VOLUME) -> Json:
    """Return the container of an agent whose proof is the token in `volume`."""
    pod = [{"name": n, "valueFrom": {"fieldRef": {"fieldPath": path}}} for n, path in _FIELDS.items()]
    return {
        "name": NAME,
        "image": spec.image,
        "imagePullPolicy": spec.pull_policy,
        "args": ["serve", "agent"],
        "env": [*environment(spec, kind), *pod],
        "securityContext": spec.security,
        "resources": spec.resources,
        "volumeMounts": [{"name": volume, "mountPath": IDENTITY, "readOnly": True}],
    }


def identity(volume: str = VOLUME) -> Json:
    """Return the volume with the token by which an agent proves its pod; good for nothing else."""
    token = {"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_LIFE, "path": "token"}
    return {"name": volume, "projected": {"sources": [{"serviceAccountToken": token}]}}
