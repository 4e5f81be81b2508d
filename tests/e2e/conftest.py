"""One cluster for the whole run, with our image on its nodes, the chart installed and the workloads up."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e import workloads
from tests.e2e.borrowed import borrow
from tests.e2e.cluster import cluster as clusters
from tests.e2e.cluster import images
from tests.e2e.cluster.machine import MachineFailed, wait_for
from tests.e2e.stage import NAMESPACE, ROOT, Stage
from tools import image as image_maker

BORROWED = os.environ.get("INROAD_E2E_KUBECONFIG", "")
KEEP = os.environ.get("INROAD_E2E_KEEP", "")
IMAGE_SOURCES = ("src", "tools/image.py", "tools/oci.py", "requirements/runtime.txt", "pyproject.toml")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of tests that need a cluster made here."""
    config.addinivalue_line("markers", "own_cluster: restarts or knows the insides of the cluster made here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test the time that the first one needs, which builds and starts everything."""
    for item in items:
        item.add_marker(pytest.mark.timeout(1800))
        if BORROWED and item.get_closest_marker("own_cluster"):
            item.add_marker(pytest.mark.skip(reason="INROAD_E2E_KUBECONFIG: not our cluster"))


def say(line: str) -> None:
    """Print progress past pytest's capture."""
    print(line, file=sys.__stderr__, flush=True)


@pytest.fixture(scope="session")
def image() -> Path:
    """The image archive of the tree as it is, made when it is older than its sources."""
    target = ROOT / "dist/inroad-image.tar"
    files = [file for name in IMAGE_SOURCES for file in [ROOT / name, *(ROOT / name).rglob("*.py")]]
    if not target.exists() or target.stat().st_mtime < max(f.stat().st_mtime for f in files if f.is_file()):
        say("making the image")
        image_maker.make(target, say)
    return target


@pytest.fixture(scope="session")
def bare(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A cluster with the image on its nodes and nothing installed."""
    if os.geteuid() != 0:
        pytest.skip("the test cluster makes namespaces")
    if BORROWED:
        borrowed = borrow(BORROWED)
        yield Stage(borrowed)
        shutil.rmtree(borrowed.state)
        return
    image: Path = request.getfixturevalue("image")
    with clusters.claimed("e2e") as name:
        cluster = _running(name) or clusters.up(name, say=say)
        try:
            for node in cluster.nodes:
                images.load(node, image)
            yield Stage(cluster)
        finally:
            if not KEEP:
                clusters.down(name)


def _running(name: str) -> clusters.Cluster | None:
    """Return the cluster that INROAD_E2E_KEEP left by an earlier run."""
    with contextlib.suppress(MachineFailed):
        return clusters.load(name) if KEEP else None
    return None


@pytest.fixture(scope="session")
def stage(bare: Stage) -> Iterator[Stage]:
    """The cluster with the workloads up and the chart installed with its default values."""
    bare.kubectl("apply", "-f", "-", stdin=workloads.as_list())
    install(bare)
    for namespace in ("default", "shop", NAMESPACE):
        bare.wait_for_pods(namespace)
    yield bare
    if BORROWED:
        bare.helm("uninstall", "inroad", "-n", NAMESPACE, "--wait", status=None)
        bare.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=workloads.as_list(), timeout=120)


def install(stage: Stage, *arguments: str) -> None:
    """Install or upgrade the chart in its usual namespace and wait until it is ready."""
    where = ("-n", NAMESPACE, "--create-namespace", "--wait", "--timeout", "90s", *workloads.IMAGE_VALUES)
    stage.helm("upgrade", "--install", "inroad", "charts/inroad", *where, *arguments)
    if KEEP:  # the same tag may be another image than the one that runs
        restarted(stage)


def restarted(stage: Stage) -> None:
    """Replace the manager's pod and wait until only the new one is there."""
    stage.kubectl("rollout", "restart", "deployment/traffic-manager", "-n", NAMESPACE)
    stage.kubectl(
        "rollout", "status", "deployment/traffic-manager", "-n", NAMESPACE, "--timeout=60s", timeout=90
    )
    stage.wait_for_pods(NAMESPACE)


@pytest.fixture
def clean_host(stage: Stage) -> Iterator[Stage]:
    """The stage with nothing connected; checks that the test left the workstation as it was."""
    stage.inroad("quit", status=None)
    before = stage.dump()
    try:
        yield stage
        assert stage.dump() == before
        wait_for("the daemon to end", lambda: not stage.daemons(), 5)
    finally:
        stage.inroad("quit", status=None)
