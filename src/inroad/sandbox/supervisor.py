"""The one long-lived process of a sandbox: builds the network, then runs the cluster and answers `control`.

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
import signal
import time
from collections.abc import Iterable
from typing import Any

import msgspec
import uvloop

from inroad.core.errors import InroadError, SandboxFailed
from inroad.host.run import spawn
from inroad.sandbox import apiserver, control, edit, faults, network, workstation
from inroad.sandbox.cluster import Cluster
from inroad.sandbox.options import Options, Progress
from inroad.sandbox.place import FileSpec, Place
from inroad.sandbox.state import Home, PlaceState, SandboxState
from inroad.sandbox.topology import API_PORT, Topology, make

Json = dict[str, Any]
SETTLE = 0.02
"""Seconds to wait for further changes before the state file is written."""
log = logging.getLogger("inroad.sandbox")


class Supervisor:
    """Owns everything that runs."""

    def __init__(self, options: Options, report: int) -> None:
        self.options = options
        self.home = Home(options.name)
        self.topology = make(options.nodes, options.families, options.on_host, options.upstream is not None)
        self.cluster = Cluster(self.home, self.topology, options)
        self.places = {name: Place(self.home, name) for name in self.topology.places}
        self._report = report
        self._started = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._control: asyncio.Server | None = None

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
        await asyncio.gather(self._places(), self.cluster.start())
        handlers = {"apply": self._apply, "delete": self._delete, "fault": self._fault}
        self._control = await control.serve(self.home, handlers)
        unready = await self.cluster.settle(self.options.wait)
        self._write_state(unready)
        for one in unready:
            self.say("warn", f"{one} is not ready yet")
        self.say("ready", f"sandbox {self.options.name} is up")

    async def _places(self) -> None:
        server = f"https://{host(self.topology.api_addresses[0])}:{API_PORT}"
        credentials = self.cluster.credentials
        content = apiserver.kubeconfig(server, credentials.ca, token=credentials.admin)
        apiserver.write_kubeconfig(self.home.kubeconfig, content)
        config = self.home.kubeconfig.read_text()

        async def start(name: str) -> None:
            files = dict(plain_files(self.topology, name))
            if name == "workstation":
                files |= workstation.files(config, self.home.kubeconfig)
            await self.places[name].start(name, files)
            for program in programs(self.topology, name):
                await self._run(name, program)

        await asyncio.gather(*map(start, self.places))
        self.say("done", "the workstation, the office's name server and web server")

    async def _run(self, place: str, program: list[str]) -> None:
        """Run one of our programs in a place as long as the sandbox lives."""
        what = program[0].rpartition(".")[2]
        with (self.home.directory / "logs" / f"{place}-{what}.log").open("ab") as output:
            process = await spawn(
                self.places[place].command([sys.executable, "-m", *program]),
                stdout=output.fileno(),
                stderr=output.fileno(),
                cwd="/",
            )

        async def keep() -> None:
            log.error("%s on %s ended with status %s", what, place, await process.wait())

        self._tasks.append(asyncio.create_task(keep()))

    def _write_state(self, unready: Iterable[str]) -> None:
        topology = self.topology
        places = {
            name: PlaceState(place.namespace, place.pid, tuple(map(str, topology.addresses(name))))
            for name, place in self.places.items()
        }
        for kubelet in self.cluster.kubelets:
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

    async def live(self) -> None:
        """Come up, then run until cancelled, keeping the state file true to the pods."""
        await self.up()
        os.close(self._report)
        changed = asyncio.Event()
        self.cluster.store.subscribe("pods", lambda _: changed.set())
        for kubelet in self.cluster.kubelets:
            kubelet.on_end = changed.set
        while True:
            await changed.wait()
            await asyncio.sleep(SETTLE)
            changed.clear()
            self._write_state(self.cluster.unready())

    async def end(self) -> None:
        """End all processes, and reap them; the namespaces and files stay for `lifecycle.sweep`."""
        pods = [pod.place for kubelet in self.cluster.kubelets for pod in kubelet.pods.values()]
        await asyncio.gather(*(place.stop() for place in (*self.places.values(), *pods)))

    async def _apply(self, request: Json) -> Json:
        lines = edit.apply(self.cluster.store, request["objects"], request.get("namespace", "default"))
        if request.get("wait"):
            lines += [f"{one} is not ready" for one in await self.cluster.settle(float(request["wait"]))]
            self._write_state(self.cluster.unready())
        return {"lines": lines}

    async def _delete(self, request: Json) -> Json:
        line = await edit.delete(
            self.cluster.store, request["object"], request.get("grace"), request.get("wait", 40.0)
        )
        return {"lines": [line]}

    async def _fault(self, request: Json) -> Json:
        if self.cluster.server is None:
            raise SandboxFailed("the API server does not run yet")
        return await faults.apply(self.home, self.topology, self.cluster.server.faults, request)


def host(address: object) -> str:
    """Return an address as URLs have it."""
    return f"[{address}]" if ":" in str(address) else str(address)


def programs(topology: Topology, place: str) -> list[list[str]]:
    """Return what runs in a place besides its users: module and arguments."""
    if place == "lan":
        return [["inroad.sandbox.office", *map(str, topology.addresses("lan"))]]
    if place == "workstation" and topology.upstream:
        return [["inroad.sandbox.dns_relay", *map(str, topology.upstream_addresses)]]
    return []


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
    os._exit(uvloop.run(main(msgspec.json.decode(sys.argv[1], type=Options), int(sys.argv[2]))))
