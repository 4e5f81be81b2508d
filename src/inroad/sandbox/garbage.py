"""What an owner leaves behind goes with it, or is set free: the garbage collector.

A deletion with `--cascade=foreground` leaves the finalizer `foregroundDeletion` on the owner until its
dependents are gone, one with `--cascade=orphan` the finalizer `orphan` until they have forgotten it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from inroad.sandbox.apiserver.collection import Change
from inroad.sandbox.controller import Controller, split

Json = dict[str, Any]
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


class GarbageCollector(Controller):
    """Looks after the dependents of owners that are deleted."""

    watches = ("deployments", "replicasets", "statefulsets", "daemonsets", "services", "pods")
    dependents = ("replicasets", "pods", "endpointslices", "endpoints")

    def keys(self, plural: str, change: Change) -> Iterable[str]:
        """Name `namespace/uid` of owners that go or are gone, and of those that wait for a dependent."""
        if change.kind != "DELETED" and b'"deletionTimestamp"' not in change.entry.data:
            return []
        metadata = change.entry.object()["metadata"]
        uids = [metadata["uid"]]
        if change.kind == "DELETED":
            uids += [owner["uid"] for owner in metadata.get("ownerReferences", ())]
        return [f"{change.entry.namespace}/{uid}" for uid in uids]

    async def reconcile(self, key: str) -> None:
        """Delete everything that only this owner has, or make it forget the owner."""
        namespace, uid = split(key)
        plural, owner = self._owner(namespace, uid)
        finalizers = owner["metadata"].get("finalizers", ()) if owner else ()
        if owner and not ("deletionTimestamp" in owner["metadata"] and {FOREGROUND, ORPHAN} & {*finalizers}):
            return
        left = self._release(namespace, uid, orphan=ORPHAN in finalizers)
        if owner and (ORPHAN in finalizers or not left):
            rest = [one for one in finalizers if one not in (FOREGROUND, ORPHAN)]

            def finish(obj: Json) -> None:
                obj["metadata"]["finalizers"] = rest

            self.store.modify(plural, owner["metadata"]["name"], namespace, finish)

    def _owner(self, namespace: str, uid: str) -> tuple[str, Json | None]:
        for plural in self.watches:
            for entry in self.store.collection(plural).select(namespace):
                if uid.encode() in entry.data and (obj := entry.object())["metadata"]["uid"] == uid:
                    return plural, obj
        return "", None

    def _release(self, namespace: str, uid: str, *, orphan: bool) -> int:
        """Treat the dependents of an owner; return how many of them are still there."""
        left = 0
        for plural in self.dependents:
            for entry in list(self.store.collection(plural).select(namespace)):
                if uid.encode() not in entry.data:
                    continue
                obj = entry.object()
                owners = obj["metadata"].get("ownerReferences", ())
                others = [owner for owner in owners if owner["uid"] != uid]
                if len(others) == len(owners):
                    continue
                if orphan or others:
                    obj["metadata"]["ownerReferences"] = others
                    self.store.update(plural, obj)
                    continue
                if "deletionTimestamp" not in obj["metadata"]:
                    self.store.delete(plural, entry.name, namespace)
                left += self.store.find(plural, entry.name, namespace) is not None
        return left
