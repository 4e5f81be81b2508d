"""Somebody else's cluster as the tests' stage: INROAD_E2E_KUBECONFIG names it, this host is the workstation.

Its nodes must have our image: INROAD_E2E_IMAGE names it (default: `inroad` of this version), and
`make image` makes an archive to load. Tests that restart a cluster's own programs are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.machine import MachineFailed, run_to_end


@dataclass
class Host:
    """This host, where a made cluster has its workstation; see `Machine.run`."""

    name: str = "workstation"

    def run(
        self,
        *argv: str,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end on this host."""
        return run_to_end(self.name, argv, argv, stdin, env, check, timeout)


@dataclass
class BorrowedCluster(Cluster):
    """An existing cluster; `state` is a directory for kubeconfigs of the tests' own."""

    program: str = "kubectl"

    def kubectl(self, *argv: str, **options: Any) -> str:
        """Run kubectl as whoever the kubeconfig says."""
        return (
            self.machines["lan"].run(self.program, f"--kubeconfig={self.kubeconfig}", *argv, **options).stdout
        )


def borrow(kubeconfig: str) -> BorrowedCluster:
    """Return the cluster of a kubeconfig; raises `MachineFailed` when it can't be asked."""
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    program = shutil.which(
        "kubectl", path=os.pathsep.join(filter(None, [assets, os.environ.get("PATH", "")]))
    )
    if program is None:
        raise MachineFailed("INROAD_E2E_KUBECONFIG needs kubectl in PATH or in KUBEBUILDER_ASSETS")
    state = Path(tempfile.mkdtemp(prefix="inroad-e2e-"))
    host: Any = Host()
    cluster = BorrowedCluster("borrowed", state, {"lan": host, "workstation": host}, program=program)
    cluster.kubeconfig.touch(0o600)
    flattened = host.run(
        program, "--kubeconfig", kubeconfig, "config", "view", "--raw", "--minify", "-o", "json"
    )
    cluster.kubeconfig.write_text(flattened.stdout)
    cluster.kubectl("version")
    return cluster
