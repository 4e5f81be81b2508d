"""StatefulSets: pods with numbers for names, made in order and replaced from the last to the first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from inroad.sandbox.apiserver.collection import Change
from inroad.sandbox.controller import Controller, split
from inroad.sandbox.endpoints import is_ready
from inroad.sandbox.replicas import owned_by, owner_of, pod_from, template_hash

Json = dict[str, Any]
REVISION = "controller-revision-hash"


class StatefulSetController(Controller):
    """Makes one step at a time; the pod's next change brings the next."""

    watches = ("statefulsets", "pods")

    def keys(self, plural: str, change: Change) -> Iterable[str]:
        """Name the set itself, or the one that owns the pod."""
        if plural == "statefulsets":
            return [change.entry.key]
        owner = owner_of(change.entry.object())
        ours = owner is not None and owner["kind"] == "StatefulSet"
        return [f"{change.entry.namespace}/{owner['name']}"] if owner is not None and ours else []

    async def reconcile(self, key: str) -> None:
        """Create, delete or replace pods, and count them."""
        namespace, name = split(key)
        this = self.store.find("statefulsets", name, namespace)
        if this is None or "deletionTimestamp" in this["metadata"]:
            return
        pods = {
            number_of(pod): pod
            for pod in self.store.list("pods", namespace)
            if (owner_of(pod) or {}).get("uid") == this["metadata"]["uid"]
        }
        revision = f"{name}-{template_hash(this['spec']['template'])}"
        for number in to_create(this, pods):
            await self.store.create_admitted("pods", new_pod(this, number, revision), namespace)
        for number in to_delete(this, pods, revision):
            self.store.delete("pods", pods[number]["metadata"]["name"], namespace)
        self._count(this, list(pods.values()), revision)

    def _count(self, this: Json, pods: list[Json], revision: str) -> None:
        ready = sum(map(is_ready, pods))
        updated = sum(revision_of(pod) == revision for pod in pods)

        def count(obj: Json) -> None:
            before = obj.get("status", {})
            done = updated == len(pods) == this["spec"]["replicas"]
            obj["status"] = {
                "replicas": len(pods),
                "readyReplicas": ready,
                "availableReplicas": ready,
                "currentReplicas": updated if done else len(pods) - updated,
                "updatedReplicas": updated,
                "currentRevision": revision if done else before.get("currentRevision", revision),
                "updateRevision": revision,
                "observedGeneration": obj["metadata"].get("generation", 1),
                "collisionCount": 0,
            }

        name, namespace = this["metadata"]["name"], this["metadata"]["namespace"]
        self.store.modify("statefulsets", name, namespace, count, subresource="status")


def number_of(pod: Json) -> int:
    """Return a pod's ordinal."""
    return int(str(pod["metadata"]["name"]).rpartition("-")[2])


def revision_of(pod: Json) -> str:
    """Return which template a pod was made from."""
    return str(pod["metadata"].get("labels", {}).get(REVISION, ""))


def is_settled(pod: Json) -> bool:
    """Tell whether a pod is ready and stays."""
    return is_ready(pod) and "deletionTimestamp" not in pod["metadata"]


def to_create(this: Json, pods: dict[int, Json]) -> list[int]:
    """Return the ordinals to make now: in order each waits for those before it, unless Parallel."""
    missing = [number for number in range(this["spec"]["replicas"]) if number not in pods]
    if this["spec"].get("podManagementPolicy") == "Parallel" or not missing:
        return missing
    first = missing[0]
    return [first] if all(is_settled(pods[number]) for number in range(first)) else []


def to_delete(this: Json, pods: dict[int, Json], revision: str) -> list[int]:
    """Return the ordinals to end now: surplus ones, else the highest outdated one when all are ready."""
    wanted = this["spec"]["replicas"]
    going = [number for number, pod in pods.items() if "deletionTimestamp" in pod["metadata"]]
    surplus = sorted((n for n in pods if n >= wanted and n not in going), reverse=True)
    parallel = this["spec"].get("podManagementPolicy") == "Parallel"
    if surplus:
        return surplus if parallel else ([] if going else surplus[:1])
    strategy = this["spec"].get("updateStrategy") or {}
    if strategy.get("type", "RollingUpdate") != "RollingUpdate" or going or len(pods) < wanted:
        return []
    partition = (strategy.get("rollingUpdate") or {}).get("partition", 0)
    for number in sorted(pods, reverse=True):
        if revision_of(pods[number]) != revision and number >= partition:
            return [number]
        if not is_settled(pods[number]):
            return []
    return []


def new_pod(this: Json, number: int, revision: str) -> Json:
    """Return the pod of an ordinal: its name is its hostname, the set's service its subdomain."""
    name = f"{this['metadata']['name']}-{number}"
    pod = pod_from(this["spec"]["template"], owned_by(this, "StatefulSet"))
    labels = {
        **pod["metadata"].get("labels", {}),
        REVISION: revision,
        "statefulset.kubernetes.io/pod-name": name,
        "apps.kubernetes.io/pod-index": str(number),
    }
    pod["metadata"] |= {"name": name, "labels": labels}
    pod["spec"] = {**pod["spec"], "hostname": name, "subdomain": this["spec"].get("serviceName", "")}
    return pod
