"""The test cluster itself: side by side with another, gone without a trace, also after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.e2e.cluster import build
from tests.e2e.cluster import cluster as clusters
from tests.e2e.cluster.machine import CGROUPS, MachineFailed

pytestmark = [
    pytest.mark.own_cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="the test cluster makes namespaces"),
]
NAME = f"life-{os.getpid()}"


def traces() -> tuple[str, list[str], list[str], bool, list[str]]:
    """Return what a cluster of that name could leave: links, mounts, cgroups, files, processes."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if NAME in line]
    cgroups = [str(path) for path in CGROUPS.glob(f"*/*/{NAME}")]
    processes = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            membership = (directory / "cgroup").read_text()
        except OSError:
            continue
        if f"/{NAME}/" in membership:
            processes.append(directory.name)
    return links, mounts, cgroups, (clusters.STATE_ROOT / NAME).exists(), processes


def test_up_exec_and_down_leave_nothing() -> None:
    before = traces()
    cluster = clusters.up(NAME, node_count=1, say=lambda line: None)
    try:
        assert traces() != before
        again = clusters.load(NAME)
        assert again.get("nodes")["items"][0]["metadata"]["name"] == "node-1"
        assert all(machine.alive() for machine in cluster.machines.values())
    finally:
        clusters.down(NAME)
    assert traces() == before
    clusters.down(NAME)


def test_up_over_a_crashed_one() -> None:
    before = traces()
    crashed = clusters.up(NAME, node_count=1, say=lambda line: None)
    os.kill(crashed.machines["lan"].pid, signal.SIGKILL)
    (crashed.state / "cluster.json").unlink()
    try:
        clusters.up(NAME, node_count=1, say=lambda line: None)
    finally:
        clusters.down(NAME)
    assert traces() == before


def test_a_failed_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = traces()
    monkeypatch.setenv("INROAD_E2E_LOGS", str(tmp_path / "logs"))
    monkeypatch.setattr(clusters.node, "CONTAINERD", "this is no configuration")
    with pytest.raises(MachineFailed, match="containerd on node-1"):
        clusters.up(NAME, node_count=1, say=lambda line: None)
    assert traces() == before
    assert (tmp_path / "logs/node-1/containerd.log").exists()


def test_sources_that_can_not_be_downloaded_are_said_with_what_to_do(tmp_path: Path) -> None:
    """What was tried, from where, Go's own words, and the two ways on."""
    said: list[str] = []
    environment = os.environ | {
        "GOPROXY": "http://127.0.0.1:9",
        "GOMODCACHE": str(tmp_path / "modules"),
        "GOCACHE": str(tmp_path / "objects"),
        "GOFLAGS": "-mod=readonly",
    }
    with pytest.raises(build.BuildFailed) as caught:
        build.download(["kubectl"], environment, said.append)
    for words in (
        "GOPROXY=http://127.0.0.1:9",
        "connection refused",
        "run it again",
        "INROAD_E2E_KUBECONFIG",
    ):
        assert words in str(caught.value)
    assert len(said) == build.DOWNLOADS - 1
