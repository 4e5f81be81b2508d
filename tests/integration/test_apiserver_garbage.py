"""What `kubectl delete --cascade=...` leaves: the store's finalizers and the garbage collector together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from inroad.sandbox.apiserver import Store
from inroad.sandbox.garbage import GarbageCollector


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = Store()
    task = asyncio.ensure_future(GarbageCollector(store).run())
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "main"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    above: list[dict[str, object]] = []
    for plural, kind, name in (("deployments", "Deployment", "d"), ("replicasets", "ReplicaSet", "r")):
        body = {"metadata": {"name": name, "ownerReferences": above}, "spec": spec}
        uid = store.create(plural, body)["metadata"]["uid"]
        above = [{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": True}]
    pod = {"metadata": {"name": "p", "ownerReferences": above}, "spec": template["spec"] | {"nodeName": "n"}}
    store.create("pods", pod)
    yield store
    task.cancel()


def left(store: Store) -> list[str]:
    return [
        one["metadata"]["name"] for kind in ("deployments", "replicasets", "pods") for one in store.list(kind)
    ]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_background(store: Store) -> None:
    store.delete("deployments", "d", "default", policy="Background")
    await settle()
    assert left(store) == ["p"]  # it ends in its own time
    assert store.get("pods", "p", "default")["metadata"]["deletionTimestamp"]
    store.delete("pods", "p", "default", grace=0)
    await settle()
    assert left(store) == []


async def test_foreground(store: Store) -> None:
    store.delete("replicasets", "r", "default", policy="Foreground")
    await settle()
    assert left(store) == ["d", "r", "p"]
    store.delete("pods", "p", "default", grace=0)
    await settle()
    assert left(store) == ["d"]


async def test_orphan(store: Store) -> None:
    store.delete("replicasets", "r", "default", policy="Orphan")
    await settle()
    assert left(store) == ["d", "p"]
    metadata = store.get("pods", "p", "default")["metadata"]
    assert not metadata.get("ownerReferences") and "deletionTimestamp" not in metadata
