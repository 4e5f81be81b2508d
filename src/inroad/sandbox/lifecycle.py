"""Bringing a sandbox up and down, and removing what a crashed one left."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import msgspec

from inroad.core.errors import Interrupted, NoPrivilege, SandboxFailed
from inroad.host.run import require, run
from inroad.sandbox.options import Options, Progress
from inroad.sandbox.state import ROOT, Home, SandboxState

TOOLS = (
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
)
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 1.5
"""Seconds that the supervisor has to end everything in good order."""
PATIENCE = 5.0
"""Seconds for killed processes to be gone."""


def check_host() -> None:
    """Raise when this host can't hold a sandbox."""
    if os.geteuid() != 0:
        raise NoPrivilege("a sandbox needs root: it makes network namespaces", "run it with sudo")
    for name, package in TOOLS:
        require(name, package)


def up(options: Options, tell: Callable[[Progress], None]) -> SandboxState:
    """Start a sandbox and return when it is ready; whatever goes wrong leaves nothing behind."""
    check_host()
    home = Home(options.name)
    supervisor: Started | None = None
    with interrupts(signal.default_int_handler):
        try:
            with held_back() as came:
                supervisor = _begin(options, home)
            if came:
                raise KeyboardInterrupt
            _follow(supervisor, tell)
        except BaseException as error:
            if supervisor is not None:  # else it was up before, and is not ours to remove
                with held_back():
                    sweep(home)
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted("the sandbox was taken down again") from None
            raise
    return home.read()


@contextlib.contextmanager
def interrupts(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Have Ctrl-C, SIGTERM and SIGHUP call `handler` meanwhile."""
    before = {number: signal.signal(number, handler) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def held_back() -> Iterator[list[int]]:
    """Let nothing interrupt the block; yields the list of the signals that came meanwhile."""
    came: list[int] = []
    with interrupts(lambda number, _: came.append(number)):
        yield came


def _begin(options: Options, home: Home) -> Started:
    """Take the lock, remove what a crash left, and start the supervisor."""
    lock = home.lock()
    if lock is None:
        raise SandboxFailed(
            f"sandbox {options.name} is up already", f"inroad sandbox down --name {options.name}"
        )
    try:
        sweep(home, keep=lock)
        return _start(options, home, lock)
    except BaseException:
        sweep(home)
        raise
    finally:
        os.close(lock)


class Started:
    """A supervisor and the pipe it reports on."""

    def __init__(self, pid: int, report: int) -> None:
        self.pid = pid
        self.report = os.fdopen(report, "rb")


def _start(options: Options, home: Home, lock: int) -> Started:
    reading, writing = os.pipe()
    with home.log.open("ab") as log:
        # The supervisor inherits the lock's descriptor: it holds the lock as long as it lives.
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "inroad.sandbox.supervisor"),
                *(msgspec.json.encode(options).decode(), str(writing), str(lock)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(writing, lock),
            start_new_session=True,
            cwd="/",
        )
    os.close(writing)
    return Started(process.pid, reading)


def _follow(supervisor: Started, tell: Callable[[Progress], None]) -> None:
    with supervisor.report:
        for line in supervisor.report:
            progress = msgspec.json.decode(line, type=Progress)
            if progress.step == "failed":
                raise SandboxFailed(progress.text, progress.remedy)
            tell(progress)
            if progress.step == "ready":
                return
    raise SandboxFailed("the sandbox's supervisor ended before it was ready")


def down(name: str) -> bool:
    """Remove a sandbox, running or crashed; return False when there was nothing."""
    check_host()
    home = Home(name)
    if not home.directory.exists() and not home.namespaces():
        return False
    sweep(home)
    return True


def sweep(home: Home, keep: int | None = None) -> None:
    """End all processes of a sandbox and remove its namespaces and files, in whatever state it is.

    With `keep`, the descriptor of its lock, the empty directory and the lock stay.
    """
    _end_processes(home)
    lines = [f"netns del {path.name}" for path in home.namespaces()]
    if lines:
        done = run([require("ip", "iproute2"), "-force", "-batch", "-"], stdin="\n".join(lines) + "\n")
        if not done.ok:
            raise SandboxFailed(f"some namespaces of sandbox {home.name} stay: {done.stderr.strip()}")
    if keep is None:
        shutil.rmtree(home.directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            ROOT.rmdir()  # unless another sandbox is there
        return
    for path in home.directory.iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _end_processes(home: Home) -> None:
    """Ask the supervisor to end everything; then end whatever is left, again until nothing is.

    The supervisor can do it more cleanly: it reaps what it started. After a crash that is left to init.
    """
    for pid in processes(home, supervisor_only=True):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            _await_end(pid, GRACE)
    deadline = time.monotonic() + PATIENCE
    while left := processes(home):
        if time.monotonic() > deadline:
            raise SandboxFailed(f"processes {left} of sandbox {home.name} can't be ended")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)  # others' children: there is nothing to wait on


def _await_end(pid: int, seconds: float) -> None:
    """Wait until a process (not a child of ours, mostly) has ended, `seconds` at most."""
    descriptor = os.pidfd_open(pid)
    try:
        select.select([descriptor], [], [], seconds)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    finally:
        os.close(descriptor)


def processes(home: Home, *, supervisor_only: bool = False) -> list[int]:
    """Return the sandbox's supervisor and everything that runs in its network namespaces."""
    paths = [] if supervisor_only else home.namespaces()
    namespaces = {path.stat().st_ino for path in paths if path.exists()}
    lock = home.directory / "lock"
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            inside = (entry / "ns" / "net").stat().st_ino in namespaces
            if inside or holds(entry, lock):
                found.append(int(entry.name))
    return found


def holds(process: Path, lock: Path) -> bool:
    """Tell whether a process is a supervisor of the sandbox with this lock file."""
    command = (process / "cmdline").read_bytes().split(b"\0")
    if b"inroad.sandbox.supervisor" not in command:
        return False
    return any(one.readlink() == lock for one in (process / "fd").iterdir())


__all__ = ["Options", "Progress", "check_host", "down", "processes", "sweep", "up"]
