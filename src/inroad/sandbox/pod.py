"""One pod on its node: network, namespaces, volumes, containers, probes; from birth to the last process."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Any

from inroad.core.errors import SandboxFailed
from inroad.sandbox import network, pod_status, probes
from inroad.sandbox.apiserver.store import ApiError, Store
from inroad.sandbox.container import Container
from inroad.sandbox.place import Place
from inroad.sandbox.pod_files import DownwardApi, environment, etc_files, hostname_of
from inroad.sandbox.state import Home
from inroad.sandbox.topology import Address, Node, Topology
from inroad.sandbox.volumes import Missing, Tokens, Volumes

Json = dict[str, Any]
RETRY = 0.5
"""Seconds until a pod that waits for a ConfigMap or Secret looks again."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every pod of a sandbox shares."""

    home: Home
    topology: Topology
    store: Store
    credentials: Tokens


def place_of(pod: Json) -> str:
    """Return the name of a pod's place."""
    return f"pod/{pod['metadata']['namespace']}/{pod['metadata']['name']}"


class Pod:
    """Runs one pod. `run` returns when it has been deleted and nothing of it is left."""

    def __init__(self, around: Surroundings, node: Node, pod: Json, addresses: tuple[Address, ...]) -> None:
        self.around = around
        self.node = node
        self.pod = pod
        self.addresses = addresses
        self.uid: str = pod["metadata"]["uid"]
        self.on_node = bool(pod["spec"].get("hostNetwork"))
        namespace = around.home.namespace(node.name) if self.on_node else ""
        self.place = Place(around.home, place_of(pod), namespace)
        self.containers = [self._container(spec) for spec in pod["spec"]["containers"]]
        self.first = [self._container(spec) for spec in pod["spec"].get("initContainers") or ()]
        self.ephemeral: list[Container] = []
        self.initialized = not self.first
        self.started = around.store.timestamp()
        self._downward = DownwardApi(pod, node, addresses)
        self._volumes = Volumes(around.store, around.credentials, pod, self._downward.field)
        self._deleted = asyncio.Event()
        self._grace = 0.0
        self._network_made = False
        self._dirty = asyncio.Event()
        self._status = pod_status.Status(around.store.timestamp)
        self._tasks: list[asyncio.Task[None]] = []

    def _container(self, spec: Json) -> Container:
        metadata = self.pod["metadata"]
        name = f"{metadata['namespace']}_{metadata['name']}_{spec['name']}.log"
        pod_context = self.pod["spec"].get("securityContext") or {}
        spec = {**spec, "securityContext": {**pod_context, **(spec.get("securityContext") or {})}}
        return Container(spec, self.place, self.around.home.directory / "logs" / name, self._dirty_now)

    def _dirty_now(self) -> None:
        self._dirty.set()

    def delete(self, grace: float) -> None:
        """Have the pod end: SIGTERM now, SIGKILL after `grace` seconds."""
        self._grace = grace
        self._deleted.set()

    def update(self, pod: Json) -> None:
        """Take a new version: ephemeral containers may have been added, and the metadata changed."""
        self.pod = pod
        known = {one.name for one in self.ephemeral}
        for spec in pod["spec"].get("ephemeralContainers") or ():
            if spec["name"] not in known and self.place.pid:
                container = self._container(spec)
                self.ephemeral.append(container)
                self._tasks.append(asyncio.create_task(self._run_container(container, "Never")))

    def refresh(self, plural: str, name: str) -> None:
        """Show what a ConfigMap or Secret says now."""
        if self.place.pid:
            with contextlib.suppress(Missing, OSError):
                self._volumes.refresh(self.place, plural, name)

    async def run(self) -> None:
        """Live."""
        self._tasks = [asyncio.create_task(self._live()), asyncio.create_task(self._report())]
        try:
            await self._deleted.wait()
            everyone = (*self.first, *self.containers, *self.ephemeral)
            await asyncio.gather(*(one.stop(self._grace) for one in everyone))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.place.stop()
            if self._network_made:
                with contextlib.suppress(SandboxFailed):
                    await network.remove_pod(self.around.home, self.place.name)

    async def _live(self) -> None:
        try:
            if not self.on_node:
                self._network_made = True
                port = "veth" + self.uid.replace("-", "")[:10]
                await network.add_pod(self.around.home, self.place.name, self.node, port, self.addresses)
            files = etc_files(self.pod, self.around.topology, self.addresses)
            await self.place.start(hostname_of(self.pod), files)
            await self._fill_volumes()
            self._dirty_now()
            await self._run_containers()
        except SandboxFailed as error:
            log.error("%s: %s", self.place.name, error)
            self._wait_for("CreatePodSandboxError", str(error))
        except Exception as error:
            log.exception("%s", self.place.name)
            self._wait_for("CreatePodSandboxError", repr(error))

    def _wait_for(self, reason: str, message: str) -> None:
        for container in self.containers:
            container.state = {"waiting": {"reason": reason, "message": message}}
        self._dirty_now()

    async def _fill_volumes(self) -> None:
        while True:
            try:
                await self._volumes.fill(self.place)
            except Missing as error:
                self._wait_for("ContainerCreating", str(error))
                await asyncio.sleep(RETRY)
            else:
                return

    async def _run_containers(self) -> None:
        policy = self.pod["spec"].get("restartPolicy", "Always")
        for container in self.first:
            await self._run_container(container, "Never" if policy == "Never" else "OnFailure")
            if container.exit_code:
                return
        self.initialized = True
        self.update(self.pod)
        await asyncio.gather(*(self._run_container(one, policy) for one in self.containers))

    async def _run_container(self, container: Container, policy: str) -> None:
        while True:
            try:
                variables = environment(
                    container.spec, self.pod, self.around.topology, self._volumes, self._downward
                )
                break
            except Missing as error:
                container.state = {"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}}
                self._dirty_now()
                await asyncio.sleep(RETRY)
        from_node = self.around.home.namespace_path(self.node.name)
        target = probes.Target(container, self.place, from_node, str(self.addresses[0]), variables)
        watching = [asyncio.create_task(one) for one in probes.watch(target, self._dirty_now)]
        try:
            await container.run(variables, policy, self.around.store.timestamp)
        finally:
            for task in watching:
                task.cancel()

    async def _report(self) -> None:
        """Write the status whenever it changed."""
        metadata = self.pod["metadata"]

        def write(pod: Json) -> None:
            pod["status"] = {**pod.get("status", {}), **self._status.of(self)}

        while True:
            self._dirty.clear()
            with contextlib.suppress(ApiError):  # it may just have been deleted
                self.around.store.modify(
                    "pods", metadata["name"], metadata["namespace"], write, subresource="status"
                )
            await self._dirty.wait()
