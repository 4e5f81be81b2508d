"""The three kinds of PATCH: JSON (RFC 6902), merge (RFC 7396), and Kubernetes' strategic merge.

Strategic merge is merge patch with lists that are merged by a key of their items, and directives
(`$patch`, `$retainKeys`, `$setElementOrder/x`, `$deleteFromPrimitiveList/x`). The keys are the
`patchMergeKey` tags of the API's types. See kubernetes/community,
contributors/devel/sig-api-machinery/strategic-merge-patch.md.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any

from inroad.sandbox.apiserver.status import ApiError, bad_request

Json = dict[str, Any]

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)

_MERGE_KEYS = {
    "addresses": "type",
    "conditions": "type",
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "hostAliases": "ip",
    "hostIPs": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "podIPs": "ip",
    "resourceClaims": "name",
    "secrets": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
    "webhooks": "name",
}
_PRIMITIVE_SETS = ("finalizers",)
_ORDER, _DELETE = "$setElementOrder/", "$deleteFromPrimitiveList/"


def apply(content_type: str, obj: Json, patch: Any) -> Any:
    """Return the object that a patch makes of `obj` (which may be changed on the way); 400, 415 or 422."""
    if content_type == JSON_PATCH:
        if not isinstance(patch, list):
            raise bad_request("error decoding patch: a JSON patch is a list of operations")
        for operation in patch:
            obj = _operate(obj, operation)
        return obj
    if not isinstance(patch, dict):
        raise bad_request("error decoding patch: a merge patch is an object")
    if content_type == MERGE_PATCH:
        return merge(obj, patch)
    return strategic(obj, patch)


def merge(target: Any, patch: Any) -> Any:
    """Return what an RFC 7396 patch makes of `target`."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


# -- strategic merge ----------------------------------------------------------------------------------


def strategic(target: Json, patch: Json) -> Json:
    """Return what a strategic merge patch makes of an object."""
    directive = patch.get("$patch")
    if directive == "delete":
        return {}
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    result = dict(target)
    retained = patch.get("$retainKeys")
    if retained is not None:
        result = {key: value for key, value in result.items() if key in retained}
    for key, value in patch.items():
        if key.startswith(_DELETE):
            field = key.removeprefix(_DELETE)
            result[field] = [item for item in result.get(field) or [] if item not in value]
        elif value is None:
            result.pop(key, None)
        elif not key.startswith("$"):
            result[key] = _merged(key, result.get(key), value)
    for key, order in patch.items():
        if key.startswith(_ORDER):
            field = key.removeprefix(_ORDER)
            if isinstance(result.get(field), list):
                result[field] = _ordered(field, result[field], order)
    return result


def _merged(field: str, old: Any, patch: Any) -> Any:
    if isinstance(patch, dict):
        return strategic(old if isinstance(old, dict) else {}, patch)
    if isinstance(patch, list):
        return _merge_list(field, old or [], patch)
    return patch


def _merge_key(field: str, items: Sequence[Any]) -> str:
    """Return the key by which items of a list are the same, '' for lists that are replaced whole."""
    if field == "ports":  # a Service's by port, a container's by containerPort
        inside = any("containerPort" in item for item in items if isinstance(item, dict))
        return "containerPort" if inside else "port"
    return _MERGE_KEYS.get(field, "")


