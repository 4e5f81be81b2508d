"""Deployments make ReplicaSets, ReplicaSets make pods.

Rolling updates keep `maxSurge` and `maxUnavailable` as the Deployment says. The names are Kubernetes' own:
`NAME-HASH` for a set, `NAME-HASH-XXXXX` for a pod.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Any

import msgspec

from inroad.sandbox.apiserver.collection import Change
from inroad.sandbox.controller import Controller, split
from inroad.sandbox.endpoints import is_ready

Json = dict[str, Any]
HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def owner_of(obj: Json) -> Json | None:
    """Return the ownerReference of the controller of an object."""
    for one in obj["metadata"].get("ownerReferences", ()):
        if one.get("controller"):
            return dict(one)
    return None


def owned_by(owner: Json, kind: str, version: str = "apps/v1") -> list[Json]:
    """Return the ownerReferences of what `owner` controls."""
    metadata = owner["metadata"]
    reference = {"apiVersion": version, "kind": kind, "name": metadata["name"], "uid": metadata["uid"]}
    return [{**reference, "controller": True, "blockOwnerDeletion": True}]


def is_active(pod: Json) -> bool:
    """Tell whether a pod counts: it has neither ended nor been told to."""
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not ended and "deletionTimestamp" not in pod["metadata"]


def template_hash(template: Json) -> str:
    """Return ten characters that name a pod template."""
    number = int.from_bytes(hashlib.sha256(msgspec.json.encode(template, order="sorted")).digest()[:8], "big")
    found = ""
    while len(found) < 10:
        number, digit = divmod(number, len(ALPHABET))
        found += ALPHABET[digit]
    return found


def pod_from(template: Json, owners: list[Json]) -> Json:
    """Return a new pod of a template, without a name."""
    metadata = {key: value for key, value in template["metadata"].items() if value is not None}
    return {"metadata": {**metadata, "ownerReferences": owners}, "spec": template["spec"]}


class ReplicaSetController(Controller):
    """Keeps the number of pods of every ReplicaSet."""

    watches = ("replicasets", "pods")

    def keys(self, plural: str, change: Change) -> Iterable[str]:
        """Name the set itself, or the one that owns the pod."""
        if plural == "replicasets":
            return [change.entry.key]
        owner = owner_of(change.entry.object())
        ours = owner is not None and owner["kind"] == "ReplicaSet"
        return [f"{change.entry.namespace}/{owner['name']}"] if owner is not None and ours else []

    async def reconcile(self, key: str) -> None:
        """Create or delete pods, and count them."""
        namespace, name = split(key)
        this = self.store.find("replicasets", name, namespace)
        if this is None or "deletionTimestamp" in this["metadata"]:
            return
        labels = this["spec"]["selector"].get("matchLabels", {})
        mine = [
            pod
            for pod in self.store.list("pods", namespace, labels=labels)
            if (owner_of(pod) or {}).get("uid") == this["metadata"]["uid"]
        ]
        pods = [pod for pod in mine if is_active(pod)]
        missing = this["spec"]["replicas"] - len(pods)
        for _ in range(missing):
            pod = pod_from(this["spec"]["template"], owned_by(this, "ReplicaSet"))
            pod["metadata"]["generateName"] = f"{name}-"
            await self.store.create_admitted("pods", pod, namespace)
        # The ones that are no use yet go first, then the youngest.
        order = sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)
        for pod in sorted(order, key=is_ready)[: max(-missing, 0)]:
            self.store.delete("pods", pod["metadata"]["name"], namespace)
        ready = sum(map(is_ready, pods))

        def count(obj: Json) -> None:
            obj["status"] = {
                "replicas": len(pods),
                "fullyLabeledReplicas": len(pods),
                "readyReplicas": ready,
                "availableReplicas": ready,
                "observedGeneration": obj["metadata"].get("generation", 1),
            }

        self.store.modify("replicasets", name, namespace, count, subresource="status")


class DeploymentController(Controller):
    """Moves every Deployment from its old ReplicaSets to the one of its present template."""

    watches = ("deployments", "replicasets")

    def keys(self, plural: str, change: Change) -> Iterable[str]:
        """Name the Deployment itself, or the one that owns the set."""
        if plural == "deployments":
            return [change.entry.key]
        owner = owner_of(change.entry.object())
        return [f"{change.entry.namespace}/{owner['name']}"] if owner else []

    async def reconcile(self, key: str) -> None:
        """Make one step; the ReplicaSets' next change brings the next."""
        namespace, name = split(key)
        this = self.store.find("deployments", name, namespace)
        if this is None or "deletionTimestamp" in this["metadata"]:
            return
        sets = [
            one
            for one in self.store.list("replicasets", namespace)
            if (owner_of(one) or {}).get("uid") == this["metadata"]["uid"]
        ]
        wanted = f"{name}-{template_hash(this['spec']['template'])}"
        new = next((one for one in sets if one["metadata"]["name"] == wanted), None)
        old = [one for one in sets if one["metadata"]["name"] != wanted]
        if new is None:
            new = self._create(this, wanted, old)
        self._scale(namespace, step(this, new, old))
        self._prune(this, old)
        self._count(this, new, old)

    def _create(self, this: Json, name: str, old: list[Json]) -> Json:
        spec, metadata = this["spec"], this["metadata"]
        digest = name.rpartition("-")[2]
        labels = {**spec["template"]["metadata"].get("labels", {}), HASH: digest}
        template = {**spec["template"], "metadata": {**spec["template"]["metadata"], "labels": labels}}
        selector = {**spec["selector"].get("matchLabels", {}), HASH: digest}
        revision = 1 + max((int(one["metadata"]["annotations"][REVISION]) for one in old), default=0)
        body = {
            "metadata": {
                "name": name,
                "labels": labels,
                "annotations": {REVISION: str(revision)},
                "ownerReferences": owned_by(this, "Deployment"),
            },
            "spec": {
                "replicas": 0 if old else spec["replicas"],
                "selector": {"matchLabels": selector},
                "template": template,
            },
        }
        return self.store.create("replicasets", body, metadata["namespace"])

    def _scale(self, namespace: str, sizes: dict[str, int]) -> None:
        for name, size in sizes.items():

            def resize(obj: Json, size: int = size) -> None:
                obj["spec"]["replicas"] = size

            self.store.modify("replicasets", name, namespace, resize)

    def _prune(self, this: Json, old: list[Json]) -> None:
        idle = [one for one in old if not one["spec"]["replicas"] and not one["status"].get("replicas")]
        idle.sort(key=lambda one: int(one["metadata"]["annotations"][REVISION]))
        keep = this["spec"].get("revisionHistoryLimit", 10)
        for one in idle[: max(0, len(idle) - keep)]:
            self.store.delete("replicasets", one["metadata"]["name"], one["metadata"]["namespace"])

    def _count(self, this: Json, new: Json, old: list[Json]) -> None:
        sets = [new, *old]
        ready = sum(one["status"].get("readyReplicas", 0) for one in sets)
        total = sum(one["status"].get("replicas", 0) for one in sets)
        updated = new["status"].get("replicas", 0)
        wanted = this["spec"]["replicas"]
        _, unavailable = limits(this)

        def count(obj: Json) -> None:
            known = {one["type"]: one for one in obj.get("status", {}).get("conditions", ())}
            done = updated == wanted == ready == total
            states = {
                "Available": (ready >= wanted - unavailable, "MinimumReplicas"),
                "Progressing": (True, "NewReplicaSetAvailable" if done else "ReplicaSetUpdated"),
            }
            conditions = [
                condition(known.get(kind), kind, holds, reason, self.store.timestamp())
                for kind, (holds, reason) in states.items()
            ]
            obj["status"] = {
                "replicas": total,
                "updatedReplicas": updated,
                "readyReplicas": ready,
                "availableReplicas": ready,
                "unavailableReplicas": max(wanted - ready, 0),
                "observedGeneration": obj["metadata"].get("generation", 1),
                "conditions": conditions,
            }

        name, namespace = this["metadata"]["name"], this["metadata"]["namespace"]
        self.store.modify("deployments", name, namespace, count, subresource="status")


