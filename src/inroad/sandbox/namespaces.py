"""What every namespace has: the account `default` and the cluster's CA; and how a namespace ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from inroad.sandbox.apiserver.collection import Change
from inroad.sandbox.apiserver.resources import RESOURCES
from inroad.sandbox.apiserver.store import Store
from inroad.sandbox.controller import Controller

Json = dict[str, Any]
CA_MAP = "kube-root-ca.crt"
NAMESPACED = [one.plural for one in RESOURCES if one.namespaced and one.stored]


class NamespaceController(Controller):
    """Furnishes new namespaces; empties those that are deleted, then lets them go."""

    watches = ("namespaces", "serviceaccounts", "configmaps", "pods")

    def __init__(self, store: Store, ca: bytes) -> None:
        self._ca = ca.decode()
        super().__init__(store)

    def keys(self, plural: str, change: Change) -> Iterable[str]:
        """Name the namespace; of what is in it only deletions matter."""
        if plural == "namespaces":
            return [change.entry.name] if change.kind != "DELETED" else []
        return [change.entry.namespace] if change.kind == "DELETED" else []

    async def reconcile(self, key: str) -> None:
        """Furnish or empty one namespace."""
        namespace = self.store.find("namespaces", key)
        if namespace is None:
            return
        if "deletionTimestamp" in namespace["metadata"]:
            self._empty(namespace)
            return
        if self.store.find("serviceaccounts", "default", key) is None:
            self.store.create("serviceaccounts", {"metadata": {"name": "default"}}, key)
        if self.store.find("configmaps", CA_MAP, key) is None:
            body = {"metadata": {"name": CA_MAP}, "data": {"ca.crt": self._ca}}
            self.store.create("configmaps", body, key)

    def _empty(self, namespace: Json) -> None:
        name = namespace["metadata"]["name"]
        left = 0
        for plural in NAMESPACED:
            for entry in list(self.store.collection(plural).select(name)):
                if "deletionTimestamp" not in entry.object()["metadata"]:
                    self.store.delete(plural, entry.name, name)
            left += len(list(self.store.collection(plural).select(name)))
        if not left:

            def release(obj: Json) -> None:
                obj["spec"]["finalizers"] = []

            self.store.modify("namespaces", name, "", release)
