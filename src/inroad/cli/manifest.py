"""The cluster side as plain objects, for those without helm: what the chart renders to, and three choices."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from typing import Any

Object = dict[str, Any]

RENDERED_FOR = "inroad"
"""The namespace that the chart was rendered for."""


def objects(namespace: str, image: str = "", pod_cidr_strategy: str = "") -> list[Object]:
    """Return the objects of the cluster side, its Namespace first; empty choices stay the chart's."""
    import yaml  # noqa: PLC0415 - only an installation reads it

    text = files("inroad.cli").joinpath("manifest.yaml").read_text(encoding="utf-8")
    found: list[Object] = [body for body in yaml.safe_load_all(text) if body]
    for body in found:
        _move(body, namespace)
        for container in _containers(body):
            if image:
                container["image"] = image
                _set_variable(container, "AGENT_IMAGE", image)
            if pod_cidr_strategy:
                _set_variable(container, "POD_CIDR_STRATEGY", pod_cidr_strategy)
    return found


def _move(body: Object, namespace: str) -> None:
    """Put an object into a namespace; cluster-wide names carry it, so that two can stand side by side."""
    metadata = body["metadata"]
    if "namespace" in metadata:
        metadata["namespace"] = namespace
    elif body["kind"] == "Namespace":
        metadata["name"] = namespace
    else:
        metadata["name"] = _renamed(metadata["name"], namespace)
        if "roleRef" in body:
            body["roleRef"]["name"] = _renamed(body["roleRef"]["name"], namespace)
    for subject in body.get("subjects", ()):
        subject["namespace"] = namespace
    own = f"traffic-manager-{RENDERED_FOR}"
    for rule in body.get("rules", ()):
        if own in rule.get("resourceNames", ()):
            rule["resourceNames"] = [_renamed(own, namespace)]
    for webhook in body.get("webhooks", ()):
        webhook["clientConfig"]["service"]["namespace"] = namespace


def _renamed(name: str, namespace: str) -> str:
    return f"{name.removesuffix(f'-{RENDERED_FOR}')}-{namespace}"


def _containers(body: Object) -> Iterable[Object]:
    if body["kind"] != "Deployment":
        return ()
    found: list[Object] = body["spec"]["template"]["spec"]["containers"]
    return found


def _set_variable(container: Object, name: str, value: str) -> None:
    for variable in container["env"]:
        if variable["name"] == name:
            variable["value"] = value
