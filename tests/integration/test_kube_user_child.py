"""The kubeconfig is read, and its plugin run, as the caller: real uids, real files, a real plugin."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from inroad.core.errors import ContextUnknown, CredentialsRejected, KubeconfigUnreadable
from inroad.core.status import ConnectRequest
from inroad.daemon import user_child
from inroad.daemon.user_child import Peer, load
from inroad.kube.credentials import Credentials

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to take another uid")

NOBODY = Peer(65_534, 65_534, (65_534, 4242), "nobody", "/nonexistent")

PLUGIN = """#!/bin/sh
echo "$(id -u) $(id -g) $(id -G) $HOME $EXTRA" > {record}
{action}
"""
ANSWER = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "kind": "ExecCredential",
    "status": {"token": "of-the-plugin"},
}


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that belongs to the caller, in a place that everybody may enter."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="iv-home-", dir="/var/tmp") as name:
        path = Path(name)
        os.chown(path, NOBODY.uid, NOBODY.gid)
        yield path


def kubeconfig(home: Path, action: str, **exec_config: Any) -> Path:
    plugin = home / "plugin"
    plugin.write_text(PLUGIN.format(record=home / "record", action=action))
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR | stat.S_IXOTH)
    user = {"exec": {"apiVersion": ANSWER["apiVersion"], "command": "./plugin", **exec_config}}
    content = {
        "current-context": "dev",
        "contexts": [{"name": "dev", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1"}}],
        "users": [{"name": "u", "user": user}],
    }
    path = home / "config"
    path.write_text(yaml.safe_dump(content))
    os.chown(path, NOBODY.uid, NOBODY.gid)
    path.chmod(0o600)
    return path


async def fetch(home: Path, *, context: str = "", **environment: str) -> Credentials:
    request = ConnectRequest(
        environment={"HOME": str(home), "PATH": os.environ["PATH"], **environment},
        directory=str(home),
        kubeconfig="config",
        context=context,
    )
    return (await load(NOBODY, request)).credentials


async def test_the_plugin_runs_with_the_callers_identity_and_environment(home: Path) -> None:
    kubeconfig(home, f"echo '{json.dumps(ANSWER)}'")
    found: Credentials = await fetch(home, EXTRA="mine")
    assert (found.token, found.context, found.server) == ("of-the-plugin", "dev", "https://10.0.0.1")
    uid, gid, *groups, seen_home, extra = (home / "record").read_text().split()
    assert (uid, gid, sorted(groups)) == ("65534", "65534", ["4242", "65534"])
    assert (seen_home, extra) == (str(home), "mine")


async def test_a_file_that_the_caller_may_not_read_is_not_read(home: Path) -> None:
    path = kubeconfig(home, "true")
    os.chown(path, 0, 0)
    with pytest.raises(KubeconfigUnreadable, match="config can't be read: Permission denied"):
        await fetch(home)


async def test_a_plugin_that_fails_says_why_and_an_unknown_context_is_named(home: Path) -> None:
    kubeconfig(home, "echo starting >&2; echo 'token expired: run login' >&2; exit 3")
    with pytest.raises(CredentialsRejected, match="plugin failed with status 3: token expired: run login"):
        await fetch(home)
    with pytest.raises(ContextUnknown, match="no context prod; it has dev"):
        await fetch(home, context="prod")


async def test_a_plugin_that_never_ends_is_ended_with_its_children(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_child, "TIMEOUT", 1.5)
    kubeconfig(home, f"sleep 1000 & echo $! > {home}/pid; wait")
    with pytest.raises(CredentialsRejected, match="took longer than 2 s"):
        await fetch(home)
    pid = int((home / "pid").read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline, "the plugin's child lives on"
        await asyncio.sleep(0.01)


async def test_an_endless_answer_is_bounded(home: Path) -> None:
    kubeconfig(home, "head -c 30000000 /dev/zero | tr '\\0' x; exit 1")
    with pytest.raises(CredentialsRejected, match="failed with status 1"):
        await fetch(home)


async def test_cancelling_leaves_no_process(home: Path) -> None:
    kubeconfig(home, f"echo $$ > {home}/pid; exec sleep 1000")
    task = asyncio.create_task(fetch(home))
    async with asyncio.timeout(10):
        while not (home / "pid").exists() or not (home / "pid").read_text().strip():
            await asyncio.sleep(0.01)
    pid = int((home / "pid").read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text():
            await asyncio.sleep(0.01)


async def test_nothing_of_the_callers_is_run_as_root(home: Path) -> None:
    """Neither a module in its directory nor one that its environment points to."""
    kubeconfig(home, f"echo '{json.dumps(ANSWER)}'")
    for name in ("yaml.py", "sitecustomize.py", "json.py"):
        (home / name).write_text(f"open('{home}/hijacked', 'w')")
    found: Credentials = await fetch(home, PYTHONPATH=str(home), PYTHONHOME=str(home))
    assert found.token == "of-the-plugin"
    assert not (home / "hijacked").exists()
