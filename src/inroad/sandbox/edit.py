"""`apply` and `delete`: putting objects into the store and taking them out, as `kubectl` would over HTTP."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable, Iterator
from typing import Any

from inroad.core.errors import SandboxFailed
from inroad.sandbox.apiserver import defaults
from inroad.sandbox.apiserver.resources import BY_KIND, RESOURCES, Resource
from inroad.sandbox.apiserver.store import ApiError, Store

Json = dict[str, Any]


def resource_named(text: str) -> Resource:
    """Return the resource of a kind, plural, singular or short name; `SandboxFailed` when there is none."""
    wanted = text.lower()
    for one in RESOURCES:
        if one.stored and wanted in (one.plural, one.singular, one.kind.lower(), one.qualified, *one.short):
            return one
    raise SandboxFailed(f"the cluster has no kind {text!r}")


def flat(objects: Iterable[Json]) -> Iterator[Json]:
    """Yield the objects, those inside of Lists too."""
    for obj in objects:
        if str(obj.get("kind", "")).endswith("List") and "items" in obj:
            yield from flat(obj["items"])
        else:
            yield obj


def apply(store: Store, objects: Iterable[Json], namespace: str) -> list[str]:
    """Create objects, or make existing ones what is given; return one line for each, as kubectl says it."""
    lines = []
    for obj in flat(objects):
        kind = str(obj.get("apiVersion")), str(obj.get("kind"))
        resource = BY_KIND.get(kind)
        if resource is None or not resource.stored:
            raise SandboxFailed(f"the cluster has no kind {kind[1]!r} in {kind[0]!r}")
        where = str(obj["metadata"].get("namespace") or namespace) if resource.namespaced else ""
        try:
            lines.append(f"{resource.singular}/{obj['metadata']['name']} {_put(store, resource, obj, where)}")
        except ApiError as error:
            raise SandboxFailed(error.message) from None
    return lines


def _put(store: Store, resource: Resource, obj: Json, namespace: str) -> str:
    before = store.find(resource.plural, obj["metadata"]["name"], namespace)
    if before is None:
        store.create(resource.plural, obj, namespace)
        return "created"
    metadata = {**before["metadata"], **obj["metadata"]}
    for key in ("labels", "annotations"):
        if key in before["metadata"] or key in obj["metadata"]:
            metadata[key] = {**before["metadata"].get(key, {}), **(obj["metadata"].get(key) or {})}
    kept = {key: before[key] for key in ("status",) if key in before}
    wanted = copy.deepcopy({**kept, **obj, "metadata": metadata})
    defaults.apply(resource, wanted)  # else what the server fills in would count as a change
    after = store.update(resource.plural, wanted, namespace)
    same = after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    return "unchanged" if same else "configured"


async def delete(store: Store, text: str, grace: int | None, wait: float) -> str:
    """Delete `KIND/NAMESPACE/NAME` (or `KIND/NAME`), and wait until it is gone, `wait` seconds at most."""
    kind, *path = text.split("/")
    resource = resource_named(kind)
    if len(path) != (2 if resource.namespaced else 1):
        shape = "KIND/NAMESPACE/NAME" if resource.namespaced else "KIND/NAME"
        raise SandboxFailed(f"{text!r} is not {shape}")
    namespace, name = ("", *path)[-2:]
    changed = asyncio.Event()
    leave = store.subscribe(resource.plural, lambda _: changed.set())
    try:
        uid = store.get(resource.plural, name, namespace)["metadata"]["uid"]
        store.delete(resource.plural, name, namespace, grace=grace)
        async with asyncio.timeout(wait):
            while (store.find(resource.plural, name, namespace) or {"metadata": {"uid": ""}})["metadata"][
                "uid"
            ] == uid:
                changed.clear()
                await changed.wait()
    except ApiError as error:
        raise SandboxFailed(error.message) from None
    except TimeoutError:
        raise SandboxFailed(f"{text} is still there after {wait:.0f} s") from None
    finally:
        leave()
    return f"{resource.singular}/{name} deleted"
