"""The cluster's objects in memory: what etcd and the registry behind the API server are in a real one.

HTTP handlers and the sandbox's own controllers use the same methods. Everything happens on one event
loop and nothing waits, so each call is a transaction. A dict that goes in is copied; a dict that comes
out is the caller's to change.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec

from inroad.sandbox.apiserver import defaults, names, objects, validation
from inroad.sandbox.apiserver.collection import Change, ChangeKind, Collection, Entry, Json, encode
from inroad.sandbox.apiserver.resources import BY_PLURAL, RESOURCES, Resource
from inroad.sandbox.apiserver.selectors import predicate
from inroad.sandbox.apiserver.services import Network, ServiceAddresses, parse_ranges
from inroad.sandbox.apiserver.status import (
    ApiError,
    Cause,
    already_exists,
    conflict,
    forbidden,
    invalid,
    not_found,
)

SYSTEM_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
Objects = list[Json]
Ranges = list[Network]
_copy = msgspec.json.Decoder(dict[str, Any]).decode


class Store:
    """All objects of a cluster of one Kubernetes version.

    `service_cidrs` are the ranges services get addresses from, the preferred family first. `now` gives the
    seconds since the epoch, `history` is how many changes per resource a watch can go back.
    """

    def __init__(
        self,
        *,
        service_cidrs: Iterable[str] = ("10.96.0.0/16",),
        version: tuple[int, int] = (1, 34),
        history: int = 10_000,
        now: Callable[[], float] = time.time,
        choose: random.Random | None = None,
    ) -> None:
        self.version = version
        self.now = now
        self._random = choose or random.Random()  # noqa: S311 -- names and addresses, not secrets
        self.rv = 1
        self.admit: Callable[[str, Json, str], Awaitable[Json]] | None = None
        """(resource, object, namespace) to the object as the admission webhooks want it."""
        self._collections = {r.plural: Collection(r, history) for r in RESOURCES if r.stored}
        self._addresses = ServiceAddresses(version, self._random)
        self._configured = [str(network) for network in parse_ranges(service_cidrs)]
        for namespace in SYSTEM_NAMESPACES:
            self.create("namespaces", {"metadata": {"name": namespace}})
        self.create("servicecidrs", objects.service_cidr(self._configured, self.timestamp()))
        self.forget_history()  # as a server's watch cache: it begins with what it finds

    # -- reading ------------------------------------------------------------------------------------

    def collection(self, plural: str) -> Collection:
        """Return the stored objects of one resource; KeyError when there is no such resource."""
        return self._collections[plural]

    def get(self, plural: str, name: str, namespace: str = "") -> Json:
        """Return one object; `ApiError` 404 when there is none."""
        return self.entry(plural, name, namespace).object()

    def find(self, plural: str, name: str, namespace: str = "") -> Json | None:
        """Return one object, or None."""
        entry = self.collection(plural).entries.get(f"{namespace}/{name}")
        return entry.object() if entry else None

    def entry(self, plural: str, name: str, namespace: str = "") -> Entry:
        """Return one stored entry; `ApiError` 404 when there is none."""
        collection = self.collection(plural)
        entry = collection.entries.get(f"{namespace}/{name}")
        if entry is None:
            raise not_found(collection.resource, name)
        return entry

    def list(
        self, plural: str, namespace: str | None = None, *, labels: str | Mapping[str, str] = ""
    ) -> Objects:
        """Return all objects of a namespace (None: of all) that a label selector or mapping selects."""
        selector = labels if isinstance(labels, str) else ",".join(f"{k}={v}" for k, v in labels.items())
        select = predicate(plural, selector, "")
        return [entry.object() for entry in self.collection(plural).select(namespace) if select(entry)]

    def service_ranges(self) -> Ranges:
        """Return the ranges of all ServiceCIDR objects, those the cluster was made with first."""
        own = list(self._configured)
        for entry in self.collection("servicecidrs").select(None):
            obj = entry.object()
            if "deletionTimestamp" not in obj["metadata"]:
                own += [cidr for cidr in obj["spec"].get("cidrs", ()) if cidr not in own]
        return parse_ranges(own)

    def forget_history(self) -> None:
        """Drop all history: watches from before now get 410, as after a compaction."""
        for collection in self._collections.values():
            collection.forget(self.rv)

    # -- watching -----------------------------------------------------------------------------------

    def subscribe(self, plural: str, subscriber: Callable[[Change], None]) -> Callable[[], None]:
        """Call `subscriber` with each change from now on, inside the call that makes it; return what ends it.

        A subscriber must not write to the store during the call: the other subscribers would see the
        changes in the wrong order. Set a flag or an event and write later.
        """
        return self.collection(plural).subscribe(subscriber)

    async def watch(
        self, plural: str, namespace: str | None = None, since: int | None = None
    ) -> AsyncIterator[Change]:
        """Yield the changes after version `since`; None: all present objects as ADDED first.

        `ApiError` 410 when `since` is too old. Ends with its consumer.
        """
        collection = self.collection(plural)
        waiting: list[Change] = []
        wake = asyncio.Event()

        def deliver(change: Change) -> None:
            waiting.append(change)
            wake.set()

        if since is None:
            waiting += [Change("ADDED", entry, None) for entry in collection.select(None)]
        else:
            waiting += collection.since(since)
        leave = collection.subscribe(deliver)
        try:
            while True:
                batch = waiting[:]
                waiting.clear()
                wake.clear()
                for change in batch:
                    if namespace is None or change.entry.namespace == namespace:
                        yield change
                if not waiting:
                    await wake.wait()
        finally:
            leave()

    # -- writing ------------------------------------------------------------------------------------

    def create(self, plural: str, obj: Json, namespace: str = "", *, dry_run: bool = False) -> Json:
        """Store a new object and return it complete; 404 without its namespace, 409, 422."""
        resource = BY_PLURAL[plural]
        obj = self._prepared(resource, obj, namespace)
        metadata = obj["metadata"]
        self._check_namespace(resource, metadata)
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = names.generated(metadata["generateName"], self._random.choice)
        causes = objects.metadata_causes(resource, metadata)
        if causes:
            raise invalid(resource, metadata.get("name", ""), causes)
        if f"{metadata.get('namespace', '')}/{metadata['name']}" in self.collection(plural).entries:
            raise already_exists(resource, metadata["name"])
        self._stamp(resource, metadata)
        defaults.apply(resource, obj)
        validation.check(resource, obj)
        if plural == "services":
            self._addresses.fill(obj, None, self.service_ranges(), dry_run=dry_run)
        return self._commit(resource, "ADDED", obj, None, dry_run)

    def completed(self, plural: str, obj: Json, namespace: str = "") -> Json:
        """Return a copy of an object with its type, namespace and defaults, as admission sees it."""
        resource = BY_PLURAL[plural]
        obj = self._prepared(resource, obj, namespace)
        defaults.apply(resource, obj)
        return obj

    def load(self, plural: str, obj: Json) -> None:
        """Store a new object that is known to be right: no checks, no copy, the dict is the store's now."""
        resource = BY_PLURAL[plural]
        obj = {"kind": resource.kind, "apiVersion": resource.group_version} | obj
        self._stamp(resource, obj["metadata"])
        defaults.apply(resource, obj)
        self._commit(resource, "ADDED", obj, None, dry_run=False)

    async def create_admitted(self, plural: str, obj: Json, namespace: str = "") -> Json:
        """Create as controllers do: past the admission webhooks of the server that serves this store."""
        if self.admit is not None:
            obj = self.completed(plural, obj, namespace)
            obj = await self.admit(plural, obj, obj["metadata"].get("namespace", ""))
        return self.create(plural, obj, namespace)

    def update(
        self, plural: str, obj: Json, namespace: str = "", *, subresource: str = "", dry_run: bool = False
    ) -> Json:
        """Replace an object (or with `subresource="status"` its status alone); 404, 409, 422.

        With a resourceVersion in it, it must be the present one; without, the last writer wins.
        """
        resource = BY_PLURAL[plural]
        obj = self._prepared(resource, obj, namespace)
        metadata = obj["metadata"]
        name = metadata.get("name", "")
        before = self.entry(plural, name, metadata.get("namespace", ""))
        old = before.object()
        if str(metadata.get("resourceVersion") or before.rv) != str(before.rv):
            raise conflict(resource, name)
        if metadata.get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            raise conflict(resource, name, objects.uid_text(metadata["uid"], old["metadata"]["uid"]))
        objects.keep_system_fields(resource, obj, old, subresource)
        causes = objects.metadata_causes(resource, metadata)
        if causes:
            raise invalid(resource, name, causes)
        defaults.apply(resource, obj)
        validation.check(resource, obj, old, subresource)
        if plural == "services" and not subresource:
            self._addresses.fill(obj, old, self.service_ranges(), dry_run=dry_run)
        metadata["resourceVersion"] = str(before.rv)
        if obj == old:
            return obj  # as etcd: nothing changed, no new version, no event
        if objects.finished(obj):
            return self._commit(resource, "DELETED", obj, before, dry_run)
        return self._commit(resource, "MODIFIED", obj, before, dry_run)

    def modify(
        self,
        plural: str,
        name: str,
        namespace: str,
        change: Callable[[Json], None],
        *,
        subresource: str = "",
    ) -> Json:
        """Read an object, let `change` edit it in place, and store it, as one step."""
        obj = self.get(plural, name, namespace)
        change(obj)
        return self.update(plural, obj, namespace, subresource=subresource)

    def delete(
        self,
        plural: str,
        name: str,
        namespace: str = "",
        *,
        grace: int | None = None,
        policy: str = "",
        dry_run: bool = False,
    ) -> Json:
        """Delete an object and return its last state.

        `policy` is the propagationPolicy: Foreground and Orphan leave a finalizer for the garbage collector.

        Objects with finalizers, and pods on a node whose grace period (seconds; None: the pod's own) is
        not 0, are marked with a deletionTimestamp only: the one who works for them deletes them for good.
        """
        resource = BY_PLURAL[plural]
        before = self.entry(plural, name, namespace)
        obj = before.object()
        if plural == "namespaces" and name in SYSTEM_NAMESPACES[:1] + SYSTEM_NAMESPACES[2:]:
            raise forbidden(resource, name, "this namespace may not be deleted")
        objects.add_finalizer(obj, policy)
        marked = objects.mark_deleted(resource, obj, grace, self.now())
        if not marked:
            return self._commit(resource, "DELETED", obj, before, dry_run)
        if obj == before.object():
            return obj
        return self._commit(resource, "MODIFIED", obj, before, dry_run)

    def timestamp(self) -> str:
        """Return the present time as objects carry it."""
        return objects.timestamp(self.now())

    def _stamp(self, resource: Resource, metadata: Any) -> None:
        metadata["uid"] = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        metadata["creationTimestamp"] = self.timestamp()
        if resource.generation:
            metadata["generation"] = 1

    def _prepared(self, resource: Resource, obj: Json, namespace: str) -> Json:
        """Return a copy with type and namespace set."""
        obj = _copy(encode({"kind": resource.kind, "apiVersion": resource.group_version} | obj))
        metadata = obj.setdefault("metadata", {})
        if resource.namespaced:
            metadata["namespace"] = namespace or metadata.get("namespace") or "default"
        else:
            metadata.pop("namespace", None)
        metadata.pop("managedFields", None)
        return obj

    def _check_namespace(self, resource: Resource, metadata: Json) -> None:
        if not resource.namespaced:
            return
        namespace = metadata["namespace"]
        found = self.entry("namespaces", namespace).object()
        if "deletionTimestamp" in found["metadata"]:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {namespace} is being terminated",
                "field": "metadata.namespace",
            }
            raise forbidden(resource, metadata.get("name", ""), why, [cause])

    def _commit(
        self, resource: Resource, kind: ChangeKind, obj: Json, before: Entry | None, dry_run: bool
    ) -> Json:
        if dry_run:
            if before is None:
                obj["metadata"].pop("resourceVersion", None)
            return obj
        self.rv += 1
        change = Change(kind, Entry(obj, self.rv), before)
        old = before.object() if before and resource.plural == "services" else None
        self.collection(resource.plural).commit(change)
        if resource.plural == "services":
            self._note_addresses(None if kind == "DELETED" else obj, old)
        return obj

    def _note_addresses(self, service: Json | None, old: Json | None) -> None:
        """Account for a service's addresses, as IPAddress objects too (Kubernetes 1.33 and later)."""
        self._addresses.note(service, old)
        has, had = objects.cluster_ips(service), objects.cluster_ips(old)
        for address in had:
            if address not in has and self.find("ipaddresses", address):
                self.delete("ipaddresses", address)
        for address in has:
            if service is not None and not self.find("ipaddresses", address):
                self.create("ipaddresses", objects.ip_address_of(service, address))


__all__ = ["ApiError", "Cause", "Change", "Json", "Store"]
