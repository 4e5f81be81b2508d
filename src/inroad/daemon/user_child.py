"""Runs what belongs to the user with the user's rights: the kubeconfig and its credential plugins.

The daemon is root; whatever a caller's kubeconfig names (files, commands) is therefore opened and run by
a child (`as_user`) that has become the socket's peer: its uid, groups and environment, nothing else. On
Windows it is started with a copy of the caller's own token.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from inroad.core.errors import CredentialsRejected, by_code
from inroad.core.status import ConnectRequest, Failure
from inroad.daemon.as_user import Loaded, Task
from inroad.host import run
from inroad.host.choose import account
from inroad.host.conversation.choose import converse

TIMEOUT = 120.0
MAX_OUTPUT = 1 << 20
"""Bytes: a kubeconfig with its certificates is some 10 KiB."""

_decoder: msgspec.json.Decoder[Loaded | Failure] = msgspec.json.Decoder(Loaded | Failure)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of the daemon's socket.

    On Windows `uid` is the SID's bytes as a number, and `token` has the user's rights.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    name: str = ""
    home: str = "/"
    token: object = field(default=None, compare=False, repr=False)

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
        uid=0 if peer.token is not None else peer.uid,
        gid=peer.gid,
        groups=peer.groups,
        environment=_environment(peer, request.environment),
        directory=request.directory,
        kubeconfig=request.kubeconfig,
        context=request.context,
        config_file=request.config_file,
    )
    argv = [sys.executable, "-P", "-E", "-s", "-m", "inroad.daemon.as_user"]
    try:
        async with asyncio.timeout(TIMEOUT):
            out, err = await converse(argv, msgspec.json.encode(task), token=peer.token, limit=MAX_OUTPUT)
    except TimeoutError:
        raise CredentialsRejected(
            f"loading the kubeconfig took longer than {TIMEOUT:.0f} s", "kubectl get namespaces"
        ) from None
    except OSError as error:
        raise CredentialsRejected(f"the kubeconfig can't be loaded with your rights: {error}") from error
    return _answer(out, err)


def _environment(peer: Peer, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's own variables, with what every program expects where they lack it."""
    if peer.token is not None:  # Windows has other names for these, and the caller has them
        return dict(environment)
    base = {"HOME": peer.home, "USER": peer.name, "LOGNAME": peer.name, "PATH": run.TRUSTED_PATH}
    return base | dict(environment)


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
