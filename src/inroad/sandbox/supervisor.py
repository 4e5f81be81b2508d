"""The one long-lived process of a sandbox: builds the network, then is API server, controllers and kubelets.

`python -m inroad.sandbox.supervisor OPTIONS-AS-JSON PIPE`, started by `up`: on the pipe goes one JSON line
for each thing done, the last one `ready` or `failed`. It removes nothing: when it ends, however it ends,
its processes end with it, and `lifecycle.sweep` removes the rest.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from inroad.core.errors import InroadError, SandboxFailed
from inroad.host.run import spawn
from inroad.sandbox import apiserver, manifests, netns, network, workstation
from inroad.sandbox.apiserver.resources import BY_KIND
from inroad.sandbox.controller import Controller
from inroad.sandbox.endpoints import EndpointsController, is_ready
from inroad.sandbox.kubelet import Kubelet
from inroad.sandbox.namespaces import NamespaceController
from inroad.sandbox.options import Options, Progress
from inroad.sandbox.place import FileSpec, Place
from inroad.sandbox.pod import Surroundings
from inroad.sandbox.proxy import ServiceProxy
from inroad.sandbox.replicas import DeploymentController, GarbageCollector, ReplicaSetController
from inroad.sandbox.scheduler import Scheduler
from inroad.sandbox.state import Home, PlaceState, SandboxState
from inroad.sandbox.topology import API_PORT, Topology, make

Json = dict[str, Any]
log = logging.getLogger("inroad.sandbox")


class Credentials:
    """The cluster's CA, its tokens, and the kubeconfig of its administrator."""

    def __init__(self, topology: Topology, store: apiserver.Store) -> None:
        self.authority = apiserver.CertificateAuthority()
        self.ca = self.authority.pem
        self.admin = secrets.token_urlsafe(24)
        self._store = store
        self.authenticator = apiserver.Authenticator(store, {self.admin: apiserver.administrator()})
        addresses = [*topology.api_addresses, *topology.control_plane_addresses]
        addresses += [network[1] for network in topology.service_networks]
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        names.append("kubernetes.default.svc.cluster.local")
        self.tls = apiserver.server_context(
            self.authority.issue_server([*names, *map(str, addresses)]), client_ca=self.ca
        )

    def token(self, pod: Json) -> str:
        """Return a token of the pod's service account, bound to the pod."""
        metadata, account = pod["metadata"], pod["spec"].get("serviceAccountName", "default")
        found = self._store.find("serviceaccounts", account, metadata["namespace"])
        if found is None:
            raise SandboxFailed(f"there is no service account {metadata['namespace']}/{account}")
        return self.authenticator.issuer.issue(
            metadata["namespace"],
            account,
            found["metadata"]["uid"],
            lifetime=365 * 86400.0,
            pod=metadata["name"],
            pod_uid=metadata["uid"],
        )


