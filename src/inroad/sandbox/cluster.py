"""The cluster itself: API server, controllers and kubelets around one store, and what is in it at first."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import asyncio
import socket
from pathlib import Path
from typing import Any

from inroad.sandbox import apiserver, edit, manifests, netns
from inroad.sandbox.apiserver.rights import Rbac, Restriction
from inroad.sandbox.apiserver.synthetic import populate
from inroad.sandbox.controller import Controller, is_synthetic
from inroad.sandbox.credentials import Credentials
from inroad.sandbox.endpoints import EndpointsController, is_ready
from inroad.sandbox.garbage import GarbageCollector
from inroad.sandbox.kubelet import Kubelet
from inroad.sandbox.namespaces import NamespaceController
from inroad.sandbox.options import Options
from inroad.sandbox.pod import Surroundings
from inroad.sandbox.proxy import ServiceProxy
from inroad.sandbox.replicas import DeploymentController, ReplicaSetController
from inroad.sandbox.scheduler import Scheduler
from inroad.sandbox.state import Home
from inroad.sandbox.statefulsets import StatefulSetController
from inroad.sandbox.topology import API_PORT, Topology

Json = dict[str, Any]


class Cluster:
    """Everything that is Kubernetes here."""

    def __init__(self, home: Home, topology: Topology, options: Options) -> None:
        self.home = home
        self.topology = topology
        self.options = options
        cidrs = [str(network) for network in topology.service_networks]
        major, minor = options.version.split(".")
        self.store = apiserver.Store(service_cidrs=cidrs, version=(int(major), int(minor)))
        self.credentials = Credentials(topology, self.store)
        around = Surroundings(home, topology, self.store, self.credentials)
        self.kubelets = [Kubelet(around, node) for node in topology.nodes]
        self.server: apiserver.ApiServer | None = None
        self._controllers: list[Controller] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Serve the API and run everything that works behind it; the control plane's namespace exists."""
        namespace = self.home.namespace_path("control-plane")
        restrictions = [Restriction.parse(text) for text in self.options.restrict]
        self.server = apiserver.ApiServer(
            self.store,
            dial_pod=self.dial,
            sockets=[listener(namespace, family, API_PORT) for family in self.topology.families],
            tls=self.credentials.tls,
            authenticator=self.credentials.authenticator,
            authorizer=Rbac(self.store, restrictions),
            read_log=self.read_log,
        )
        await self.server.start()
        populate(self.store, self.options.synthetic_nodes, self.options.synthetic_pods)
        self._controllers = [
            NamespaceController(self.store, self.credentials.ca),
            DeploymentController(self.store),
            ReplicaSetController(self.store),
            StatefulSetController(self.store),
            GarbageCollector(self.store),
            Scheduler(self.store, [node.name for node in self.topology.nodes]),
            EndpointsController(self.store),
            ServiceProxy(self.store, self.home, self.topology),
        ]
        self._tasks += [asyncio.create_task(one.run()) for one in self._controllers]
        for kubelet in self.kubelets:
            kubelet.start()
        for namespace_, obj in manifests.everything(self.topology, self.options):
            edit.apply(self.store, [obj], namespace_)

    async def dial(self, namespace: str, name: str, port: int) -> socket.socket:
        """Connect to a port on a pod's loopback; `OSError`, or `LookupError` when no such pod runs."""
        for kubelet in self.kubelets:
            sock = await kubelet.dial(namespace, name, port)
            if sock is not None:
                return sock
        raise LookupError(f"pod {namespace}/{name} does not run")

    async def read_log(self, namespace: str, name: str, container: str, tail: int | None) -> bytes:
        """Return what a container wrote, or its last lines; `LookupError` when it never ran."""
        path = self.home.directory / "logs" / f"{namespace}_{name}_{container}.log"
        try:
            text = await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            raise LookupError(str(path)) from None
        return text if tail is None else b"".join(text.splitlines(keepends=True)[-tail:] if tail else [])

    async def settle(self, patience: float) -> list[str]:
        """Wait until all pods are ready and all rules written, `patience` seconds; return what is not."""
        changed = asyncio.Event()
        watched = ("pods", "deployments", "statefulsets")
        leaving = [self.store.subscribe(one, lambda _: changed.set()) for one in watched]
        try:
            async with asyncio.timeout(patience):
                while self.unready():
                    changed.clear()
                    await changed.wait()
                for controller in self._controllers:  # in the order in which one follows from another
                    await controller.settled.wait()
        except TimeoutError:
            pass
        finally:
            for leave in leaving:
                leave()
        return self.unready()

    def unready(self) -> list[str]:
        """Return the pods of the sandbox's own nodes that are not ready, and workloads without their pods."""
        missing = [
            f"{plural[:-1]}/{one['metadata']['namespace']}/{one['metadata']['name']}"
            for plural in ("deployments", "statefulsets")
            for one in self.store.list(plural)
            if one.get("status", {}).get("readyReplicas", 0) < one["spec"]["replicas"]
        ]
        own = {"", *(node.name for node in self.topology.nodes)}
        for entry in self.store.collection("pods").select(None):
            if is_synthetic(entry):
                continue
            pod = entry.object()
            ended = pod.get("status", {}).get("phase") == "Succeeded"
            if pod["spec"].get("nodeName", "") in own and not ended and not is_ready(pod):
                missing.append(f"pod/{entry.key}")
        return missing


def listener(namespace: Path, family: int, port: int) -> socket.socket:
    """Return a socket bound to a port on all addresses of a family, in another network namespace."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    sock = netns.open_socket(namespace, kind, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("0.0.0.0" if family == 4 else "::", port))
    return sock
