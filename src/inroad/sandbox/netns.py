"""Doing something inside another network namespace, without starting a process for it.

`setns` moves only the calling thread, so each call uses a thread of its own that ends afterwards: there
is nothing to move back, and no other code can run in the wrong namespace. A socket stays in the
namespace in which it was created, wherever it is used later; /proc/sys/net shows the reader's namespace.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import ctypes
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
"""Namespace kinds, from linux/sched.h."""

PR_SET_PDEATHSIG = 1

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


def setns(path: Path | str, kind: int) -> None:
    """Move the calling thread into the namespace behind `path`. `os.setns` needs Python 3.12."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, kind):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def die_with_parent(signal: int) -> None:
    """Have the kernel send `signal` to this process when the thread that forked it ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0)


def inside(namespace: Path, work: Callable[[], T]) -> T:
    """Run `work` in a network namespace; return its result or raise its error. The caller waits."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            setns(namespace, CLONE_NEWNET)
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body, name=f"in {namespace.name}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def open_socket(namespace: Path, family: int, kind: int) -> socket.socket:
    """Return a new non-blocking socket that lives in the given network namespace."""

    def work() -> socket.socket:
        sock = socket.socket(family, kind)
        sock.setblocking(False)
        return sock

    return inside(namespace, work)


def write_sysctls(namespace: Path, values: Mapping[str, str]) -> None:
    """Set `net` sysctls (`ipv4/ip_forward`) there; one that this kernel does not have is passed over."""

    def work() -> None:
        for key, value in values.items():
            path = Path("/proc/sys/net") / key
            if path.exists():
                path.write_text(value)

    inside(namespace, work)
