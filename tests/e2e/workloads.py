"""The sandbox's workloads on a real cluster: the same manifests and programs, from our own image."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

from inroad.sandbox import manifests

IMAGE = os.environ.get("INROAD_E2E_IMAGE", "inroad:0.1.0")
_PATH, _, _TAG = IMAGE.rpartition(":")
_REGISTRY, _, _NAME = _PATH.rpartition("/")
IMAGE_VALUES = tuple(
    argument
    for setting in (f"registry={_REGISTRY}", f"name={_NAME}", f"tag={_TAG}")
    for argument in ("--set", f"image.{setting}")
)
"""The image as helm's arguments."""

# They run as the image's user, who may not listen below 1024 unless the pod says so.
PORTS_FOR_ALL = {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}


def _placed(namespace: str, body: dict[str, Any]) -> dict[str, Any]:
    body = copy.deepcopy(body)
    if namespace:
        body["metadata"]["namespace"] = namespace
    if body["kind"] in ("Deployment", "StatefulSet"):
        pod = body["spec"]["template"]["spec"]
        pod["securityContext"] = {"sysctls": [PORTS_FOR_ALL]}
        pod["automountServiceAccountToken"] = False
        for container in pod["containers"]:
            container.update(image=IMAGE, imagePullPolicy="IfNotPresent")
    return body


def as_list() -> str:
    """Return the namespaces, Services and Deployments as one JSON list for `kubectl apply`."""
    items = [_placed(namespace, body) for namespace, body in manifests.workloads()]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
