"""A node's agent: runs the pods that are bound to its node and removes those that are deleted."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from inroad.core.errors import SandboxFailed
from inroad.sandbox import probes
from inroad.sandbox.apiserver.collection import Change
from inroad.sandbox.controller import is_synthetic
from inroad.sandbox.pod import Pod, Surroundings, place_of
from inroad.sandbox.topology import Address, Node

Json = dict[str, Any]
log = logging.getLogger(__name__)


class PodAddresses:
    """Gives out a node's pod addresses: the longest unused one first, the same number in every family."""

    def __init__(self, node: Node) -> None:
        self._networks = node.pod_networks
        self._free = list(range(2, 255))  # .1 is the bridge
        self._used: dict[str, int] = {}

    def take(self, uid: str) -> tuple[Address, ...]:
        """Return the addresses of a new pod."""
        if not self._free:
            raise SandboxFailed("this node has no pod address left")
        number = self._used[uid] = self._free.pop(0)
        return tuple(network[number] for network in self._networks)

    def give_back(self, uid: str) -> None:
        """Free a pod's addresses."""
        number = self._used.pop(uid, None)
        if number is not None:
            self._free.append(number)


class Kubelet:
    """The pods of one node. A pod's processes die with it; it lives as a task of this loop."""

    def __init__(self, around: Surroundings, node: Node) -> None:
        self.around = around
        self.node = node
        self.pods: dict[str, Pod] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._addresses = PodAddresses(node)
        self.on_end: Callable[[], None] = lambda: None
        """Called whenever a pod has ended and nothing of it is left."""
        self._leave: list[Callable[[], None]] = []

    def start(self) -> None:
        """Take on the pods that are bound to this node, now and from now on."""
        store = self.around.store
        self._leave = [
            store.subscribe("pods", self._changed),
            *(store.subscribe(one, partial(self._refresh, one)) for one in ("configmaps", "secrets")),
        ]
        for entry in store.collection("pods").select(None):
            self._changed(Change("ADDED", entry, None))

    async def stop(self) -> None:
        """End all pods at once."""
        for leave in self._leave:
            leave()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _changed(self, change: Change) -> None:
        if is_synthetic(change.entry):
            return
        pod = change.entry.object()
        if pod["spec"].get("nodeName") != self.node.name:
            return
        uid = pod["metadata"]["uid"]
        known = self.pods.get(uid)
        if known is not None:
            known.update(pod)
        if change.kind == "DELETED":
            if known is not None:
                known.delete(0)
        elif "deletionTimestamp" in pod["metadata"]:
            if known is not None:
                known.delete(pod["metadata"].get("deletionGracePeriodSeconds", 0))
            else:
                asyncio.get_running_loop().call_soon(self._forget, pod)
        elif known is None and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            before = self._tasks.get(place_of(pod))
            task = asyncio.get_running_loop().create_task(self._run(pod, before))
            self._tasks[place_of(pod)] = task

    def _refresh(self, plural: str, change: Change) -> None:
        for pod in self.pods.values():
            if pod.pod["metadata"]["namespace"] == change.entry.namespace:
                pod.refresh(plural, change.entry.name)

    async def _run(self, pod: Json, before: asyncio.Task[None] | None) -> None:
        if before is not None:  # a pod of that name, force-deleted, is still going
            await asyncio.wait([before])
        uid = pod["metadata"]["uid"]
        addresses = self.node.addresses if pod["spec"].get("hostNetwork") else self._addresses.take(uid)
        mine = self.pods[uid] = Pod(self.around, self.node, pod, addresses)
        try:
            await mine.run()
        except Exception:
            log.exception("%s", place_of(pod))
        finally:
            del self.pods[uid]
            self._addresses.give_back(uid)
            self.on_end()
        self._forget(pod)

    def _forget(self, pod: Json) -> None:
        """Take a pod that has ended out of the store, unless another has its name by now."""
        metadata, store = pod["metadata"], self.around.store
        present = store.find("pods", metadata["name"], metadata["namespace"])
        if present is not None and present["metadata"]["uid"] == metadata["uid"]:
            store.delete("pods", metadata["name"], metadata["namespace"], grace=0)

    async def dial(self, namespace: str, name: str, port: int) -> socket.socket | None:
        """Connect to a port on a pod's own loopback; None when the pod is not here. May raise `OSError`."""
        place = f"pod/{namespace}/{name}"
        mine = next((pod for pod in self.pods.values() if pod.place.name == place), None)
        if mine is None:
            return None
        path = self.around.home.namespace_path(self.node.name if mine.on_node else place)
        try:
            return await probes.connect(path, "127.0.0.1", port)
        except ConnectionRefusedError:  # as CRI-O and containerd: localhost in either family
            return await probes.connect(path, "::1", port)
