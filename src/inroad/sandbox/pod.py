"""One pod on its node: network, namespaces, containers, probes, status; from birth to the last process."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from inroad.core.errors import SandboxFailed
from inroad.sandbox import network, probes
from inroad.sandbox.apiserver.store import ApiError, Store
from inroad.sandbox.container import PATH, Container
from inroad.sandbox.place import FileSpec, Place
from inroad.sandbox.state import Home
from inroad.sandbox.topology import Address, Node, Topology

Json = dict[str, Any]
SECRETS = "/run/secrets/kubernetes.io/serviceaccount"
log = logging.getLogger(__name__)


class Credentials(Protocol):
    """Gives pods what they need to speak to the API server."""

    ca: bytes

    def token(self, pod: Json) -> str:
        """Return a token of the pod's service account, bound to the pod."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every pod of a sandbox shares."""

    home: Home
    topology: Topology
    store: Store
    credentials: Credentials


def place_of(pod: Json) -> str:
    """Return the name of a pod's place."""
    return f"pod/{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def resolv_conf(pod: Json, topology: Topology) -> str:
    """Return a pod's /etc/resolv.conf as a kubelet writes it for its dnsPolicy (and dnsConfig)."""
    spec = pod["spec"]
    policy = spec.get("dnsPolicy", "ClusterFirst")
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    servers, search, options = [], [], []
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet"):
        servers = [str(topology.dns_addresses[0])]
        search = [f"{pod['metadata']['namespace']}.svc.cluster.local", "svc.cluster.local", "cluster.local"]
        options = ["ndots:5"]
    elif policy == "Default":
        servers = [str(address) for address in topology.addresses("lan")[:1]]
    extra = spec.get("dnsConfig") or {}
    servers += extra.get("nameservers", [])
    search += extra.get("searches", [])
    options += [
        f"{o['name']}:{o['value']}" if o.get("value") else o["name"] for o in extra.get("options", ())
    ]
    lines = [f"search {' '.join(search)}"] if search else []
    lines += [f"nameserver {server}" for server in servers]
    lines += [f"options {' '.join(options)}"] if options else []
    return "\n".join(lines) + "\n"


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
        self.deleted = asyncio.Event()
        self.grace = 0.0
        self.containers = [self._container(spec) for spec in pod["spec"]["containers"]]
        self.first = [self._container(spec) for spec in pod["spec"].get("initContainers", ())]
        self._network_made = False
        self._initialized = not self.first
        self._dirty = asyncio.Event()
        self._started = around.store.timestamp()
        self._conditions: dict[str, Json] = {}

    def _container(self, spec: Json) -> Container:
        metadata = self.pod["metadata"]
        name = f"{metadata['namespace']}_{metadata['name']}_{spec['name']}.log"
        return Container(spec, self.place, self.around.home.directory / "logs" / name, self._changed)

    def _changed(self) -> None:
        self._dirty.set()

    def delete(self, grace: float) -> None:
        """Have the pod end: SIGTERM now, SIGKILL after `grace` seconds."""
        self.grace = grace
        self.deleted.set()

    async def run(self) -> None:
        """Live."""
        reporter = asyncio.create_task(self._report())
        life = asyncio.create_task(self._live())
        try:
            await self.deleted.wait()
            await asyncio.gather(*(one.stop(self.grace) for one in (*self.first, *self.containers)))
        finally:
            for task in (life, reporter):
                task.cancel()
            await asyncio.gather(life, reporter, return_exceptions=True)
            await self._clear()

    async def _clear(self) -> None:
        await self.place.stop()
        if self._network_made and not self.on_node:
            with contextlib.suppress(SandboxFailed):
                await network.remove_pod(self.around.home, self.place.name)

    async def _live(self) -> None:
        try:
            if not self.on_node:
                self._network_made = True
                port = "veth" + self.uid.replace("-", "")[:10]
                await network.add_pod(self.around.home, self.place.name, self.node, port, self.addresses)
            await self.place.start(self._hostname(), self._files())
            self._changed()
            await self._run_containers()
        except SandboxFailed as error:
            log.error("%s: %s", self.place.name, error)
            for container in self.containers:
                container.state = {"waiting": {"reason": "CreatePodSandboxError", "message": str(error)}}
            self._changed()

    async def _run_containers(self) -> None:
        policy = self.pod["spec"].get("restartPolicy", "Always")
        stamp = self.around.store.timestamp
        for container in self.first:
            once = "Never" if policy == "Never" else "OnFailure"
            await container.run(self.environment(container.spec), once, stamp)
            if container.exit_code:
                return
        self._initialized = True
        tasks = []
        for container in self.containers:
            environment = self.environment(container.spec)
            tasks.append(container.run(environment, policy, stamp))
            tasks.append(self._watch_readiness(container, environment))
        await asyncio.gather(*tasks)

    def _hostname(self) -> str:
        return str(self.pod["spec"].get("hostname") or self.pod["metadata"]["name"])[:63]

    def _files(self) -> Mapping[str, FileSpec]:
        spec, hostname = self.pod["spec"], self._hostname()
        full = hostname
        if spec.get("subdomain"):
            namespace = self.pod["metadata"]["namespace"]
            full = f"{hostname}.{spec['subdomain']}.{namespace}.svc.cluster.local {hostname}"
        hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
        hosts += "".join(f"{address} {full}\n" for address in self.addresses)
        for alias in spec.get("hostAliases", ()):
            hosts += f"{alias['ip']} {' '.join(alias['hostnames'])}\n"
        files = {
            "/etc/hosts": FileSpec(hosts),
            "/etc/resolv.conf": FileSpec(resolv_conf(self.pod, self.around.topology)),
            "/run/home/": FileSpec("", 0o1777),
        }
        if spec.get("automountServiceAccountToken", True):
            credentials = self.around.credentials
            files |= {
                f"{SECRETS}/token": FileSpec(credentials.token(self.pod)),
                f"{SECRETS}/ca.crt": FileSpec(credentials.ca.decode()),
                f"{SECRETS}/namespace": FileSpec(self.pod["metadata"]["namespace"]),
            }
        return files

    def environment(self, container: Json) -> dict[str, str]:
        """Return a container's environment: the API service, then what its spec says."""
        service = self.around.topology.service_networks[0][1]
        found = {
            "PATH": PATH,
            "HOME": "/run/home",
            "HOSTNAME": self._hostname(),
            "KUBERNETES_SERVICE_HOST": str(service),
            "KUBERNETES_SERVICE_PORT": "443",
            "KUBERNETES_SERVICE_PORT_HTTPS": "443",
        }
        for one in container.get("env", ()):
            source = (one.get("valueFrom") or {}).get("fieldRef")
            found[one["name"]] = self.field(source["fieldPath"]) if source else str(one.get("value", ""))
        return found

    def field(self, path: str) -> str:
        """Return a value of the downward API."""
        metadata, spec = self.pod["metadata"], self.pod["spec"]
        kind, _, rest = path.partition("['")
        if rest:
            return str(metadata.get(kind.removeprefix("metadata."), {}).get(rest.removesuffix("']"), ""))
        simple = {
            "metadata.name": metadata["name"],
            "metadata.namespace": metadata["namespace"],
            "metadata.uid": metadata["uid"],
            "spec.nodeName": spec.get("nodeName", ""),
            "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
            "status.hostIP": str(self.node.addresses[0]),
            "status.hostIPs": ",".join(map(str, self.node.addresses)),
            "status.podIP": str(self.addresses[0]),
            "status.podIPs": ",".join(map(str, self.addresses)),
        }
        return str(simple.get(path, ""))

    async def _watch_readiness(self, container: Container, environment: Mapping[str, str]) -> None:
        """Keep `container.ready` true to its readiness probe; without one, running is ready."""
        probe = container.spec.get("readinessProbe")
        node = self.around.home.namespace_path(self.node.name)
        wait = probes.EAGER
        failures = 0
        while True:
            await container.running.wait()
            if probe is None:
                ready = True
            else:
                ready = await probes.succeeds(
                    probe, container.spec, self.place, node, str(self.addresses[0]), environment
                )
            failures = 0 if ready else failures + 1
            # One failure does not unmake a ready container, failureThreshold of them do.
            keep = container.ready and failures < int((probe or {}).get("failureThreshold", 3))
            if container.running.is_set() and (ready or keep) != container.ready:
                container.ready = ready or keep
                self._changed()
            period = float((probe or {}).get("periodSeconds", 10))
            wait = period if container.ready else min(2 * wait, period)
            await self._pause(container, wait)
            if not container.running.is_set():
                wait = probes.EAGER

    async def _pause(self, container: Container, seconds: float) -> None:
        """Wait, but not longer than the container runs."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(container.ended.wait(), seconds)

    async def _report(self) -> None:
        """Write the status whenever it changed."""
        metadata = self.pod["metadata"]
        while True:
            self._dirty.clear()
            with contextlib.suppress(ApiError):  # it may just have been deleted

                def write(pod: Json) -> None:
                    pod["status"] = {**pod.get("status", {}), **self.status()}

                self.around.store.modify(
                    "pods", metadata["name"], metadata["namespace"], write, subresource="status"
                )
            await self._dirty.wait()

    def status(self) -> Json:
        """Return the pod's status as a kubelet writes it."""
        placed = bool(self.place.pid)
        running = [one for one in self.containers if "running" in one.state or one.restarts]
        ended = [one for one in self.containers if "terminated" in one.state]
        phase = "Running" if running else "Pending"
        if len(ended) == len(self.containers):
            phase = "Failed" if any(one.exit_code for one in ended) else "Succeeded"
        ready = all(one.ready for one in self.containers)
        found: Json = {
            "phase": phase,
            "hostIP": str(self.node.addresses[0]),
            "hostIPs": [{"ip": str(address)} for address in self.node.addresses],
            "startTime": self._started,
            "conditions": [
                self._condition("PodReadyToStartContainers", placed),
                self._condition("Initialized", self._initialized),
                self._condition("Ready", ready, "ContainersNotReady"),
                self._condition("ContainersReady", ready, "ContainersNotReady"),
                self._condition("PodScheduled", True),
            ],
            "containerStatuses": [one.status() for one in self.containers],
        }
        if self.first:
            found["initContainerStatuses"] = [one.status() for one in self.first]
        if placed:
            found["podIP"] = str(self.addresses[0])
            found["podIPs"] = [{"ip": str(address)} for address in self.addresses]
        return found

    def _condition(self, kind: str, holds: bool, reason: str = "") -> Json:
        status = "True" if holds else "False"
        old = self._conditions.get(kind)
        if old is None or old["status"] != status:
            old = {"type": kind, "status": status, "lastTransitionTime": self.around.store.timestamp()}
            old |= {"lastProbeTime": None}
            if reason and not holds:
                old |= {"reason": reason}
            self._conditions[kind] = old
        return old
