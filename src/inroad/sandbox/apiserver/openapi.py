"""Just enough OpenAPI for kubectl to see that the server validates fields itself (`fieldValidation`).

kubectl looks for that parameter of PATCH before `apply` and `create`; without it, it would ask for the
complete schemas. Schemas of the kinds are not served: `kubectl explain` has nothing to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inroad.sandbox.apiserver.resources import Resource

Json = dict[str, Any]
_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation", "force")


def document(path: str, resources: Sequence[Resource]) -> Json | None:
    """Return /openapi/v3 or the document of one group version; None for other paths."""
    prefixes = {_prefix(resource): resource for resource in resources}
    if path == "/openapi/v3":
        return {"paths": {name: {"serverRelativeURL": f"/openapi/v3/{name}"} for name in sorted(prefixes)}}
    name = path.removeprefix("/openapi/v3/")
    if name not in prefixes:
        return None
    inside = [resource for resource in resources if _prefix(resource) == name]
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "inroad-sandbox"},
        "paths": {_path(resource): {"patch": _patch(resource)} for resource in inside},
        "components": {"schemas": {}},
    }


def _prefix(resource: Resource) -> str:
    return f"apis/{resource.group}/{resource.version}" if resource.group else f"api/{resource.version}"


def _path(resource: Resource) -> str:
    scope = "namespaces/{namespace}/" if resource.namespaced else ""
    return f"/{_prefix(resource)}/{scope}{resource.plural}/{{name}}"


def _patch(resource: Resource) -> Json:
    return {
        "operationId": f"patch{resource.kind}",
        "parameters": [{"name": name, "in": "query", "schema": {"type": "string"}} for name in _PARAMETERS],
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": {
            "group": resource.group,
            "version": resource.version,
            "kind": resource.kind,
        },
    }