class Supervisor:
    """Owns everything that runs."""

    def __init__(self, options: Options, report: int) -> None:
        self.options = options
        self.home = Home(options.name)
        self.topology = make(options.nodes, options.families, options.on_host)
        cidrs = [str(network) for network in self.topology.service_networks]
        self.store = apiserver.Store(service_cidrs=cidrs)
        self.credentials = Credentials(self.topology, self.store)
        self.places = {name: Place(self.home, name) for name in self.topology.places}
        around = Surroundings(self.home, self.topology, self.store, self.credentials)
        self.kubelets = [Kubelet(around, node) for node in self.topology.nodes]
        self._report = report
        self._started = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._controllers: list[Controller] = []

    def say(self, step: str, text: str, remedy: str = "") -> None:
        """Report to `up`, which may have gone."""
        log.info("%s: %s", step, text)
        line = msgspec.json.encode(Progress(step, text, time.monotonic() - self._started, remedy)) + b"\n"
        with contextlib.suppress(OSError):
            os.write(self._report, line)

    async def up(self) -> None:
        """Build everything and wait until the workloads are ready."""
        (self.home.directory / "logs").mkdir(exist_ok=True)
        await network.build(self.home, self.topology)
        self.say("done", f"namespaces {', '.join(self.topology.places)}")
        await asyncio.gather(self._places(), self._cluster())
        self._write_state(())
        unready = await self._settle()
        self._write_state(unready)
        for one in unready:
            self.say("warn", f"{one} is not ready yet")
        self.say("ready", f"sandbox {self.options.name} is up")

    async def _places(self) -> None:
        server = f"https://{host(self.topology.api_addresses[0])}:{API_PORT}"
        content = apiserver.kubeconfig(server, self.credentials.ca, token=self.credentials.admin)
        apiserver.write_kubeconfig(self.home.kubeconfig, content)
        config = self.home.kubeconfig.read_text()
        for name, place in self.places.items():
            files = dict(plain_files(self.topology, name))
            if name == "workstation":
                files |= workstation.files(config, self.home.kubeconfig)
            await place.start(name, files)
        await self._office()
        self.say("done", "the workstation, the office's name server and web server")

    async def _office(self) -> None:
        argv = [sys.executable, "-m", "inroad.sandbox.office", *map(str, self.topology.addresses("lan"))]
        with (self.home.directory / "logs" / "office.log").open("ab") as output:
            process = await spawn(
                self.places["lan"].command(argv), stdout=output.fileno(), stderr=output.fileno(), cwd="/"
            )
        self._tasks.append(asyncio.create_task(self._keep(process, "the office's servers")))

    async def _keep(self, process: asyncio.subprocess.Process, what: str) -> None:
        status = await process.wait()
        log.error("%s ended with status %s", what, status)

    async def _cluster(self) -> None:
        sockets = [
            listener(self.home.namespace_path("control-plane"), family, API_PORT)
            for family in self.topology.families
        ]
        await apiserver.ApiServer(
            self.store,
            dial_pod=self.dial,
            sockets=sockets,
            tls=self.credentials.tls,
            authenticator=self.credentials.authenticator,
        ).start()
        self.say("done", "the API server")
        self._controllers = [
            NamespaceController(self.store, self.credentials.ca),
            DeploymentController(self.store),
            ReplicaSetController(self.store),
            GarbageCollector(self.store),
            Scheduler(self.store, [node.name for node in self.topology.nodes]),
            EndpointsController(self.store),
            ServiceProxy(self.store, self.home, self.topology),
        ]
        self._tasks += [asyncio.create_task(one.run()) for one in self._controllers]
        for kubelet in self.kubelets:
            kubelet.start()
        self._populate()

    def _populate(self) -> None:
        placed = [
            *manifests.nodes(self.topology),
            *manifests.api_service(self.topology),
            *manifests.cluster_dns(self.topology),
            *manifests.workloads(self.topology),
            *(manifests.manager() if self.options.manager else ()),
        ]
        for namespace, obj in placed:
            resource = BY_KIND[obj["apiVersion"], obj["kind"]]
            self.store.create(resource.plural, obj, namespace)

    async def dial(self, namespace: str, name: str, port: int) -> socket.socket:
        """Connect to a port on a pod's loopback; `OSError`, or `LookupError` when no such pod runs."""
        for kubelet in self.kubelets:
            sock = await kubelet.dial(namespace, name, port)
            if sock is not None:
                return sock
        raise LookupError(f"pod {namespace}/{name} does not run")

    async def _settle(self) -> tuple[str, ...]:
        """Wait until all pods are ready, `options.wait` seconds at most; return those that are not."""
        changed = asyncio.Event()
        leave = self.store.subscribe("pods", lambda _: changed.set())
        try:
            async with asyncio.timeout(self.options.wait):
                while self._unready():
                    changed.clear()
                    await changed.wait()
                for controller in self._controllers:  # in the order in which one follows from another
                    await controller.settled.wait()
        except TimeoutError:
            pass
        finally:
            leave()
        return tuple(self._unready())

    def _unready(self) -> list[str]:
        wanted = sum(one["spec"]["replicas"] for one in self.store.list("deployments"))
        pods = self.store.list("pods")
        missing = ["pods"] if len(pods) < wanted else []
        return missing + [
            f"pod/{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            for pod in pods
            if not is_ready(pod)
        ]

    def _write_state(self, unready: Iterable[str]) -> None:
        topology = self.topology
        places = {
            name: PlaceState(place.namespace, place.pid, tuple(map(str, topology.addresses(name))))
            for name, place in self.places.items()
        }
        for kubelet in self.kubelets:
            for pod in kubelet.pods.values():
                addresses = tuple(map(str, pod.addresses))
                places[pod.place.name] = PlaceState(pod.place.namespace, pod.place.pid, addresses)
        state = SandboxState(
            name=self.options.name,
            supervisor=os.getpid(),
            kubeconfig=str(self.home.kubeconfig),
            api_server=f"https://{host(topology.api_addresses[0])}:{API_PORT}",
            places=places,
            users=tuple(workstation.USERS),
            pod_cidrs=tuple(map(str, topology.pod_networks)),
            service_cidrs=tuple(map(str, topology.service_networks)),
            cluster_dns=tuple(map(str, topology.dns_addresses)),
            unready=tuple(unready),
        )
        self.home.write(state)

    async def end(self) -> None:
        """End all processes, and reap them; the namespaces and files stay for `lifecycle.sweep`."""
        pods = [pod.place for kubelet in self.kubelets for pod in kubelet.pods.values()]
        await asyncio.gather(*(place.stop() for place in (*self.places.values(), *pods)))

    async def live(self) -> None:
        """Come up, then run until cancelled, keeping the state file true to the pods."""
        await self.up()
        os.close(self._report)
        changed = asyncio.Event()
        self.store.subscribe("pods", lambda _: changed.set())
        while True:
            await changed.wait()
            changed.clear()
            self._write_state(self._unready())


def host(address: object) -> str:
    """Return an address as URLs have it."""
    return f"[{address}]" if ":" in str(address) else str(address)


def listener(namespace: Path, family: int, port: int) -> socket.socket:
    """Return a socket bound to a port on all addresses of a family, in another network namespace."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    sock = netns.open_socket(namespace, kind, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("0.0.0.0" if family == 4 else "::", port))
    return sock


def plain_files(topology: Topology, place: str) -> dict[str, FileSpec]:
    """Return what every place that is no pod has in /etc."""
    servers = "".join(f"nameserver {address}\n" for address in topology.addresses("lan")[:1])
    hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
    hosts += "".join(f"{address} {place}\n" for address in topology.addresses(place)[:2])
    return {
        "/etc/resolv.conf": FileSpec(f"search office.example\n{servers}"),
        "/etc/hosts": FileSpec(hosts),
    }


async def main(options: Options, report: int) -> int:
    """Build the sandbox and serve it until SIGTERM; return the exit status."""
    supervisor = Supervisor(options, report)
    life = asyncio.ensure_future(supervisor.live())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, life.cancel)
    try:
        await life
    except asyncio.CancelledError:
        await supervisor.end()
    except InroadError as error:
        supervisor.say("failed", error.message, error.remedy)
        return 1
    except Exception as error:
        log.exception("could not bring the sandbox up")
        supervisor.say("failed", f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    # os._exit: the kernel takes everything down faster than an orderly interpreter does.
    os._exit(asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Options), int(sys.argv[2]))))
