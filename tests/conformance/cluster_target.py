"""The cluster under test: a real one, or a sandbox when no kubeconfig is named.

`INROAD_E2E_KUBECONFIG` names an existing cluster; the same tables then say what kube-proxy and CoreDNS answer
there. Its nodes need an image with this package's workloads, dig and curl, by the name in
`INROAD_E2E_IMAGE` (default `inroad:0.1.0`); `INROAD_E2E_PROXY_MODE` says kube-proxy's mode where it is known.
Everything is in a namespace that goes away afterwards.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

KUBECONFIG = os.environ.get("INROAD_E2E_KUBECONFIG", "")
IMAGE = os.environ.get("INROAD_E2E_IMAGE", "inroad:0.1.0")
PROXY_MODE = os.environ.get("INROAD_E2E_PROXY_MODE", "" if KUBECONFIG else "nftables")
"""The mode of kube-proxy, "" when it is not known; the sandbox does what nftables mode does."""
_PATH = [os.environ.get("KUBEBUILDER_ASSETS", ""), str(Path(sys.executable).parent), os.environ["PATH"]]
KUBECTL = shutil.which("kubectl", path=os.pathsep.join(filter(None, _PATH))) or "kubectl"
INROAD = [sys.executable, "-I", "-m", "inroad"]
Json = dict[str, Any]


def _workload(kind: str, name: str, replicas: int, command: list[str], port: int, more: Json) -> Json:
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "ports": [{"name": "main", "containerPort": port}],
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    }
    low = {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
    pod = {
        "containers": [container],
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"sysctls": [low]},
        "automountServiceAccountToken": False,
    }
    template = {"metadata": {"labels": {"app": name}}, "spec": pod}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template, **more}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _service(name: str, app: str, *ports: tuple[str, str, int, int | str], **spec: Any) -> Json:
    listed = [{"name": n, "protocol": p, "port": number, "targetPort": to} for n, p, number, to in ports]
    body = {"selector": {"app": app}, "ports": listed, "ipFamilyPolicy": "PreferDualStack", **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": body}


def manifest(namespace: str) -> str:
    """Return the objects that the tables are about."""
    web = ["python3", "-m", "inroad.sandbox.workloads.web", "8080"]
    echo = ["python3", "-m", "inroad.sandbox.workloads.echo", "7"]
    alias = {"type": "ExternalName", "externalName": f"web.{namespace}.svc.cluster.local"}
    away = {"type": "ExternalName", "externalName": "away.invalid"}
    items: list[Json] = [
        _workload("Deployment", "web", 2, web, 8080, {}),
        _workload("Deployment", "echo", 1, echo, 7, {}),
        _workload(
            "StatefulSet", "db", 2, web, 8080, {"serviceName": "db", "podManagementPolicy": "Parallel"}
        ),
        _service("web", "web", ("http", "TCP", 80, 8080), ("alt", "TCP", 8888, "main")),
        _service("echo", "echo", ("tcp", "TCP", 7, 7), ("udp", "UDP", 7, 7)),
        _service("node", "web", ("http", "TCP", 80, 8080), type="NodePort"),
        _service("empty", "nobody", ("http", "TCP", 80, 8080)),
        _service("db", "db", ("sql", "TCP", 5432, 8080), clusterIP="None"),
        _service("nobody", "nobody", ("sql", "TCP", 5432, 8080), clusterIP="None"),
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "ext"}, "spec": alias},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "away"}, "spec": away},
    ]
    return "\n---\n".join(map(json.dumps, items))


class Target:
    """A cluster with the manifest in a namespace of its own."""

    def __init__(self, sandbox: str) -> None:
        self._sandbox = sandbox
        self.namespace = f"conformance-{secrets.token_hex(4)}"
        self.facts: dict[str, str] = {"ns": self.namespace}

    def kubectl(self, *argv: str, stdin: str = "") -> str:
        """Run kubectl in the test's namespace; return what it printed."""
        line = [KUBECTL, f"--namespace={self.namespace}", *argv]
        if self._sandbox:
            line = [*INROAD, "sandbox", "exec", "--name", self._sandbox, "--", *line]
        else:
            line.insert(1, f"--kubeconfig={KUBECONFIG}")
        done = subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done
        return done.stdout

    def inside(self, *argv: str, pod: str = "db-0", stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in a pod of the namespace, to its end."""
        if self._sandbox:
            place = f"pod/{self.namespace}/{pod}"
            line = [*INROAD, "sandbox", "exec", "--name", self._sandbox, "--in", place, "--", *argv]
        else:
            line = [KUBECTL, f"--kubeconfig={KUBECONFIG}", f"--namespace={self.namespace}"]
            line += ["exec", "-i", pod, "--", *argv]
        return subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=60, check=False)

    def get(self, what: str, path: str) -> list[str]:
        """Return the words of a jsonpath."""
        return self.kubectl("get", what, "-o", f"jsonpath={{{path}}}").split()

    def prepare(self) -> None:
        """Create the objects, wait for the pods, and look up the addresses that the tables speak of."""
        self.kubectl("create", "namespace", self.namespace)
        self.kubectl("apply", "-f", "-", stdin=manifest(self.namespace))
        for workload in ("deployment/web", "deployment/echo", "statefulset/db"):
            self.kubectl("rollout", "status", workload, "--timeout=60s")
        for service in ("web", "echo", "node", "empty"):
            for address in self.get(f"service/{service}", ".spec.clusterIPs[*]"):
                self.facts[f"{service}{ip_address(address).version}"] = address
        for pod in ("db-0", "db-1"):
            for address in self.get(f"pod/{pod}", ".status.podIPs[*].ip"):
                self.facts[f"{pod}.{ip_address(address).version}"] = address
        self.facts["nodeport"] = self.get("service/node", ".spec.ports[0].nodePort")[0]
        self.facts["web.pods"] = ",".join(
            self.get("pods", ".items[?(@.metadata.labels.app=='web')].metadata.name")
        )

    def families(self) -> list[int]:
        """Return the address families that services have here."""
        return [family for family in (4, 6) if f"web{family}" in self.facts]

    def text(self, template: str) -> str:
        """Fill facts in: `{web4}` is the IPv4 address of `web`."""
        for key, value in self.facts.items():
            template = template.replace(f"{{{key}}}", value)
        return template


@contextmanager
def _cluster() -> Iterator[Target]:
    if KUBECONFIG:
        yield Target("")
        return
    if os.geteuid() != 0:
        pytest.skip("the sandbox makes network namespaces; or name a cluster in INROAD_E2E_KUBECONFIG")
    name = f"c{os.getpid()}"
    subprocess.run(
        [*INROAD, "sandbox", "up", "--name", name, "--without-manager"], check=True, stdout=subprocess.DEVNULL
    )
    try:
        yield Target(name)
    finally:
        subprocess.run([*INROAD, "sandbox", "down", "--name", name], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    """Yield the cluster, prepared."""
    with _cluster() as found:
        found.prepare()
        try:
            yield found
        finally:
            found.kubectl("delete", "namespace", found.namespace, "--wait=false")
