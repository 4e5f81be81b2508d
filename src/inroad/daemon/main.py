"""The privileged daemon's start and end.

It reads no kubeconfig and runs nothing of the user's: children with the user's rights do
(`user_child`). One daemon runs per workstation (a lock says so); it first cleans up after a crashed
one, and ends when the user quits unless it was started as a service (`--keep`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from inroad import logs
from inroad.core.errors import InroadError, NoPrivilege
from inroad.core.status import Failure
from inroad.daemon import choose
from inroad.host.choose import JOURNAL_PATH, SOCKET_PATH, STATE_DIRECTORY
from inroad.host.cleanup import clean_up
from inroad.program import settle

JOURNAL = Path(JOURNAL_PATH)
LOCK = Path(STATE_DIRECTORY) / "daemon.lock"

log = structlog.get_logger()


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the daemon's flags; exits with 2 on a wrong one."""
    parser = argparse.ArgumentParser(prog="inroad serve daemon", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="stay after the session ends (for a service)")
    parser.add_argument("--clean-up", action="store_true", help="only clean up after a crashed daemon")
    parser.add_argument("--owner", default="", help="whom to serve, a uid or SID; else who used sudo")
    parser.add_argument("--ready-fd", type=int, default=-1, help="write `ready`, or a Failure, here")
    parser.add_argument("--verbose", action="store_true", help="log every decision")
    return parser.parse_args(argv)


@contextlib.contextmanager
def only_daemon() -> Iterator[None]:
    """Hold the workstation's daemon lock; raises `NoPrivilege` while another daemon has it."""
    LOCK.parent.mkdir(mode=0o755, exist_ok=True)
    with LOCK.open("w") as lock:
        try:
            choose.lock(lock.fileno())
        except BlockingIOError:
            raise NoPrivilege("another inroad daemon runs already", "inroad status") from None
        yield


async def serve(options: argparse.Namespace) -> None:
    """Serve callers until a signal, or until the session's end."""
    from inroad.daemon.local_api import LocalApi  # noqa: PLC0415 - `--clean-up` needs none of this
    from inroad.daemon.sessions import Workstation  # noqa: PLC0415

    for line in await clean_up(JOURNAL):
        log.info("cleaned up after a crashed daemon", what=line)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in choose.END_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    on_quit = (lambda: None) if options.keep else stop.set
    workstation = Workstation(JOURNAL, on_quit, service=options.keep)
    api = LocalApi(workstation)
    try:
        await api.start(Path(SOCKET_PATH), "" if options.keep else options.owner or choose.owner())
        settle()
        if options.ready_fd >= 0:
            _say_ready(options.ready_fd)
        log.info("daemon serves", socket=SOCKET_PATH)
        await stop.wait()
    finally:
        await workstation.close()
        await api.close()


def _say_ready(descriptor: int) -> None:
    os.write(descriptor, b"ready\n")
    if descriptor > 2:
        os.close(descriptor)
        return
    null = os.open(os.devnull, os.O_WRONLY)  # Windows passes no descriptors but these
    os.dup2(null, descriptor)
    os.close(null)


async def clean_up_only() -> None:
    """Undo what a crashed daemon left and say so on stdout."""
    with contextlib.suppress(OSError):  # no file where the endpoint is a pipe
        Path(SOCKET_PATH).unlink()
    for line in await clean_up(JOURNAL):
        sys.stdout.write(f"{line}\n")


def main(argv: list[str]) -> int:
    """Run the daemon; returns the exit status."""
    options = parse(argv)
    logs.configure(verbose=options.verbose)
    try:
        if not choose.is_root():
            raise NoPrivilege("the daemon changes routes and needs root", "sudo inroad serve daemon")
        with only_daemon():
            choose.run(clean_up_only() if options.clean_up else serve(options))
    except InroadError as error:
        log.error(str(error), code=error.code)
        if options.ready_fd >= 0:
            failure = Failure(error.code, error.message, error.remedy)
            with contextlib.suppress(OSError):  # it said "ready" and closed it long ago
                os.write(options.ready_fd, msgspec.json.encode(failure) + b"\n")
        return error.exit_code
    return 0
