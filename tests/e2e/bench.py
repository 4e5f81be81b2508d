"""Throughput, latency and new connections through a real API server and kubelet: `make bench-e2e`.

Three ways to the same `web` pod by the same client: from the node that it runs on (direct), through
`kubectl port-forward`, and through inroad. What counts are the ratios: all programs share the processors.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.e2e import workloads
from tests.e2e.cluster import cluster as clusters
from tests.e2e.cluster import images
from tests.e2e.cluster.machine import Machine, wait_for
from tests.e2e.conftest import install
from tests.e2e.stage import INROAD, NAMESPACE, ROOT, Stage
from tools import image

FORWARDED = 18080
CLIENT = """
import json, socket, sys, time
host, port, size = sys.argv[1], int(sys.argv[2]), 300_000_000
def ask(sock, path):
    sock.sendall(f"GET {path} HTTP/1.1\\r\\nHost: bench\\r\\n\\r\\n".encode())
def body_of(sock, want):
    got = 0
    while got < want:
        data = sock.recv(1 << 20)
        if not data:
            raise SystemExit("ended early")
        got += len(data)
sock = socket.create_connection((host, port))
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
times = []
for _ in range(1000):
    begun = time.perf_counter()
    ask(sock, "/")
    answer = sock.recv(65536)
    times.append(time.perf_counter() - begun)
begun = time.perf_counter()
ask(sock, f"/bytes/{size}")
body_of(sock, size)
down = size * 8 / (time.perf_counter() - begun) / 1e9
begun = time.perf_counter()
for _ in range(200):
    with socket.create_connection((host, port)) as one:
        ask(one, "/")
        one.recv(65536)
fresh = 200 / (time.perf_counter() - begun)
times.sort()
print(json.dumps([down, times[500] * 1e6, times[990] * 1e6, fresh]))
"""


def measure(machine: Machine, host: str, port: int) -> list[float]:
    """Run the client on a machine: Gbit/s down, request p50 and p99 in microseconds, connections/s."""
    found: list[float] = json.loads(
        machine.run(sys.executable, "-c", CLIENT, host, str(port), timeout=300).stdout
    )
    return found


@contextmanager
def port_forward(stage: Stage, pod: str) -> Iterator[None]:
    """Run `kubectl port-forward` on the workstation."""
    arguments = ("port-forward", f"--kubeconfig={stage.kubeconfig}", "-n", "shop", f"pod/{pod}")
    program = stage.workstation.start("port-forward", "/run/e2e/bin/kubectl", *arguments, f"{FORWARDED}:8080")
    listens = ("nc", "-z", "127.0.0.1", str(FORWARDED))
    wait_for("kubectl port-forward", lambda: stage.workstation.run(*listens, check=False).returncode == 0, 20)
    try:
        yield
    finally:
        program.stop()


def rounds(stage: Stage, count: int) -> dict[str, list[float]]:
    """Measure all three ways in turn, `count` times; return the medians."""
    pod = stage.objects("pods", "-n", "shop", "-l", "app=web")[0]
    name, address = pod["metadata"]["name"], pod["status"]["podIP"]
    node = stage.cluster.machines[pod["spec"]["nodeName"]]

    def forwarded() -> list[float]:
        with port_forward(stage, name):
            return measure(stage.workstation, "127.0.0.1", FORWARDED)

    def connected() -> list[float]:
        stage.run(*INROAD, "connect", "-n", "shop")
        try:
            return measure(stage.workstation, address, 8080)
        finally:
            stage.run(*INROAD, "quit")

    ways: dict[str, Callable[[], list[float]]] = {
        "direct, on the pod's node": lambda: measure(node, address, 8080),
        "kubectl port-forward": forwarded,
        "inroad": connected,
    }
    runs: dict[str, list[list[float]]] = {way: [] for way in ways}
    for _ in range(count):
        for way, run in ways.items():
            runs[way].append(run())
    return {
        way: [statistics.median(column) for column in zip(*rows, strict=True)] for way, rows in runs.items()
    }


def _prepared(cluster: clusters.Cluster, archive: Path) -> Stage:
    """Return the cluster as a stage with our image, the workloads and the manager."""
    for node in cluster.nodes:
        images.load(node, archive)
    stage = Stage(cluster)
    stage.kubectl("apply", "-f", "-", stdin=workloads.as_list())
    install(stage)
    for namespace in ("shop", NAMESPACE):
        stage.wait_for_pods(namespace)
    return stage


def main() -> int:
    """Bring the stage up, measure, print a table and JSON."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    archive = ROOT / "dist/inroad-image.tar"
    image.make(archive, print)
    with clusters.claimed("bench") as name:
        try:
            found = rounds(_prepared(clusters.up(name), archive), count)
        finally:
            clusters.down(name)
    print(f"{'':28}{'down Gbit/s':>12}{'p50 us':>10}{'p99 us':>10}{'new conns/s':>13}")
    for way, (down, p50, p99, fresh) in found.items():
        print(f"{way:28}{down:12.2f}{p50:10.0f}{p99:10.0f}{fresh:13.0f}")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
