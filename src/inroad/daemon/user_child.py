"""Runs what belongs to the user with the user's rights: the kubeconfig and its credential plugins.

The daemon is root; whatever a caller's kubeconfig names (files, commands) is therefore opened and run by
a child (`as_user`) that has become the Unix socket's peer: its uid, groups and environment, nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from inroad.core.errors import CredentialsRejected, by_code
from inroad.core.status import ConnectRequest, Failure
from inroad.daemon.as_user import Loaded, Task
from inroad.host import run
from inroad.host.choose import account, end_group

TIMEOUT = 120.0
MAX_OUTPUT = 1 << 20
"""Bytes: a kubeconfig with its certificates is some 10 KiB."""

_decoder: msgspec.json.Decoder[Loaded | Failure] = msgspec.json.Decoder(Loaded | Failure)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of the daemon's socket."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    name: str = ""
    home: str = "/"

    @classmethod
    def of(cls, uid: int, gid: int) -> Peer:
        """Look the user's groups, name and home up; an unknown uid has its gid only."""
        try:
            name, home, groups = account(uid, gid)
        except KeyError:
            return cls(uid, gid, (gid,), str(uid))
        return cls(uid, gid, groups, name, home)


async def load(peer: Peer, request: ConnectRequest) -> Loaded:
    """Have a child with the peer's rights read the kubeconfig and the configuration file of a request.

    Raises what `load` of `inroad.kube.credentials` raises, `ConfigInvalid`, and `CredentialsRejected` when
    the child gives no answer.
    """
    task = Task(
        uid=peer.uid,
        gid=peer.gid,
        groups=peer.groups,
        environment=_environment(peer, request.environment),
        directory=request.directory,
        kubeconfig=request.kubeconfig,
        context=request.context,
        config_file=request.config_file,
    )
    process = await run.spawn(
        [sys.executable, "-P", "-E", "-s", "-m", "inroad.daemon.as_user"],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": run.TRUSTED_PATH, "LANG": "C.UTF-8"},
        cwd="/",
        new_session=True,
    )
    try:
        out, err = await asyncio.wait_for(_converse(process, msgspec.json.encode(task)), TIMEOUT)
    except TimeoutError:
        raise CredentialsRejected(
            f"loading the kubeconfig took longer than {TIMEOUT:.0f} s", "kubectl get namespaces"
        ) from None
    finally:
        await _end(process)
    return _answer(out, err)


def _environment(peer: Peer, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's own variables, with what every program expects where they lack it."""
    base = {"HOME": peer.home, "USER": peer.name, "LOGNAME": peer.name, "PATH": run.TRUSTED_PATH}
    return base | dict(environment)


async def _converse(process: asyncio.subprocess.Process, task: bytes) -> tuple[bytes, bytes]:
    """Hand the task over and return what the child wrote to stdout and stderr."""
    if process.stdin is not None:
        process.stdin.write(task)
        process.stdin.close()
    return await asyncio.gather(_bounded(process.stdout), _bounded(process.stderr))


async def _bounded(stream: asyncio.StreamReader | None) -> bytes:
    """Read to the end, keeping `MAX_OUTPUT` bytes; the rest is read and dropped so that nobody blocks."""
    kept = bytearray()
    while stream is not None and (chunk := await stream.read(65_536)):
        kept += chunk[: MAX_OUTPUT - len(kept)]
    return bytes(kept)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Leave nothing of the child behind: a plugin it started is in its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        end_group(process.pid)
    await process.wait()


def _answer(out: bytes, err: bytes) -> Loaded:
    try:
        answer = _decoder.decode(out)
    except msgspec.DecodeError as error:
        words = err.decode(errors="replace").strip().splitlines()
        why = words[-1][:500] if words else error
        raise CredentialsRejected(f"the kubeconfig could not be loaded: {why}", "kubectl get ns") from error
    if isinstance(answer, Failure):
        raise by_code(answer.code, answer.message, answer.remedy)
    return answer
