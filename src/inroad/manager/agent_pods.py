"""The pod in which an agent says it is, as the API server has it: what it belongs to, and whether it fits.

What an agent says of its workload and of its kind is only a claim; this is what counts. One list of one pod
per admission, with the right to list pods that the manager has anyway.
"""

from __future__ import annotations

import msgspec
import structlog

from inroad.core.agent_container import NAME
from inroad.core.errors import Forbidden, InroadError
from inroad.core.messages import AgentHello
from inroad.kube.client import ApiClient
from inroad.manager.identity import NotNow, NotProved

HASH = "pod-template-hash"
"""The label by which a Deployment tells its ReplicaSets' pods apart; their names end in it as well."""
SHORT = {"StatefulSet": "sts", "DaemonSet": "ds", "ReplicaSet": "rs"}
OWN = f"deploy/{NAME}"

log = structlog.get_logger()


class _Owner(msgspec.Struct):
    kind: str
    name: str
    controller: bool = False


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    uid: str
    labels: dict[str, str] = {}
    owner_references: list[_Owner] = []


class _Container(msgspec.Struct):
    name: str


class _Spec(msgspec.Struct, rename="camel"):
    containers: list[_Container] = []
    init_containers: list[_Container] = []


class _Status(msgspec.Struct):
    phase: str = ""


class AgentPod(msgspec.Struct):
    """What is read of a pod."""

    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)

    @property
    def workload(self) -> str:
        """What the pod belongs to, as users name it: `deploy/web`, `sts/db`; empty when to nothing."""
        owner = next((one for one in self.metadata.owner_references if one.controller), None)
        if owner is None:
            return ""
        suffix = f"-{self.metadata.labels.get(HASH, '')}"
        if owner.kind == "ReplicaSet" and len(suffix) > 1 and owner.name.endswith(suffix):
            return f"deploy/{owner.name.removesuffix(suffix)}"
        return f"{SHORT.get(owner.kind, owner.kind.lower())}/{owner.name}"

    def objection(self, hello: AgentHello) -> str:
        """Return why the claimed agent can't be in this pod, "" when it can."""
        pod = f"pod {hello.namespace}/{hello.pod}"
        if self.metadata.uid != hello.uid:
            return f"{pod} is another one by now"
        if self.status.phase in ("Succeeded", "Failed"):
            return f"{pod} has ended"
        if hello.kind == "namespace" and self.workload != OWN:
            return f"{pod} does not belong to {OWN}, so it is no namespace agent"
        containers = {one.name for one in (*self.spec.containers, *self.spec.init_containers)}
        if hello.kind == "sidecar" and NAME not in containers:
            return f"{pod} has no container {NAME}, so there is no sidecar in it"
        return ""


async def workload_of(api: ApiClient, hello: AgentHello, claimed: str) -> str:
    """Return the workload of an agent whose pod is proved; raises `NotProved` when the rest does not fit.

    `claimed` is returned where the manager may not read pods.
    """
    path = f"/api/v1/namespaces/{hello.namespace}/pods"
    try:
        pods = await api.list_all(path, {"fieldSelector": f"metadata.name={hello.pod}"}, kind=AgentPod)
    except Forbidden as error:
        log.warning("an agent's workload is not known", pod=hello.pod, reason=str(error))
        return claimed
    except (InroadError, msgspec.MsgspecError) as error:
        raise NotNow(f"its pod can't be looked at: {error}") from None
    if not pods:
        raise NotProved(f"there is no pod {hello.namespace}/{hello.pod}")
    objection = pods[0].objection(hello)
    if objection:
        raise NotProved(objection)
    return pods[0].workload
