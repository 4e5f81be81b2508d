"""The rules that all objects share: metadata, what an update may not change, how deletion goes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from inroad.sandbox.apiserver import names
from inroad.sandbox.apiserver.resources import Resource
from inroad.sandbox.apiserver.status import Cause

Json = dict[str, Any]

_SYSTEM_METADATA = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "generateName",
)
_NEVER_SPEC = ("kind", "apiVersion", "metadata", "status")


def timestamp(seconds: float) -> str:
    """Return a time as `metadata.creationTimestamp` has it, to the second."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def metadata_causes(resource: Resource, metadata: Json) -> list[Cause]:
    """Return what is wrong with an object's metadata."""
    name = metadata.get("name")
    if not name:
        return [Cause.required("metadata.name", "name or generateName is required")]
    causes = names.name_causes(resource, name)
    return causes + names.label_causes(metadata.get("labels") or {}, "metadata.labels")


def keep_system_fields(resource: Resource, obj: Json, old: Json, subresource: str) -> None:
    """Carry over what an update can't change: system metadata, and status or everything but it."""
    metadata, was = obj["metadata"], old["metadata"]
    for key in _SYSTEM_METADATA:
        if key in was:
            metadata[key] = was[key]
        else:
            metadata.pop(key, None)
    if subresource == "status":
        _replace_all_but(obj, old, "status")
        return
    if resource.plural == "pods":
        _keep_ephemeral(obj, old, subresource)
    if "status" in resource.subresources:
        if "status" in old:
            obj["status"] = old["status"]
        else:
            obj.pop("status", None)
    if resource.generation and _wanted(obj) != _wanted(old):
        metadata["generation"] = was.get("generation", 0) + 1


def _replace_all_but(obj: Json, old: Json, kept: str) -> None:
    """Take everything from `old` except metadata and one part."""
    part = obj.get(kept)
    for key in [key for key in obj if key not in ("kind", "apiVersion", "metadata")]:
        del obj[key]
    obj.update({key: value for key, value in old.items() if key not in (*_NEVER_SPEC, kept)})
    if part is not None:
        obj[kept] = part
    if kept != "status" and "status" in old:
        obj["status"] = old["status"]


def _keep_ephemeral(pod: Json, old: Json, subresource: str) -> None:
    """Ephemeral containers change through their own subresource, which changes nothing else."""
    field = "ephemeralContainers"
    if subresource == "ephemeralcontainers":
        wanted = pod.get("spec", {}).get(field)
        pod["spec"] = dict(old["spec"])
    else:
        wanted = old["spec"].get(field)
    if wanted:
        pod["spec"][field] = wanted
    else:
        pod["spec"].pop(field, None)


def _wanted(obj: Json) -> Json:
    return {key: value for key, value in obj.items() if key not in _NEVER_SPEC}


def finished(obj: Json) -> bool:
    """Return True for an object in deletion that nobody holds back any more."""
    metadata = obj["metadata"]
    return (
        "deletionTimestamp" in metadata
        and not metadata.get("finalizers")
        and not obj.get("spec", {}).get("finalizers")
        and metadata.get("deletionGracePeriodSeconds", 0) == 0
    )


def add_finalizer(obj: Json, policy: str) -> None:
    """Leave the mark by which the garbage collector knows how dependents are to be treated."""
    finalizer = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(policy)
    if finalizer is not None:
        finalizers = obj["metadata"].setdefault("finalizers", [])
        if finalizer not in finalizers:
            finalizers.append(finalizer)


def mark_deleted(resource: Resource, obj: Json, grace: int | None, now: float) -> bool:
    """Mark an object as being deleted; return False when nothing holds it back and it goes at once."""
    metadata = obj["metadata"]
    seconds = 0
    if resource.plural == "pods":
        seconds = _pod_grace(obj, grace)
    held = bool(metadata.get("finalizers")) or (
        resource.plural == "namespaces" and bool(obj.get("spec", {}).get("finalizers"))
    )
    if not held and seconds == 0:
        return False
    earlier = metadata.get("deletionGracePeriodSeconds")
    if "deletionTimestamp" not in metadata or (earlier is not None and seconds < earlier):
        metadata["deletionTimestamp"] = timestamp(now + seconds)
        metadata["deletionGracePeriodSeconds"] = seconds
    if resource.plural == "namespaces":
        obj["status"]["phase"] = "Terminating"
        metadata.pop("deletionGracePeriodSeconds", None)
    return True


def _pod_grace(pod: Json, grace: int | None) -> int:
    """Return how many seconds a pod may take to stop: none when it runs nowhere or has ended."""
    spec = pod.get("spec", {})
    if not spec.get("nodeName") or pod.get("status", {}).get("phase") in ("Failed", "Succeeded"):
        return 0
    if grace is not None:
        return max(grace, 0)
    return int(spec.get("terminationGracePeriodSeconds", 30))


def uid_text(asked: str, actual: str) -> str:
    """Return the text of a failed UID precondition."""
    return f"Precondition failed: UID in precondition: {asked}, UID in object meta: {actual}"


def cluster_ips(service: Json | None) -> list[str]:
    """Return the addresses that were given to a service."""
    if service is None:
        return []
    return [one for one in service["spec"].get("clusterIPs") or () if one and one != "None"]


def ip_address_of(service: Json, address: str) -> Json:
    """Return the IPAddress object that says whose an address is."""
    family = "IPv6" if ":" in address else "IPv4"
    metadata = service["metadata"]
    return {
        "metadata": {
            "name": address,
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family,
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {
            "parentRef": {
                "group": "",
                "resource": "services",
                "namespace": metadata.get("namespace", ""),
                "name": metadata["name"],
            }
        },
    }


def service_cidr(cidrs: Sequence[str], when: str) -> Json:
    """Return the ServiceCIDR object that a cluster starts with."""
    ready = {
        "type": "Ready",
        "status": "True",
        "lastTransitionTime": when,
        "reason": "",
        "message": "Kubernetes default Service CIDR is ready",
    }
    return {
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": list(cidrs)},
        "status": {"conditions": [ready]},
    }
