"""Which kinds there are, as clients ask for it: one document per group version, or all at once.

The second form is kubectl's own since 1.26: two requests instead of one per group.
"""

from __future__ import annotations

from typing import Any

from inroad.sandbox.apiserver.resources import Resource

Json = dict[str, Any]
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

_SUBRESOURCES: dict[str, tuple[str, str, list[str]]] = {
    "binding": ("Binding", "", ["create"]),
    "eviction": ("Eviction", "policy/v1", ["create"]),
    "log": ("Pod", "", ["get"]),
    "portforward": ("PodPortForwardOptions", "", ["create", "get"]),
    "scale": ("Scale", "autoscaling/v1", ["get", "patch", "update"]),
    "token": ("TokenRequest", "authentication.k8s.io/v1", ["create"]),
    "finalize": ("Namespace", "", ["update"]),
}


def group(name: str, resources: list[Resource]) -> Json:
    """Return one entry of /apis."""
    versions = sorted({r.version for r in resources if r.group == name})
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def resource_list(group_version: str, resources: list[Resource]) -> Json:
    """Return what a group version serves."""
    listed: list[Json] = []
    for resource in resources:
        item: Json = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(resource.verbs),
        }
        if resource.short:
            item["shortNames"] = list(resource.short)
        if resource.categories:
            item["categories"] = list(resource.categories)
        listed.append(item)
        listed += [_subresource(resource, name) for name in resource.subresources]
    head = {"kind": "APIResourceList"} | ({"apiVersion": "v1"} if "/" in group_version else {})
    return head | {"groupVersion": group_version, "resources": listed}


def _subresource(resource: Resource, name: str) -> Json:
    kind, group_version, verbs = _SUBRESOURCES.get(name, (resource.kind, "", ["get", "patch", "update"]))
    item: Json = {
        "name": f"{resource.plural}/{name}",
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": kind,
        "verbs": verbs,
    }
    if group_version:
        group, _, version = group_version.partition("/")
        item |= {"group": group, "version": version}
    return item


def aggregated(resources: list[Resource]) -> Json:
    """Return the discovery of all these kinds as one document."""
    groups = sorted({resource.group for resource in resources})
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": [_aggregated_group(name, [r for r in resources if r.group == name]) for name in groups],
    }


def _aggregated_group(name: str, resources: list[Resource]) -> Json:
    versions = sorted({resource.version for resource in resources})
    return {
        "metadata": {"name": name},
        "versions": [
            {
                "version": version,
                "resources": [_aggregated(one) for one in resources if one.version == version],
                "freshness": "Current",
            }
            for version in versions
        ],
    }


def _aggregated(resource: Resource) -> Json:
    item: Json = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short:
        item["shortNames"] = list(resource.short)
    if resource.categories:
        item["categories"] = list(resource.categories)
    if resource.subresources:
        item["subresources"] = [_aggregated_part(resource, name) for name in resource.subresources]
    return item


def _aggregated_part(resource: Resource, name: str) -> Json:
    part = _subresource(resource, name)
    return {
        "subresource": name,
        "responseKind": {
            "group": part.get("group", resource.group),
            "version": part.get("version", resource.version),
            "kind": part["kind"],
        },
        "verbs": part["verbs"],
    }
