"""`python -m bench.cluster`: the traffic-manager's own part, on a generated cluster of any size.

    this process ── HTTP ── generated API server (a process: pages, watches, events on demand)
         └── the manager's `ClusterInfoSource` (a process of its own, measured: memory, CPU, time)

Printed: memory, time from the end of the lists to the first state, CPU of a pod event, and how long a node's
coming and going takes to be told.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from ipaddress import ip_network
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog
import uvloop
from aiohttp import web

from inroad.core.host_config import RouteConfig
from inroad.core.messages import ClusterInfo
from inroad.core.subnets import plan
from inroad.host.journal import Journal
from inroad.host.routes.linux import LinuxRoutes
from inroad.host.run import require, run_async
from inroad.kube.client import ApiClient
from inroad.kube.credentials import Credentials
from inroad.manager.cluster_info import ClusterInfoSource
from inroad.manager.settings import Settings

PODS_PER_NODE = 20
LIMITS = {"memory_mb": 250.0, "first_state_s": 10.0, "pod_event_us": 50.0, "node_change_p99_ms": 1000.0}
LIMITS["plan_and_diff_10k_ms"] = 150.0


def pod(number: int, version: int) -> dict[str, Any]:
    """Return a pod as a Deployment's are: some 3 kB of JSON."""
    node, host = divmod(number, PODS_PER_NODE)
    address = f"10.{(node >> 8) & 255}.{node & 255}.{host + 2}"
    container = {
        "name": "main",
        "image": "registry.example/team/service:2026-01-01",
        "env": [{"name": f"SETTING_{index}", "value": "some value of a setting"} for index in range(12)],
        "resources": {"limits": {"memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"}},
        "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
    }
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    return {
        "metadata": {
            "name": f"service-{number}-7d9f8c6b5-x{number % 1000:03}",
            "namespace": f"team-{number % 200}",
            "uid": f"00000000-0000-4000-8000-{number:012}",
            "resourceVersion": str(version),
            "labels": {
                "app": f"service-{number}",
                "pod-template-hash": "7d9f8c6b5",
                "team": str(number % 200),
            },
            "managedFields": [
                {"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:status": {"f:x": {}}}}
            ]
            * 6,
        },
        "spec": {"nodeName": f"node-{node}", "containers": [container], "serviceAccountName": "default"},
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "hostIP": "192.168.0.1",
            "conditions": conditions,
        },
    }


def node(number: int, version: int) -> dict[str, Any]:
    """Return a node with a /24."""
    cidr = f"10.{(number >> 8) & 255}.{number & 255}.0/24"
    return {
        "metadata": {"name": f"node-{number}", "resourceVersion": str(version)},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
    }


