"""The workstation's programs can be imported on macOS and Windows: in a Python that looks like theirs.

What those systems lack is hidden (modules, and names in modules that differ), and what only Windows' Python
has is a mock. A module for another system asserts that at its top, so importing it by mistake fails too.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, ctypes, os, pkgutil, select, signal, socket, subprocess, sys
import ctypes.wintypes
from unittest.mock import MagicMock
import aiohttp.web, click, cryptography, dns.message, http.client, kubernetes, logging, msgspec, platformdirs
import rich, ssl, structlog, tempfile, uuid, webbrowser, yaml

platform, hidden, missing = {platform!r}, {hidden!r}, {missing!r}
for module in hidden:
    sys.modules[module] = None
for name in missing:
    module, _, attribute = name.partition(".")
    vars(sys.modules[module]).pop(attribute, None)
if platform == "win32":
    for module in ("msvcrt", "winreg", "_winapi", "asyncio.windows_events", "asyncio.windows_utils"):
        sys.modules[module] = MagicMock()
    asyncio.windows_events = asyncio.windows_utils = MagicMock()
    ctypes.WinDLL, ctypes.WINFUNCTYPE, ctypes.WinError = MagicMock(), MagicMock(), OSError
    ctypes.get_last_error = ctypes.GetLastError = MagicMock(return_value=0)
    signal.SIGBREAK = 21
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
        (*LINUX, "_macos", "_posix"),
    ),
}


@pytest.mark.parametrize("platform", SYSTEMS)
def test_everything_of_the_workstation_can_be_imported(platform: str) -> None:
    hidden, missing, foreign = SYSTEMS[platform]
    program = PROGRAM.format(platform=platform, hidden=hidden, missing=missing, foreign=foreign)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100
