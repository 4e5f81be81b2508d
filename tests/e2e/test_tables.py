"""The conformance tables, which otherwise the sandbox has to pass, on a real cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e import clients
from tests.e2e.cluster import build, images, node
from tests.e2e.stage import ROOT, Stage

TABLES = sorted(path.name for path in (ROOT / "tests/conformance").glob("test_*.py"))

pytestmark = pytest.mark.own_cluster


@pytest.fixture(scope="module")
def with_clients(bare: Stage, image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The cluster with dig and curl in an image on its nodes."""
    archive = tmp_path_factory.mktemp("images") / "clients.tar"
    clients.write_image(image, archive)
    for machine in bare.cluster.nodes:
        images.load(machine, archive)
    yield bare


@pytest.mark.parametrize("table", TABLES)
def test_a_table(with_clients: Stage, table: str) -> None:
    """From the office network, as an administrator would run it against any cluster."""
    cluster = with_clients.cluster
    lan = cluster.machines["lan"]
    settings = {
        "INROAD_E2E_KUBECONFIG": str(cluster.kubeconfig),
        "INROAD_E2E_IMAGE": clients.IMAGE,
        "INROAD_E2E_PROXY_MODE": node.KUBE_PROXY["mode"],
        "KUBEBUILDER_ASSETS": str(build.binaries()),
    }
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/conformance/{table}"]
    done = subprocess.run(
        lan.enter(argv, ["--net"]),
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.splitlines()[-1])