class Generated:
    """An API server without objects: they are made up when they are asked for."""

    def __init__(self, nodes: int, pods: int) -> None:
        self.sizes = {"nodes": nodes, "pods": pods}
        self.make = {"nodes": node, "pods": pod}
        self.version = 10
        self.watches: dict[str, list[web.StreamResponse]] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        plural = request.path.rpartition("/")[2]
        if request.method == "POST":
            return web.json_response({"code": 403, "message": "no"}, status=403)
        if plural == "servicecidrs" and "watch" not in request.query:
            items = [{"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12"]}}]
            return web.json_response({"metadata": {"resourceVersion": "10"}, "items": items})
        if "watch" in request.query:
            return await self.watch(request, plural)
        first, limit = int(request.query.get("continue", 0)), int(request.query["limit"])
        size = self.sizes.get(plural, 0)
        last = min(first + limit, size)
        metadata = {"resourceVersion": "10"} | ({"continue": str(last)} if last < size else {})
        items = [self.make[plural](number, 10) for number in range(first, last)]
        return web.json_response({"metadata": metadata, "items": items})

    async def watch(self, request: web.BaseRequest, plural: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        self.watches.setdefault(plural, []).append(response)
        await asyncio.Event().wait()
        return response

    async def send(self, plural: str, lines: bytes) -> None:
        for response in self.watches.get(plural, ()):
            await response.write(lines)

    def event(self, kind: str, plural: str, number: int) -> bytes:
        self.version += 1
        return json.dumps({"type": kind, "object": self.make[plural](number, self.version)}).encode() + b"\n"


def serve_generated(pipe: Connection, nodes: int, pods: int) -> None:
    """The API server's process: commands come by the pipe."""

    async def main() -> None:
        generated = Generated(nodes, pods)
        runner = web.ServerRunner(web.Server(generated.handle, access_log=None))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pipe.send(runner.addresses[0][1])
        loop = asyncio.get_running_loop()
        while True:
            command, first, count = await loop.run_in_executor(None, pipe.recv)
            if command == "stop":
                return
            if command == "pods":
                lines = [generated.event("MODIFIED", "pods", first + index) for index in range(count)]
            elif command == "churn":
                lines = [
                    generated.event(kind, "pods", first + index)
                    for index in range(count)
                    for kind in ("DELETED", "ADDED")
                ]
            else:
                lines = [generated.event(command, "nodes", first)]
            pipe.send(time.monotonic())
            for at in range(0, len(lines), 200):
                await generated.send(
                    "nodes" if command in ("ADDED", "DELETED") else "pods", b"".join(lines[at : at + 200])
                )

    uvloop.run(main())


def run_manager(pipe: Connection, port: int) -> None:
    """The manager's process: tells each state's time, and its own size when asked."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))

    async def main() -> None:
        client = ApiClient(Credentials(server=f"http://127.0.0.1:{port}"))

        def told(state: ClusterInfo) -> None:
            pipe.send(("state", time.monotonic(), len(state.subnets)))

        source = ClusterInfoSource(client, on_change=told, settings=Settings())
        await source.start()
        loop = asyncio.get_running_loop()
        while True:
            command = await loop.run_in_executor(None, pipe.recv)
            if command == "stop":
                return
            usage = resource.getrusage(resource.RUSAGE_SELF)
            pods = source._collections._reflectors["pods"][""]
            seen = int(pods._version or 0)
            pipe.send(("size", rss(), usage.ru_utime + usage.ru_stime, seen, len(pods.items)))

    uvloop.run(main())


def rss() -> float:
    """Return this process's resident memory in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Bench:
    """Both processes and the conversation with them."""

    def __init__(self, nodes: int, pods: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.api, api_end = context.Pipe()
        self.manager, manager_end = context.Pipe()
        self.nodes, self.pods = nodes, pods
        server = context.Process(target=serve_generated, args=(api_end, nodes, pods), daemon=True)
        server.start()
        port = self.api.recv()
        self.begun = time.monotonic()
        self.process = context.Process(target=run_manager, args=(manager_end, port), daemon=True)
        self.process.start()

    def state(self, seconds: float = 300.0) -> tuple[float, int]:
        """Wait for the next state: (time, subnets)."""
        if not self.manager.poll(seconds):
            raise SystemExit("the manager told nothing")
        _, at, subnets = self.manager.recv()
        return at, subnets

    def size(self) -> tuple[float, float, int, int]:
        """Ask the manager: memory in MB, CPU seconds, last pod version, pods kept."""
        self.manager.send("size")
        while True:
            what, *size = self.manager.recv()
            if what == "size":
                memory, cpu, version, pods = size
                return memory, cpu, version, pods

    def command(self, name: str, first: int = 0, count: int = 0) -> float:
        self.api.send((name, first, count))
        return float(self.api.recv())


def pod_event_us(bench: Bench, name: str, events: int) -> float:
    """Return the manager's CPU for one pod event, in microseconds."""
    _, before, version, _ = bench.size()
    bench.command(name, 0, events if name == "pods" else events // 2)
    while True:
        _, after, now, _ = bench.size()
        if now >= version + events:
            return (after - before) / events * 1e6
        time.sleep(0.05)


def node_changes_ms(bench: Bench, changes: int) -> Iterator[float]:
    """Add and remove nodes one by one; yield how long each took to be told."""
    for index in range(changes):
        kind = "ADDED" if index % 2 == 0 else "DELETED"
        sent = bench.command(kind, bench.nodes + index // 2)
        yield (bench.state(10.0)[0] - sent) * 1e3


def plan_and_diff(pipe: Connection, size: int) -> None:
    """In a network namespace of its own: plan `size` subnets and compare them with the same in the kernel."""
    flags = 0x40000000  # CLONE_NEWNET; os.unshare came with Python 3.12
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))

    async def main() -> float:
        with tempfile.TemporaryDirectory(prefix="inroad-bench-") as directory:
            routes = LinuxRoutes(Journal(Path(directory, "journal")))
            discovered = [
                (ip_network((0x0A000000 + (number << 8), 24)), "node podCIDR") for number in range(size)
            ]
            await run_async([require("ip", "iproute2"), "link", "set", "lo", "up"])
            times = []
            for _ in range(5):
                begun = time.process_time()
                found = plan(discovered=discovered, never=[ip_network("10.0.7.0/25")])
                subnets = tuple(planned.network for planned in found.subnets)
                wanted = RouteConfig("lo", subnets, found.never, mtu=1500)
                changes = routes._changes(wanted)
                times.append((time.process_time() - begun) * 1e3)
                if changes:
                    await routes.apply(wanted)
            await routes.apply(RouteConfig())
            await routes.close()
        return max(times)

    pipe.send(asyncio.run(main()))


def measured_plan_ms(size: int = 10_000) -> float:
    """Return the CPU milliseconds of planning and diffing in a process of its own, the slowest of five."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=plan_and_diff, args=(there, size))
    process.start()
    value = float(here.recv())
    process.join()
    return value


def measured(
    nodes: int = 5_000, pods: int = 100_000, events: int = 20_000, changes: int = 1_000
) -> dict[str, float]:
    """Measure everything once; the figures by name, `LIMITS` says how high some of them may be."""
    bench = Bench(nodes, pods)
    at, subnets = bench.state()
    memory, cpu, _, kept = bench.size()
    figures = {
        "lists_and_first_state_s": at - bench.begun,
        "lists_cpu_s": cpu,
        "subnets": subnets,
        "pods": kept,
    }
    figures["pod_event_us"] = pod_event_us(bench, "pods", events)
    figures["pod_churn_event_us"] = pod_event_us(bench, "churn", events)
    times = sorted(node_changes_ms(bench, changes))
    figures["node_change_p50_ms"] = statistics.median(times)
    figures["node_change_p99_ms"] = times[int(len(times) * 0.99) - 1]
    figures["memory_mb"] = max(memory, bench.size()[0])
    if os.geteuid() == 0:
        figures["plan_and_diff_10k_ms"] = measured_plan_ms()
    bench.manager.send("stop")
    bench.api.send(("stop", 0, 0))
    return figures


def text(figures: dict[str, float]) -> str:
    """Return the figures as lines, each with its limit."""
    if not figures:
        return ""
    limits = {name: f"   limit {LIMITS[name]:g}" if name in LIMITS else "" for name in figures}
    lines = (f"{name:26} {value:12.1f}{limits[name]}" for name, value in figures.items())
    return "\n".join(["The traffic-manager on a generated cluster:", *lines])


def main() -> int:
    """Measure and print; the exit status says whether every limit was kept."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster")
    parser.add_argument("--nodes", type=int, default=5_000)
    parser.add_argument("--pods", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--changes", type=int, default=1_000)
    figures = measured(**vars(parser.parse_args()))
    print(text(figures))
    return int(any(figures.get(name, 0.0) > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
