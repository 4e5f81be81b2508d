"""The only place that starts a subprocess.

Programs are named by their file name and looked up in the standard directories for root's tools, never
in a PATH that somebody else chose. Nothing goes through a shell.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from inroad.core.errors import ToolMissing
from inroad.host.choose import become

if TYPE_CHECKING:
    import asyncio  # imported where it is used: 25 ms that the one who reads kubeconfigs does not need

TRUSTED_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Completed:
    """What a finished program left: exit status (negative: minus the signal), stdout, stderr."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """True when the program exited with 0."""
        return self.status == 0


def tool(name: str) -> str | None:
    """Return the absolute path of a system program, or None where it is not installed."""
    return shutil.which(name, path=TRUSTED_PATH)


def require(name: str, package: str) -> str:
    """Return the absolute path of a system program; raise `ToolMissing` naming its Debian package."""
    path = tool(name)
    if path is None:
        raise ToolMissing(f"{name} is needed and not installed", f"apt-get install {package}")
    return path


def run(
    argv: Sequence[str], *, stdin: str = "", timeout: float = 10.0, env: Mapping[str, str] | None = None
) -> Completed:
    """Run a program to its end, blocking. `timeout` in seconds; then it is killed: `TimeoutError`."""
    try:
        done = subprocess.run(
            argv, input=stdin.encode(), capture_output=True, timeout=timeout, check=False, env=env
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{argv[0]} did not end within {timeout:.0f} s") from error
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    return Completed(tuple(argv), done.returncode, out, err)


async def run_async(argv: Sequence[str], *, stdin: str = "", timeout: float = 10.0) -> Completed:
    """Run a program to its end without blocking the event loop; see `run`."""
    import asyncio  # noqa: PLC0415

    process = await spawn(
        argv,
        # No empty pipe to be closed: uvloop raises when the program has ended before that.
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin.encode() or None), timeout)
    except (TimeoutError, asyncio.CancelledError):
        process.kill()
        await process.wait()
        raise
    status = process.returncode if process.returncode is not None else -1
    return Completed(tuple(argv), status, out.decode(errors="replace"), err.decode(errors="replace"))


async def spawn(
    argv: Sequence[str],
    *,
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | None = subprocess.DEVNULL,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    user: int | None = None,
    group: int | None = None,
    extra_groups: Sequence[int] | None = None,
    cwd: str | None = None,
    new_session: bool = False,
) -> asyncio.subprocess.Process:
    """Start a program and return it running. With `user`, it has that uid, gid and groups only."""
    import asyncio  # noqa: PLC0415

    # uvloop knows no `user=`
    gid = user if group is None else group
    identity = None if user is None or gid is None else partial(become, user, gid, extra_groups or ())
    return await asyncio.create_subprocess_exec(
        *argv,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=tuple(pass_fds),
        env=dict(env) if env is not None else dict(os.environ),
        preexec_fn=identity,
        cwd=cwd,
        start_new_session=new_session,
    )
