"""The workstation's programs can be imported on macOS and Windows: in a Python that looks like theirs.

What those systems lack is hidden (modules, and names of modules that differ); a module that is for another
system asserts that at its top, so importing it by mistake fails too.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, ctypes, os, pkgutil, select, signal, socket, subprocess, sys
import aiohttp, aiohttp.web, click, cryptography, dns, kubernetes, msgspec, platformdirs, rich, structlog, yaml
import aiohttp.connector, dns.message, http.client, logging, ssl, tempfile, uuid, webbrowser

platform, hidden, missing = {platform!r}, {hidden!r}, {missing!r}
for module in hidden:
    sys.modules[module] = None
for name in missing:
    module, _, attribute = name.partition(".")
    vars(sys.modules[module]).pop(attribute, None)
sys.platform = platform

import importlib, inroad
foreign = {foreign!r}
found = []
for package in ("core", "host", "kube", "tunnel", "daemon", "cli"):
    top = importlib.import_module("inroad." + package)
    for info in pkgutil.walk_packages(top.__path__, top.__name__ + "."):
        if not info.name.endswith(foreign):
            importlib.import_module(info.name)
            found.append(info.name)
print(len(found))
"""

LINUX = ("_linux", ".routes.linux", ".resolver.resolved", ".resolver.adaptive")
SYSTEMS = {
    "darwin": (
        ("pyroute2", "dbus_fast"),
        ("os.pidfd_open", "os.unshare", "os.setns", "select.epoll", "os.eventfd", "socket.SO_PEERCRED"),
        (*LINUX, "_windows", "windows_api"),
    ),
    "win32": (
        ("fcntl", "pwd", "grp", "termios", "resource", "tty", "pty", "uvloop", "pyroute2", "dbus_fast"),
        (
            *("os.pidfd_open", "os.unshare", "os.setns", "os.eventfd", "os.geteuid", "os.getuid", "os.fork"),
            *("os.chown", "os.killpg", "os.readv", "os.writev", "os.getgroups", "os.setsid"),
            *("socket.AF_UNIX", "socket.SO_PEERCRED", "socket.SO_BINDTODEVICE", "socket.MSG_DONTWAIT"),
            *("select.epoll", "select.poll", "signal.SIGHUP", "signal.SIGKILL", "signal.SIGUSR1"),
        ),
        (*LINUX, "_macos", "_windows", "windows_api"),
    ),
}


@pytest.mark.parametrize("platform", SYSTEMS)
def test_everything_of_the_workstation_can_be_imported(platform: str) -> None:
    hidden, missing, foreign = SYSTEMS[platform]
    program = PROGRAM.format(platform=platform, hidden=hidden, missing=missing, foreign=foreign)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100
