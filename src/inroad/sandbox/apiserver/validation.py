"""The rules of single kinds, as far as people and clients run into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inroad.sandbox.apiserver.collection import encode
from inroad.sandbox.apiserver.resources import Resource
from inroad.sandbox.apiserver.status import Cause, invalid

Json = dict[str, Any]


def check(resource: Resource, obj: Json, old: Json | None = None, subresource: str = "") -> None:
    """Check the few rules of each kind that people run into; 422 names the field."""
    of_kind = _CHECKS.get(resource.plural)
    causes = of_kind(obj, old) if of_kind else []
    if subresource == "ephemeralcontainers" and old is not None:
        causes += _ephemeral_causes(obj, old)
    if causes:
        raise invalid(resource, obj["metadata"]["name"], causes)


_POD_FIXED = (
    "pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
    "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
    "previously negative)"
)
_POD_LOOSE = (
    "activeDeadlineSeconds",
    "tolerations",
    "terminationGracePeriodSeconds",
    "ephemeralContainers",
    "containers",
    "initContainers",
)


def _pod_causes(pod: Json, old: Json | None) -> list[Cause]:
    causes = _container_causes(pod["spec"].get("containers") or [], "spec.containers")
    if old is not None and not causes and _pod_fixed(pod["spec"]) != _pod_fixed(old["spec"]):
        bound_now = not old["spec"].get("nodeName")
        if not bound_now or _pod_fixed(pod["spec"] | {"nodeName": ""}) != _pod_fixed(
            old["spec"] | {"nodeName": ""}
        ):
            causes.append(Cause.forbidden("spec", _POD_FIXED))
    return causes


def _pod_fixed(spec: Json) -> Json:
    """Return the part of a pod's spec that never changes."""
    fixed = {key: value for key, value in spec.items() if key not in _POD_LOOSE}
    for field in ("containers", "initContainers"):
        fixed[field] = [
            {key: value for key, value in one.items() if key != "image"} for one in spec.get(field) or ()
        ]
    return fixed


def _container_causes(containers: Sequence[Json], field: str) -> list[Cause]:
    if not containers:
        return [Cause.required(field)]
    causes = []
    seen: set[str] = set()
    for index, container in enumerate(containers):
        name = container.get("name")
        if not name:
            causes.append(Cause.required(f"{field}[{index}].name"))
        elif name in seen:
            causes.append(Cause.duplicate(f"{field}[{index}].name", f'"{name}"'))
        seen.add(name or "")
    return causes


def _ephemeral_causes(new: Json, old: Json) -> list[Cause]:
    """Check a change of `pods/ephemeralcontainers`: they may be added, never changed or removed."""
    before = old["spec"].get("ephemeralContainers") or []
    after = {one.get("name"): one for one in new["spec"].get("ephemeralContainers") or ()}
    causes = []
    for one in before:
        if one["name"] not in after:
            why = f'existing ephemeral containers "{one["name"]}" may not be removed'
            causes.append(Cause.forbidden("spec.ephemeralContainers", why))
        elif after[one["name"]] != one:
            why = f'existing ephemeral containers "{one["name"]}" may not be changed'
            causes.append(Cause.forbidden("spec.ephemeralContainers", why))
    taken = {one["name"] for one in old["spec"].get("containers") or ()}
    for index, name in enumerate(after):
        if not name:
            causes.append(Cause.required(f"spec.ephemeralContainers[{index}].name"))
        elif name in taken:
            causes.append(Cause.duplicate(f"spec.ephemeralContainers[{index}].name", f'"{name}"'))
    return causes


def _workload_causes(obj: Json, old: Json | None) -> list[Cause]:
    spec = obj["spec"]
    selector = spec.get("selector")
    if not selector:
        return [Cause.required("spec.selector")]
    template = spec["template"]
    labels = template["metadata"].get("labels") or {}
    causes = []
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        text = encode(labels).decode()
        why = "`selector` does not match template `labels`"
        causes.append(Cause.invalid("spec.template.metadata.labels", text, why))
    if old is not None and old["spec"].get("selector") != selector:
        causes.append(Cause.invalid("spec.selector", encode(selector).decode(), "field is immutable"))
    causes += _container_causes(template["spec"].get("containers") or [], "spec.template.spec.containers")
    return causes


_CHECKS = {
    "pods": _pod_causes,
    "deployments": _workload_causes,
    "replicasets": _workload_causes,
    "statefulsets": _workload_causes,
    "daemonsets": _workload_causes,
}
