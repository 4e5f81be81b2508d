"""What a port-forward is on a real API server, kubelet and container runtime (docs/adr/0009)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.e2e.cluster.machine import wait_for
from tests.e2e.stage import NAMESPACE, ROOT, Stage
from tests.e2e.workloads import IMAGE

PEER = """
import socketserver, sys

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)

class Sink(socketserver.BaseRequestHandler):
    def handle(self):
        total = 0
        while data := self.request.recv(65536):
            total += len(data)
        print("sink", total, flush=True)

class Source(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(bytes(int(self.request.makefile().readline())))

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

import threading
for port, handler in ((7001, Echo), (7002, Sink), (7003, Source)):
    server = Server(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever).start()
print("ready", flush=True)
"""


pytestmark = pytest.mark.own_cluster


@pytest.fixture(scope="module")
def peer(stage: Stage) -> Iterator[Stage]:
    """The stage with the pod `peer`, whose ports are on its loopback."""
    container = {
        "name": "peer",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", PEER],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "peer", "namespace": "default"},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }
    stage.kubectl("delete", "pod", "peer", "--ignore-not-found")
    stage.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    logs = ("logs", "peer")
    wait_for("the peer", lambda: "ready" in stage.kubectl(*logs, check=False), 30)
    yield stage
    stage.kubectl("delete", "pod", "peer")


def ask(stage: Stage, question: str, kubeconfig: str = "") -> Any:
    """Ask from the workstation."""
    program = str(ROOT / "tests/e2e/port_forward_client.py")
    return json.loads(stage.run(sys.executable, program, kubeconfig or stage.kubeconfig, question).stdout)


def test_subprotocols(peer: Stage) -> None:
    found = ask(peer, "protocols")
    spdy = "SPDY/3.1+portforward.k8s.io"
    assert (found["v4.channel.k8s.io"], found[spdy]) == ("v4.channel.k8s.io", spdy)
    assert (found["v5.channel.k8s.io"], found["portforward.k8s.io"]) == ("Forbidden", "Forbidden")


def test_messages_up_to_32_mib_go_up_and_32_kib_come_down(peer: Stage) -> None:
    found = {int(size): tuple(answer) for size, answer in ask(peer, "sizes").items()}
    limit = 32 << 20
    assert all(total == size for size, (total, _) in found.items() if size < limit)
    assert found[limit] == (0, 0)
    assert max(largest for _, largest in found.values()) == 32_768


def test_a_port_where_nobody_listens(peer: Stage) -> None:
    channel, text, end, code = ask(peer, "closed_port")
    assert (channel, end, code) == (1, "CLOSE", 1000)
    assert "connection refused" in text


def test_everything_before_an_end_arrives(peer: Stage) -> None:
    assert ask(peer, "ends") == [5_000_000, "CLOSE", 1000]
    wait_for("the sink's sum", lambda: "sink 5000000" in peer.kubectl("logs", "peer"), 10)


@pytest.mark.parametrize(("verbs", "allowed"), [("get", True), ("create", False)])
def test_what_it_is_authorised_as(peer: Stage, verbs: str, allowed: bool) -> None:
    """Up to 1.34 a WebSocket is a `get`; from 1.35 on `create` is asked for too, so the chart grants both."""
    name = f"forward-{verbs}"
    token = peer.account(name, (verbs, "pods/portforward"), namespace="default")
    found = ask(peer, "protocols", peer.kubeconfig_with({"token": token}, name))
    assert found["v4.channel.k8s.io"] == ("v4.channel.k8s.io" if allowed else "Forbidden")
    audit = (peer.cluster.nodes[0].state / "audit.log").read_text().splitlines()
    events = [json.loads(line) for line in audit if '"portforward"' in line and f":{name}" in line]
    assert {event["verb"] for event in events} == {"get"}


IDLE = 12


@pytest.fixture
def impatient(peer: Stage) -> Iterator[Stage]:
    """The nodes' runtimes end a stream when nothing came for `IDLE` seconds; 4 hours are the default."""
    limit = '[plugins."io.containerd.grpc.v1.cri"]\n'
    texts = {node.name: (node.state / "containerd.toml").read_text() for node in peer.cluster.nodes}

    def restart(change: Callable[[str], str]) -> None:
        for node in peer.cluster.nodes:
            (node.state / "containerd.toml").write_text(change(texts[node.name]))
            node.restart("containerd")
        peer.cluster.save()
        peer.wait_for_pods(NAMESPACE)

    peer.inroad("quit", status=None)
    restart(lambda text: text.replace(limit, f'{limit}  stream_idle_timeout = "{IDLE}s"\n'))
    try:
        yield peer
    finally:
        restart(lambda text: text)


def test_an_idle_link_is_kept_alive(impatient: Stage) -> None:
    """Beside it a forward on which nobody says a word is cut, twice over."""
    impatient.ask("connect", "-n", "shop")
    before = impatient.ask("status")["tunnel"]["since"]
    for _ in range(2):
        assert ask(impatient, "silence") > IDLE - 2
    assert impatient.ask("status")["tunnel"]["since"] == before
    assert impatient.curl("http://web/")["namespace"] == "shop"
    impatient.inroad("quit")


@pytest.fixture
def deaf(stage: Stage) -> Iterator[Stage]:
    """A ready pod, labelled as a manager in a namespace of its own, on whose loopback nobody listens.

    From outside a manager under Kata or gVisor is just that: the node dials a loopback that is not the pod's.
    """
    labels = {"app.kubernetes.io/name": "inroad", "app.kubernetes.io/component": "traffic-manager"}
    command = ["python3", "-c", "import signal; signal.pause()"]
    container = {"name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": command}
    metadata = {"name": "traffic-manager", "namespace": "deaf", "labels": labels}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    items = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "deaf"}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
    ]
    stage.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    stage.wait_for_pods("deaf")
    yield stage
    stage.kubectl("delete", "namespace", "deaf", timeout=120)


def test_a_runtime_that_can_not_forward_is_explained(deaf: Stage) -> None:
    deaf.inroad("quit", status=None)
    done = deaf.inroad("connect", "--manager-namespace", "deaf", status=25)
    assert "finds nobody on its client port" in done.stderr
    assert "Kata, gVisor" in done.stderr
    assert "runtimeClassName" in done.stderr
