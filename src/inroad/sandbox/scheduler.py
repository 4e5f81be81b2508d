"""Binds pods without a node to the node with the fewest pods of the same owner, then the fewest pods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from inroad.sandbox.apiserver.collection import Change
from inroad.sandbox.apiserver.store import Store
from inroad.sandbox.controller import Controller, split
from inroad.sandbox.replicas import owner_of

Json = dict[str, Any]


class Scheduler(Controller):
    """Chooses among the nodes that this sandbox really runs."""

    watches = ("pods",)

    def __init__(self, store: Store, nodes: Iterable[str]) -> None:
        self._nodes = list(nodes)
        self._bound: dict[str, tuple[str, str]] = {}
        super().__init__(store)

    def keys(self, plural: str, change: Change) -> Iterable[str]:
        """Keep the book of who runs where, and name pods without a node."""
        pod = change.entry.object()
        node = pod["spec"].get("nodeName")
        if change.kind == "DELETED" or (node and node not in self._nodes):
            self._bound.pop(change.entry.key, None)
            return []
        if node:
            self._bound[change.entry.key] = (node, (owner_of(pod) or {}).get("uid", ""))
            return []
        return [change.entry.key]

    async def reconcile(self, key: str) -> None:
        """Bind one pod."""
        namespace, name = split(key)
        pod = self.store.find("pods", name, namespace)
        if pod is None or pod["spec"].get("nodeName") or pod["spec"].get("schedulingGates"):
            return
        owner = (owner_of(pod) or {}).get("uid", "")
        candidates = [one for one in self._nodes if self._suits(one, pod)]
        if not candidates:
            return

        def load(node: str) -> tuple[int, int]:
            here = [whose for where, whose in self._bound.values() if where == node]
            return (here.count(owner) if owner else 0), len(here)

        chosen = min(candidates, key=load)

        def bind(obj: Json) -> None:
            obj["spec"]["nodeName"] = chosen

        self.store.modify("pods", name, namespace, bind)

    def _suits(self, node: str, pod: Json) -> bool:
        wanted = pod["spec"].get("nodeSelector")
        if not wanted:
            return True
        found = self.store.find("nodes", node) or {"metadata": {}}
        return bool(wanted.items() <= found["metadata"].get("labels", {}).items())