def condition(old: Json | None, kind: str, holds: bool, reason: str, now: str) -> Json:
    """Return a condition, its transition time kept unless the status changed."""
    status = "True" if holds else "False"
    if kind == "Available":
        reason += "Available" if holds else "Unavailable"
    since = old["lastTransitionTime"] if old and old["status"] == status else now
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "lastTransitionTime": since,
        "lastUpdateTime": since,
    }


def limits(deployment: Json) -> tuple[int, int]:
    """Return (maxSurge, maxUnavailable) as numbers of pods, never both 0."""
    wanted = deployment["spec"]["replicas"]
    rolling = deployment["spec"]["strategy"].get("rollingUpdate") or {}
    surge = amount(rolling.get("maxSurge", "25%"), wanted, up=True)
    unavailable = amount(rolling.get("maxUnavailable", "25%"), wanted, up=False)
    return surge, unavailable or (0 if surge else 1)


def amount(value: int | str, of: int, *, up: bool) -> int:
    """Return a number, or a percentage of `of`, rounded."""
    if isinstance(value, int):
        return value
    part = int(value.rstrip("%")) * of / 100
    return math.ceil(part) if up else math.floor(part)


def step(deployment: Json, new: Json, old: list[Json]) -> dict[str, int]:
    """Return the sizes to give to ReplicaSets now, by name; only those that change."""
    wanted: int = deployment["spec"]["replicas"]
    sizes = {one["metadata"]["name"]: int(one["spec"]["replicas"]) for one in [new, *old]}
    before = dict(sizes)
    name = new["metadata"]["name"]
    if deployment["spec"]["strategy"]["type"] == "Recreate":
        for one in old:
            sizes[one["metadata"]["name"]] = 0
        if not any(one["status"].get("replicas") for one in old):
            sizes[name] = wanted
    else:
        surge, unavailable = limits(deployment)
        if sizes[name] > wanted:
            sizes[name] = wanted
        else:
            room = wanted + surge - sum(sizes.values())
            sizes[name] += max(0, min(room, wanted - sizes[name]))
        ready = new["status"].get("readyReplicas", 0)
        for one in sorted(old, key=lambda one: int(one["metadata"]["annotations"][REVISION])):
            ready += one["status"].get("readyReplicas", 0)
        spare = ready - (wanted - unavailable)
        for one in old:
            key = one["metadata"]["name"]
            useless = max(0, sizes[key] - one["status"].get("readyReplicas", 0))
            drop = min(sizes[key], useless + max(0, min(spare, sizes[key] - useless)))
            spare -= max(0, drop - useless)
            sizes[key] -= drop
    return {key: size for key, size in sizes.items() if size != before[key]}
