"""Running a command in a place of a running sandbox: `inroad sandbox exec`.

The calling process moves into the place and forks; the child runs the command. Standard streams and the
terminal are simply inherited. Signals sent to the caller are passed on (those of the terminal reach the
child by themselves), the exit status comes back, and a command killed by a signal kills the caller by
that signal too, so that a shell sees what it would have seen without us.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import contextlib
import os
import pwd
import resource
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from inroad.core.errors import SandboxFailed
from inroad.sandbox import netns

PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT)
NAMESPACES = (
    ("uts", netns.CLONE_NEWUTS),
    ("net", netns.CLONE_NEWNET),
    ("pid", netns.CLONE_NEWPID),
    ("mnt", netns.CLONE_NEWNS),
)
"""The mount namespace comes last: the others' files are read through the present /proc."""


def enter(pid: int) -> None:
    """Move this process (single-threaded) into all namespaces of `pid`; its children share the PID one."""
    for name, kind in NAMESPACES:
        netns.setns(f"/proc/{pid}/ns/{name}", kind)


def container_environment(pid: int) -> Mapping[str, str]:
    """Return the environment of a pod's first container, as `kubectl exec` does; `pid`: its first process.

    Empty when none runs: the others of its PID namespace are found by comparing, oldest first.
    """
    inside = Path(f"/proc/{pid}/ns/pid").stat().st_ino
    for process in sorted(int(one.name) for one in Path("/proc").glob("[0-9]*") if one.name != str(pid)):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{process}/ns/pid").stat().st_ino == inside:
                raw = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace")
                pairs = (one.partition("=") for one in raw.split("\0") if "=" in one)
                return {key: value for key, _, value in pairs}
    return {}


def become(user: str) -> Mapping[str, str]:
    """Take a user's identity, as the place's /etc/passwd knows it; return its part of the environment."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise SandboxFailed(f"there is no user {user!r} there") from None
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    return {"HOME": entry.pw_dir, "USER": user, "LOGNAME": user, "SHELL": entry.pw_shell or "/bin/sh"}


def run(pid: int, argv: Sequence[str], *, user: str, environment: Mapping[str, str], cwd: str) -> NoReturn:
    """Run a command in the place whose first process is `pid`, and end as the command ends.

    `environment` is the command's, completed by HOME, USER, LOGNAME and SHELL where it does not have them.
    """
    enter(pid)
    child = os.fork()
    if child == 0:
        _child(argv, user, environment, cwd)
    for number in PASSED_ON:
        signal.signal(number, lambda got, _frame: _pass_on(child, got, _frame))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        fatal = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if fatal != signal.SIGKILL:
            signal.signal(fatal, signal.SIG_DFL)
        os.kill(os.getpid(), fatal)
    os._exit(os.waitstatus_to_exitcode(status))


def _pass_on(child: int, number: int, _frame: FrameType | None) -> None:
    # Ctrl-C and Ctrl-\ of the terminal go to the whole foreground group: the child has them already.
    if number in (signal.SIGINT, signal.SIGQUIT) and _at_terminal():
        return
    os.kill(child, number)


def _at_terminal() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _child(argv: Sequence[str], user: str, environment: Mapping[str, str], cwd: str) -> NoReturn:
    try:
        mine = become(user)
        netns.die_with_parent(signal.SIGKILL)
        variables = {**mine, **environment}
        try:
            os.chdir(cwd)
        except OSError:
            os.chdir("/")
        os.execvpe(argv[0], list(argv), variables)  # noqa: S606 - that is the purpose
    except FileNotFoundError:
        os.write(2, f"{argv[0]}: not found\n".encode())
        os._exit(127)
    except (OSError, SandboxFailed) as error:
        os.write(2, f"{argv[0]}: {error}\n".encode())
        os._exit(126)
