"""A whole connection to a sandbox by the daemon of a Mac, and of Windows, as far as Linux can be one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import Stage

DAEMON = str(Path(__file__).with_name("foreign_daemon.py"))
NETSH = r"C:\Windows\System32\netsh.exe"
MAC = [
    "/sbin/route -n {verb} -inet -net 10.96.0.0/16 -interface utun7",
    "/sbin/route -n {verb} -inet6 -net fd00:10:96::/112 -interface utun7",
]
WINDOWS = [
    NETSH + " interface ipv4 {verb} route prefix=10.96.0.0/16 interface=inroad0{metric} store=active",
    NETSH + " interface ipv6 {verb} route prefix=fd00:10:96::/112 interface=inroad0{metric} store=active",
]


@pytest.fixture
def before(sandbox: Stage) -> str:
    """The workstation's network as it was."""
    return sandbox.dump()


@pytest.fixture(params=["macos", "windows"])
def daemon(
    request: pytest.FixtureRequest, sandbox: Stage, before: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A daemon that serves the ordinary user."""
    user = sandbox.run("id", "-u").stdout.strip()
    process = sandbox.start(sys.executable, DAEMON, request.param, "--owner", user, user="root")
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "daemon serves" in line:
                break
        else:
            raise AssertionError("the daemon ended")
        yield request.param, process
    finally:
        if process.poll() is None:
            sandbox.inroad("quit", user="root", status=None)
        process.wait(20)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        sandbox.run("rm", "-rf", "/run/inroad-foreign", user="root")


def test_it_connects_and_leaves_nothing_behind(
    sandbox: Stage, before: str, daemon: tuple[str, subprocess.Popen[str]]
) -> None:
    system, process = daemon
    name, mode, commands = ("utun7", "utun", MAC) if system == "macos" else ("inroad0", "wintun", WINDOWS)
    sandbox.inroad("connect", "-n", "shop")
    status = sandbox.ask("status")
    assert (status["vif"]["name"], status["vif"]["mode"], status["vif"]["mtu"]) == (name, mode, 16_000)
    assert (status["resolver"]["kind"], status["user"]) == (system, "dev")
    assert sandbox.curl("http://web/")["namespace"] == "shop"
    assert sandbox.curl("http://web.shop.svc.cluster.local/")["namespace"] == "shop"
    refused = sandbox.run("curl", "-sS", "-m", "8", "http://web:81/", status=None)
    assert "onnect to web" in refused.stderr and "Could not resolve" not in refused.stderr
    path = sandbox.ask("explain", "web")["paths"][0]
    assert (path["way"], path["route"].partition(" dev ")[2]) == ("vif", f"{name} table main")

    # The device goes, with its routes: the daemon makes another one.
    sandbox.run("ip", "link", "delete", name, user="root")
    again = ("--connect-timeout", "1", "--retry", "20", "--retry-all-errors", "--retry-delay", "1")
    assert sandbox.curl("http://web/", *again)["namespace"] == "shop"

    assert sandbox.ask("quit")["change"] == "disconnected"
    process.wait(20)
    said = sandbox.run("cat", "/run/inroad-foreign/commands", user="root").stdout.splitlines()
    for command in commands:
        assert command.format(verb="add", metric=" metric=0") in said
        assert command.format(verb="delete", metric="") in said
    assert sandbox.dump() == before
