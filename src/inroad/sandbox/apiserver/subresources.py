"""Subresources that are more than a part of their object: scale, token, binding, eviction, finalize, ..."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from inroad.sandbox.apiserver import cells, objects
from inroad.sandbox.apiserver.auth import Authenticator
from inroad.sandbox.apiserver.requests import Target
from inroad.sandbox.apiserver.resources import BY_PLURAL
from inroad.sandbox.apiserver.status import (
    Cause,
    bad_request,
    conflict,
    invalid,
    not_found,
)
from inroad.sandbox.apiserver.store import Store
from inroad.sandbox.apiserver.tokens import ISSUER

Json = dict[str, Any]
ReadLog = Callable[[str, str, str, int | None], Awaitable[bytes]]
"""(namespace, pod, container, last lines or None for all) to what the container wrote; LookupError."""

_SHORTEST = 600
_LONGEST = 365 * 86400


def scale_of(obj: Json) -> Json:
    """Return the `Scale` view of a workload."""
    metadata = {
        key: obj["metadata"][key]
        for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        if key in obj["metadata"]
    }
    selector, replicas = cells.selector(obj["spec"].get("selector")), obj["spec"].get("replicas", 0)
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": replicas} if replicas else {},
        "status": {"replicas": obj.get("status", {}).get("replicas", 0), "selector": selector},
    }


def rescaled(store: Store, target: Target, scale: Json) -> Json:
    """Set the number of replicas from a Scale; return the new Scale."""
    replicas = scale.get("spec", {}).get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        cause = Cause.invalid("spec.replicas", str(replicas), "must be greater than or equal to 0")
        raise invalid(target.resource, target.name, [cause])
    obj = store.get(target.resource.plural, target.name, target.namespace or "")
    asked = scale.get("metadata", {}).get("resourceVersion")
    if asked and asked != obj["metadata"]["resourceVersion"]:
        raise conflict(target.resource, target.name)
    obj["spec"]["replicas"] = replicas
    return scale_of(store.update(target.resource.plural, obj))


def token_request(store: Store, authenticator: Authenticator, target: Target, obj: Json) -> Json:
    """Answer `serviceaccounts/token`: a token for audiences, bound to a pod when the request says so."""
    account = store.get("serviceaccounts", target.name, target.namespace or "")
    spec = obj.get("spec") or {}
    seconds = spec.get("expirationSeconds") or 3600
    if not _SHORTEST <= seconds <= _LONGEST:
        short = seconds < _SHORTEST
        why = (
            "may not specify a duration less than 10 minutes"
            if short
            else ("may not specify a duration larger than 2^32 seconds")
        )
        cause = Cause.invalid("spec.expirationSeconds", str(seconds), why)
        request = BY_PLURAL["serviceaccounts"]
        raise invalid(request, target.name, [cause])
    audiences = spec.get("audiences") or [ISSUER]
    pod, pod_uid = "", ""
    bound = spec.get("boundObjectRef")
    if bound and bound.get("kind") == "Pod":
        found = store.find("pods", bound["name"], target.namespace or "")
        if found is None:
            raise not_found(BY_PLURAL["pods"], bound["name"])
        pod, pod_uid = bound["name"], found["metadata"]["uid"]
        if bound.get("uid", pod_uid) != pod_uid:
            uid = bound["uid"]
            why = f"the UID in the bound object reference ({uid}) does not match the UID in record. "
            raise conflict(
                BY_PLURAL["pods"], pod, why + "The object might have been deleted and then recreated"
            )
    token = authenticator.issuer.issue(
        target.namespace or "",
        target.name,
        account["metadata"]["uid"],
        audiences=audiences,
        lifetime=seconds,
        pod=pod,
        pod_uid=pod_uid,
    )
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {
            "name": target.name,
            "namespace": target.namespace,
            "creationTimestamp": store.timestamp(),
        },
        "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": bound},
        "status": {"token": token, "expirationTimestamp": objects.timestamp(store.now() + seconds)},
    }


def bind(store: Store, target: Target, obj: Json) -> Json:
    """Put a pod on a node (`pods/binding`, what schedulers do)."""
    pod = store.get("pods", target.name, target.namespace or "")
    if pod["spec"].get("nodeName"):
        why = f'pod {target.name} is already assigned to node "{pod["spec"]["nodeName"]}"'
        raise conflict(BY_PLURAL["pods"], target.name, why)
    pod["spec"]["nodeName"] = obj.get("target", {}).get("name", "")
    store.update("pods", pod)
    return _success(201)


def evict(store: Store, target: Target, obj: Json) -> Json:
    """Delete a pod the polite way (`pods/eviction`; budgets are not looked at)."""
    options = obj.get("deleteOptions") or {}
    store.delete("pods", target.name, target.namespace or "", grace=options.get("gracePeriodSeconds"))
    return _success(201)


def finalize(store: Store, target: Target, obj: Json) -> Json:
    """Set a namespace's finalizers."""
    wanted = obj.get("spec", {}).get("finalizers") or []

    def change(namespace: Json) -> None:
        namespace["spec"]["finalizers"] = wanted

    return store.modify("namespaces", target.name, "", change)


async def log_text(
    read: ReadLog | None, store: Store, target: Target, container: str, tail: int | None
) -> bytes | None:
    """Return what a container wrote; None for a pod that is on no node yet."""
    pod = store.get("pods", target.name, target.namespace or "")
    names = [one["name"] for one in pod["spec"].get("containers") or ()]
    if not container and len(names) > 1:
        raise bad_request(
            f"a container name must be specified for pod {target.name}, choose one of: [{' '.join(names)}]"
        )
    container = container or names[0]
    if container not in names:
        raise bad_request(f"container {container} is not valid for pod {target.name}")
    if not pod["spec"].get("nodeName"):
        return None
    try:
        if read is None:
            raise LookupError(container)
        return await read(target.namespace or "", target.name, container, tail)
    except LookupError:
        raise bad_request(
            f'container "{container}" in pod "{target.name}" is waiting to start: ContainerCreating'
        ) from None


def _success(code: int) -> Json:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code}
