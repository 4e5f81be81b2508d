"""The test cluster as tests use it: kubectl and helm, the workstation's commands, and inroad itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.machine import Machine, wait_for
from tools import helm

ROOT = Path(__file__).resolve().parents[2]
INROAD = [sys.executable, "-I", "-m", "inroad"]
NAMESPACE = "inroad"
NOBODY = 65534

Done = subprocess.CompletedProcess[str]


@dataclass
class Stage:
    """A running cluster with its workstation."""

    cluster: Cluster

    @property
    def workstation(self) -> Machine:
        """The machine that inroad connects."""
        return self.cluster.machines["workstation"]

    @property
    def kubeconfig(self) -> str:
        """The administrator's kubeconfig."""
        return str(self.cluster.kubeconfig)

    def run(
        self,
        *argv: str,
        status: int | None = 0,
        stdin: str | None = None,
        kubeconfig: str = "",
        uid: int = 0,
        env: Mapping[str, str] | None = None,
        timeout: float = 90,
    ) -> Done:
        """Run a command on the workstation; its exit status must be `status` (None: any)."""
        home = {"HOME": "/run"} if uid else {}  # root's own may not be read by others
        settings = {"KUBECONFIG": kubeconfig or self.kubeconfig, **home, **(env or {})}
        who = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        line = ["env", "--chdir", str(ROOT), *(f"{k}={v}" for k, v in settings.items()), *who, *argv]
        done = self.workstation.run(*line, stdin=stdin, check=False, timeout=timeout)
        assert status is None or done.returncode == status, done
        return done

    def inroad(self, *arguments: str, status: int | None = 0, **options: Any) -> Done:
        """Run `inroad ...` on the workstation."""
        return self.run(*INROAD, *arguments, status=status, **options)

    def ask(self, *arguments: str, **options: Any) -> dict[str, Any]:
        """Run `inroad ... -o json` and return what it printed."""
        answer: dict[str, Any] = json.loads(self.inroad(*arguments, "-o", "json", **options).stdout)
        return answer

    def curl(self, url: str, *flags: str) -> dict[str, Any]:
        """Fetch a page of the `web` workload."""
        page: dict[str, Any] = json.loads(self.run("curl", "-sS", "-m", "10", *flags, url).stdout)
        return page

    def python(self, source: str, *arguments: str, **options: Any) -> str:
        """Run a Python program on the workstation; return what it printed."""
        return self.run(sys.executable, "-c", source, *arguments, **options).stdout

    def dump(self) -> str:
        """Return everything about the workstation's network that inroad could change."""
        return self.run(sys.executable, str(ROOT / "tools/host_dump.py")).stdout

    def daemons(self) -> list[str]:
        """Return the process ids, as the workstation sees them, of inroad's daemon."""
        return self.run("pgrep", "-f", "inroad serve daemon", status=None).stdout.split()

    def kubectl(self, *argv: str, **options: Any) -> str:
        """Run kubectl as the administrator; return what it printed."""
        return self.cluster.kubectl(*argv, **options)

    def objects(self, *argv: str) -> list[dict[str, Any]]:
        """Return the items of `kubectl get`."""
        found: list[dict[str, Any]] = self.cluster.get(*argv)["items"]
        return found

    def helm(self, *argv: str, status: int | None = 0, timeout: float = 120) -> Done:
        """Run helm as the administrator, from the office network."""
        lan = self.cluster.machines["lan"]
        settings = ("env", "--chdir", str(ROOT), f"KUBECONFIG={self.kubeconfig}", "HOME=/run")
        done = lan.run(*settings, str(helm.find(pinned=True)), *argv, check=False, timeout=timeout)
        assert status is None or done.returncode == status, done
        return done

    def manager_pods(self, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
        """Return the traffic-manager's pods that are not being deleted."""
        label = "app.kubernetes.io/component=traffic-manager"
        pods = self.objects("pods", "-n", namespace, "-l", label)
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def manager_log(self, namespace: str = NAMESPACE) -> str:
        """Return what the traffic-manager has logged."""
        return self.kubectl("logs", "-n", namespace, "deployment/traffic-manager", "--tail=-1")

    def wait_for_pods(self, namespace: str, timeout: float = 60) -> None:
        """Wait until every pod of a namespace is ready and none is being deleted."""

        def ready() -> bool:
            pods = self.objects("pods", "-n", namespace)
            conditions = [{c["type"]: c["status"] for c in p["status"].get("conditions", [])} for p in pods]
            leaving = any("deletionTimestamp" in p["metadata"] for p in pods)
            return bool(pods) and not leaving and all(c.get("Ready") == "True" for c in conditions)

        wait_for(
            f"the pods of {namespace}",
            ready,
            timeout,
            lambda: self.kubectl("describe", "pods", "-n", namespace),
        )

    def account(
        self, name: str, *rules: tuple[str, str], namespace: str = NAMESPACE, seconds: int = 3600
    ) -> str:
        """Return a token of a new service account with rights (verbs, resource) in a namespace."""
        self.kubectl("delete", "serviceaccount", name, "-n", namespace, "--ignore-not-found")
        self.kubectl("create", "serviceaccount", name, "-n", namespace)
        for number, (verbs, resource) in enumerate(rules):
            role = f"{name}-{number}"
            self.kubectl("delete", "role,rolebinding", role, "-n", namespace, "--ignore-not-found")
            self.kubectl("create", "role", role, "-n", namespace, f"--verb={verbs}", f"--resource={resource}")
            binding = ("create", "rolebinding", role, "-n", namespace, f"--role={role}")
            self.kubectl(*binding, f"--serviceaccount={namespace}:{name}")
        return self.kubectl("create", "token", name, "-n", namespace, f"--duration={seconds}s").strip()

    def kubeconfig_with(self, user: Mapping[str, object], name: str, **cluster: object) -> str:
        """Write a kubeconfig with another user (and other settings of its cluster); return its path."""
        config = json.loads(self.cluster.kubeconfig.read_text())
        config["users"][0]["user"] = dict(user)
        config["clusters"][0]["cluster"].update(cluster)
        path = self.cluster.state / f"{name}.kubeconfig"
        path.write_text(json.dumps(config))
        path.chmod(0o644)
        return str(path)