def _merge_list(field: str, old: list[Any], patch: list[Any]) -> list[Any]:
    if field in _PRIMITIVE_SETS:
        return _interleaved(old + [item for item in patch if item not in old], patch, old, str)
    key = _merge_key(field, [*old, *patch])
    items = [item for item in patch if isinstance(item, dict)]
    if not key or len(items) != len(patch):
        return patch
    if any(item.get("$patch") == "replace" for item in items):
        return [item for item in items if "$patch" not in item]
    result = list(old)
    for item in items:
        if key not in item:
            if "$patch" in item:
                continue
            raise ApiError(
                422, "Invalid", f"map: {item} does not contain declared merge key: {key}", details={}
            )
        place = next((i for i, one in enumerate(result) if one.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            if place is not None:
                del result[place]
        elif place is None:
            result.append(strategic({}, item))
        else:
            result[place] = strategic(result[place], item)
    named = [item[key] for item in items if key in item]
    return _interleaved(result, named, [one.get(key) for one in old], operator.itemgetter(key))


def _interleaved(
    items: list[Any], named: list[Any], before: list[Any], rank_of: Callable[[Any], Any]
) -> list[Any]:
    """Order a merged list as the API server does: what the patch names in its order, the rest as it was.

    Where the two meet an item that was there keeps its place among those that were; a new one comes first.
    """
    patched = sorted(
        (one for one in items if rank_of(one) in named), key=lambda one: named.index(rank_of(one))
    )
    kept = [one for one in items if rank_of(one) not in named]
    merged: list[Any] = []
    while kept and patched:
        left, right = rank_of(kept[0]), rank_of(patched[0])
        stays = left in before and right in before and before.index(left) < before.index(right)
        merged.append((kept if stays else patched).pop(0))
    return merged + kept + patched


def _ordered(field: str, items: list[Any], order: list[Any]) -> list[Any]:
    """Put items in the order that the client wants; those it does not know keep their place at the end."""
    key = _merge_key(field, [*items, *order])

    def rank_of(item: Any) -> Any:
        return item.get(key) if isinstance(item, dict) and key else item

    ranks = [rank_of(item) for item in order]
    known = [item for item in items if rank_of(item) in ranks]
    known.sort(key=lambda item: ranks.index(rank_of(item)))
    return known + [item for item in items if rank_of(item) not in ranks]


# -- JSON patch ---------------------------------------------------------------------------------------


def _operate(document: Any, operation: Json) -> Any:
    try:
        kind, path = operation["op"], _pointer(operation["path"])
        if kind == "test":
            if _find(document, path) != operation["value"]:
                raise _unfit(f"testing value {operation['path']} failed")
            return document
        if kind in ("move", "copy"):
            source = _pointer(operation["from"])
            value = copy.deepcopy(_find(document, source))
            if kind == "move":
                document = _removed(document, source)
            return _added(document, path, value)
        if kind == "add":
            return _added(document, path, operation["value"])
        if kind == "remove":
            return _removed(document, path)
        if kind == "replace":
            _find(document, path)
            return _added(_removed(document, path) if path else None, path, operation["value"])
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        raise _unfit(
            f"{operation.get('op', 'unknown') if isinstance(operation, dict) else 'unknown'} operation does "
            f"not apply: doc is missing path: {operation.get('path') if isinstance(operation, dict) else ''}"
        ) from None
    raise bad_request(f"unknown JSON patch operation: {kind}")


def _unfit(why: str) -> ApiError:
    return ApiError(
        422, "Invalid", f"the server rejected our request due to an error in our request: {why}", details={}
    )


def _pointer(text: str) -> list[str]:
    """Split an RFC 6901 pointer."""
    if text == "":
        return []
    if not text.startswith("/"):
        raise ValueError(text)
    return [step.replace("~1", "/").replace("~0", "~") for step in text[1:].split("/")]


def _step(node: Any, step: str) -> Any:
    return node[int(step)] if isinstance(node, list) else node[step]


def _find(document: Any, path: Sequence[str]) -> Any:
    for step in path:
        document = _step(document, step)
    return document


def _added(document: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    *parents, last = path
    node = _find(document, parents)
    if isinstance(node, list):
        place = len(node) if last == "-" else int(last)
        if not 0 <= place <= len(node):
            raise IndexError(place)
        node.insert(place, value)
    else:
        node[last] = value
    return document


def _removed(document: Any, path: Sequence[str]) -> Any:
    *parents, last = path
    node = _find(document, parents)
    if isinstance(node, list):
        del node[int(last)]
    else:
        del node[last]
    return document
