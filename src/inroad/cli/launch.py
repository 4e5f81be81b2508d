"""Starting the privileged daemon, and cleaning up after one that was killed.

Root does both directly. Anybody else runs the very same code through sudo: `inroad serve daemon
--background` starts a daemon of its own session, waits until it serves, and ends. So sudo is gone when
the command returns, and whatever went wrong comes back on stdout as JSON.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from inroad.cli.choose import WITH_SUDO, has_terminal, is_root, lock, run_elevated, spawn_daemon
from inroad.cli.daemon_client import is_listening
from inroad.core.errors import HostChangeFailed, InroadError, NoPrivilege, by_code
from inroad.core.status import Failure
from inroad.host.choose import JOURNAL_PATH, STATE_DIRECTORY

LOG = Path(STATE_DIRECTORY) / "daemon.log"
DAEMON_LOCK = Path(STATE_DIRECTORY) / "daemon.lock"
START_LOCK = Path(STATE_DIRECTORY) / "start.lock"
MAX_LOG = 8 * 1024 * 1024
PREDECESSOR_TIMEOUT = 15.0
"""Seconds that an ending daemon is given to put the host back before a new one is started."""


def daemon_command(*arguments: str) -> list[str]:
    """Return the argv that runs `inroad serve daemon ...` with this very installation.

    `-I`: root's Python must import nothing from the current directory or the caller's environment.
    """
    return [sys.executable, "-I", "-m", "inroad", "serve", "daemon", *arguments]


def crashed() -> bool:
    """Say whether a daemon left changes on the host that it did not undo."""
    try:
        return Path(JOURNAL_PATH).exists() and not is_listening()
    except PermissionError:
        return False


def start_daemon() -> None:
    """Start a daemon and return when it serves; raises `NoPrivilege` or what the daemon failed with."""
    if is_root():
        start_in_background([])
        return
    _through_sudo(daemon_command("--background"), "start it yourself and connect again")


def clean_up() -> list[str]:
    """Put back what a crashed daemon left; returns one line for each thing that was put back."""
    command = daemon_command("--clean-up")
    if not is_root():
        return _through_sudo(command, "run it yourself").splitlines()
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise HostChangeFailed(f"cleaning up failed: {_last_line(done.stderr)}", "see the lines above")
    return done.stdout.splitlines()


def start_in_background(arguments: list[str]) -> None:
    """As root: start a daemon in a session of its own and return when it serves.

    Raises what it failed with. Its output goes to `LOG`. Two starts at once make one daemon.
    """
    LOG.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with START_LOCK.open("w") as start_lock:
        lock(start_lock.fileno(), wait=True)
        if is_listening():
            return
        _wait_for_predecessor()
        if LOG.exists() and LOG.stat().st_size > MAX_LOG:
            LOG.replace(LOG.with_suffix(".log.1"))
        log_begin = LOG.stat().st_size if LOG.exists() else 0
        process, pipe = spawn_daemon(daemon_command(*arguments), LOG)
        with pipe:
            said = pipe.readline()
        if said.strip() == b"ready":
            return
        raise _failure(said, process.wait(), log_begin)


def _wait_for_predecessor() -> None:
    """Wait until a daemon that no longer listens has put the host back and let go of its lock."""
    deadline = time.monotonic() + PREDECESSOR_TIMEOUT
    with DAEMON_LOCK.open("w") as daemon_lock:
        while True:
            try:
                lock(daemon_lock.fileno(), wait=False)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise HostChangeFailed(
                        "an earlier inroad daemon does not end", f"see {LOG}, then end that process"
                    ) from None
                time.sleep(0.02)
            else:
                return


def _failure(said: bytes, status: int, log_begin: int) -> InroadError:
    """Return the error that a daemon ended with: as it said it, else by its exit status and its log."""
    try:
        failure = msgspec.json.decode(said, type=Failure)
    except msgspec.MsgspecError:
        with LOG.open("rb") as log:
            log.seek(log_begin)
            line = _last_line(log.read().decode(errors="replace"))
        return InroadError(f"the daemon ended with status {status}: {line}", f"see {LOG}")
    return by_code(failure.code, failure.message, failure.remedy)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _through_windows(command: list[str]) -> str:
    """Run a command of ours as an administrator; Windows asks the user. What it says stays there."""
    status = run_elevated(command)
    if status is None:
        raise NoPrivilege(
            "inroad needs an administrator to make a network interface, and that was not granted",
            f"as an administrator: {subprocess.list2cmdline(command)}",
        )
    if status:
        raise HostChangeFailed(f"the daemon did not start (status {status})", f"see {LOG}")
    return ""


def _through_sudo(command: list[str], what_to_do: str) -> str:
    """Run a command of ours as root through sudo; returns its stdout.

    sudo asks for the password itself, on the terminal, when there is one.
    """
    if not WITH_SUDO:
        return _through_windows(command)
    by_hand = "sudo " + " ".join(command)
    sudo = shutil.which("sudo")
    if sudo is None:
        raise NoPrivilege(
            "inroad needs root to make a network interface, and there is no sudo",
            f"{what_to_do}, as root: {by_hand}",
        )
    terminal = has_terminal()
    argv = [sudo, *([] if terminal else ["-n"]), "--", *command]
    stderr = None if terminal else subprocess.PIPE
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False)
    if done.returncode == 0:
        return done.stdout
    try:
        failure = msgspec.json.decode(done.stdout.encode(), type=Failure)
    except msgspec.MsgspecError:
        why = f" ({_last_line(done.stderr).removeprefix('sudo: ')})" if done.stderr else ""
        raise NoPrivilege(
            f"inroad needs root to make a network interface, and sudo did not give it{why}",
            f"{what_to_do}: {by_hand}",
        ) from None
    raise by_code(failure.code, failure.message, failure.remedy)
