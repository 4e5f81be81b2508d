"""A whole connection by the daemon of a Mac, as far as Linux can be one (`mac_daemon`), to a sandbox."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import Stage

DAEMON = str(Path(__file__).with_name("mac_daemon.py"))
ROUTES = ["10.96.0.0/16", "fd00:10:96::/112"]


@pytest.fixture
def before(sandbox: Stage) -> str:
    """The workstation's network as it was."""
    return sandbox.dump()


@pytest.fixture
def mac(sandbox: Stage, before: str) -> Iterator[subprocess.Popen[str]]:
    """A daemon that serves the ordinary user."""
    user = sandbox.run("id", "-u").stdout.strip()
    daemon = sandbox.start(sys.executable, DAEMON, "--owner", user, user="root")
    try:
        assert daemon.stderr is not None
        for line in daemon.stderr:
            if "daemon serves" in line:
                break
        else:
            raise AssertionError("the daemon ended")
        yield daemon
    finally:
        if daemon.poll() is None:
            sandbox.inroad("quit", user="root", status=None)
        daemon.wait(20)
        for pipe in (daemon.stdout, daemon.stderr):
            assert pipe is not None
            pipe.close()
        sandbox.run("rm", "-rf", "/run/inroad-mac", user="root")


def test_it_connects_and_leaves_nothing_behind(
    sandbox: Stage, before: str, mac: subprocess.Popen[str]
) -> None:
    sandbox.inroad("connect", "-n", "shop")
    status = sandbox.ask("status")
    assert (status["vif"]["name"], status["vif"]["mode"], status["vif"]["mtu"]) == ("utun7", "utun", 16_000)
    assert status["resolver"]["kind"] == "macos"
    assert sandbox.curl("http://web/")["namespace"] == "shop"
    assert sandbox.curl("http://web.shop.svc.cluster.local/")["namespace"] == "shop"
    refused = sandbox.run("curl", "-sS", "-m", "8", "http://web:81/", status=None)
    assert "onnect to web" in refused.stderr and "Could not resolve" not in refused.stderr
    path = sandbox.ask("explain", "web")["paths"][0]
    assert (path["way"], path["route"].partition(" dev ")[2]) == ("vif", "utun7 table main")

    assert sandbox.ask("quit")["change"] == "disconnected"
    mac.wait(20)
    said = sandbox.run("cat", "/run/inroad-mac/commands", user="root").stdout.splitlines()
    for network in ROUTES:
        family = "-inet6" if ":" in network else "-inet"
        for verb in ("add", "delete"):
            assert f"/sbin/route -n {verb} {family} -net {network} -interface utun7" in said
    assert sandbox.dump() == before
