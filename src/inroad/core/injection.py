"""How a traffic-agent is put into a pod that is about to be created.

`decide` turns a pod into a JSON patch (RFC 6902) and says why there is none. It is asked again when another
webhook changed the pod after us, so what is there already is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inroad.core.agent_container import NAME, VOLUME, AgentSpec, container, identity

Json = dict[str, Any]

ANNOTATION = "inroad.dev/inject-traffic-agent"
_MIRROR = "kubernetes.io/config.mirror"
_PART_OF, _COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"


@dataclass(frozen=True, slots=True)
class Decision:
    """A JSON patch, or none and why. `warning`: whoever creates the pod has asked for one and is told."""

    patch: tuple[Json, ...] = ()
    reason: str = ""
    warning: bool = False


def decide(pod: Mapping[str, Any], agent: AgentSpec, *, native: bool) -> Decision:
    """Return how the pod gets an agent, if it is to have one. Never raises for what a pod may look like.

    `native`: the cluster knows init containers that go on running (Kubernetes 1.29 and later).
    """
    metadata, spec = _object(pod, "metadata"), _object(pod, "spec")
    wish = _object(metadata, "annotations").get(ANNOTATION)
    if wish in (None, "disabled"):
        return Decision(reason="not asked for")
    if wish != "enabled":
        return Decision(reason=f"{ANNOTATION} is {wish!r}: use enabled or disabled", warning=True)
    refusal = _refusal(metadata, spec)
    if refusal:
        return Decision(reason=refusal, warning=True)
    if NAME in _names(spec, "containers") | _names(spec, "initContainers"):
        return Decision(reason="it has one already")
    ends = spec.get("restartPolicy", "Always") != "Always"
    if ends and not native:
        # an ordinary container would keep the pod from ever being complete
        return Decision(
            reason="a pod that ends takes an agent only from Kubernetes 1.29 on; "
            "attach one while it runs (inroad attach pod/NAME), or use a namespace agent",
            warning=True,
        )
    volume = _free(VOLUME, _names(spec, "volumes"))
    body = container(agent, "sidecar", volume)
    if ends:
        body["restartPolicy"] = "Always"
    # The last of its list: kubectl takes the first one for logs and exec, and what prepares the network
    # of the pod (a mesh's init container) has to have run before.
    return Decision(
        (
            _append(spec, "volumes", identity(volume)),
            _append(spec, "initContainers" if ends else "containers", body),
        )
    )


def _refusal(metadata: Json, spec: Json) -> str:
    """Return why this pod takes no agent, whatever its annotation says."""
    labels = _object(metadata, "labels")
    ours = labels.get(_PART_OF) == "inroad" and labels.get(_COMPONENT) in ("traffic-manager", NAME)
    for refused, why in (
        (spec.get("hostNetwork"), "a pod in its node's network has none of its own"),
        (ours, "it is a part of inroad itself"),
        (_MIRROR in _object(metadata, "annotations"), "a static pod can't be changed"),
        (_object(spec, "os").get("name") == "windows", "agents run on Linux only"),
        (metadata.get("deletionTimestamp"), "it is being deleted"),
        (not spec.get("containers"), "it has no containers"),
    ):
        if refused:
            return why
    return ""


def _append(spec: Json, name: str, value: Json) -> Json:
    if spec.get(name):
        return {"op": "add", "path": f"/spec/{name}/-", "value": value}
    return {"op": "add", "path": f"/spec/{name}", "value": [value]}


def _object(parent: Mapping[str, Any], name: str) -> Json:
    found = parent.get(name)
    return found if isinstance(found, dict) else {}


def _names(spec: Json, name: str) -> set[str]:
    found = spec.get(name)
    entries = found if isinstance(found, list) else []
    return {str(one.get("name")) for one in entries if isinstance(one, dict)}


def _free(name: str, taken: set[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found
