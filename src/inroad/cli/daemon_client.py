"""The CLI's side of the daemon's socket or pipe: HTTP with JSON bodies, as `core/status.py` says."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from typing import TypeVar
from urllib.parse import quote

import msgspec

from inroad.cli.choose import close_process, connect_socket, peer_process, wait_for
from inroad.core.errors import InroadError, NoPrivilege, by_code
from inroad.core.status import (
    AgentOutcome,
    AgentRequest,
    ConfigView,
    ConnectRequest,
    Explanation,
    Failure,
    Line,
    Status,
    WorkloadList,
)
from inroad.host.choose import SOCKET_PATH, STATE_DIRECTORY

ANSWER_TIMEOUT = 30.0
"""Seconds for an answer to `status` and `quit`; a connect may take as long as it reports progress."""

AGENT_TIMEOUT = 90.0
"""Seconds for an agent to arrive: its node may have to pull the image."""

END_TIMEOUT = 15.0
"""Seconds to wait for the end of a daemon that has ended its session."""

T = TypeVar("T")


class NoDaemon(Exception):
    """Nothing listens on the daemon's socket, or what did has just ended."""


class _LocalConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("inroad", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = connect_socket(self.path, self.timeout)


class DaemonClient:
    """Speaks to the daemon at `path`. Every call raises `NoDaemon` when none answers.

    Calls raise the `InroadError` that the daemon answered with.
    """

    def __init__(self, path: str = SOCKET_PATH) -> None:
        self.path = path

    def status(self) -> Status:
        """Return what the daemon knows."""
        return self._call("GET", "/v1/status", Status)

    def agents(self, request: AgentRequest) -> AgentOutcome:
        """Attach, detach, add or remove an agent; returns what was done."""
        return self._call("POST", "/v1/agents", AgentOutcome, request, timeout=AGENT_TIMEOUT)

    def workloads(self, namespace: str) -> WorkloadList:
        """Return the workloads of a namespace, the connected one when it is ""."""
        return self._call("GET", f"/v1/workloads?namespace={quote(namespace)}", WorkloadList)

    def config(self) -> ConfigView:
        """Return the configuration that is in force."""
        return self._call("GET", "/v1/config", ConfigView)

    def explain(self, what: str) -> Explanation:
        """Return the path of a name or an address."""
        return self._call("GET", f"/v1/explain?what={quote(what)}", Explanation)

    def quit(self) -> Status:
        """End the session; returns what there was, once the host is as it was before.

        A daemon that ends with its session has ended then too, so that the next command finds none.
        """
        with contextlib.ExitStack() as stack:
            process = self._process()
            if process is not None:
                stack.callback(close_process, process)
            before = self._call("POST", "/v1/quit", Status)
            if process is not None and not before.service:
                wait_for(process, END_TIMEOUT)
        return before

    def _process(self) -> int | None:
        try:
            with contextlib.closing(connect_socket(self.path, ANSWER_TIMEOUT)) as sock:
                return peer_process(sock)
        except OSError:
            return None  # asking for the quit will say why

    def connect(self, request: ConnectRequest) -> Iterator[Line]:
        """Ask for a connection and yield each line of the answer as it comes."""
        with (
            _translated(self.path),
            contextlib.closing(_LocalConnection(self.path, ANSWER_TIMEOUT)) as connection,
        ):
            connection.request("POST", "/v1/connect", msgspec.json.encode(request))
            connection.sock.settimeout(None)
            response = connection.getresponse()
            decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
            ended = False
            while text := response.readline():
                line = decoder.decode(text)
                ended = not _is_progress(line)
                yield line
            if not ended:
                raise NoDaemon("the daemon ended before it answered")

    def _call(
        self,
        method: str,
        path: str,
        answer: type[T],
        body: msgspec.Struct | None = None,
        *,
        timeout: float = ANSWER_TIMEOUT,
    ) -> T:
        with (
            _translated(self.path),
            contextlib.closing(_LocalConnection(self.path, timeout)) as connection,
        ):
            connection.request(method, path, msgspec.json.encode(body) if body is not None else None)
            response = connection.getresponse()
            content = response.read()
            if response.status == http.client.OK:
                return msgspec.json.decode(content, type=answer)
            failure = msgspec.json.decode(content, type=Failure)
            raise by_code(failure.code, failure.message, failure.remedy)


def _is_progress(line: Line) -> bool:
    return type(line).__name__ == "Progress"


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    """Turn what can go wrong on the socket into `NoDaemon` or an `InroadError`."""
    try:
        yield
    except PermissionError:
        raise NoPrivilege(
            "the inroad daemon on this machine serves another user",
            "ask them to run inroad quit, or use sudo",
        ) from None
    except TimeoutError:
        raise InroadError(
            f"the daemon at {path} did not answer within {ANSWER_TIMEOUT:.0f} s",
            f"its log is in {STATE_DIRECTORY}",
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise NoDaemon(str(error)) from None
    except msgspec.MsgspecError as error:
        raise InroadError(
            f"the daemon at {path} answered with something that is not understood: {error}",
            "another version of it may run: inroad quit",
        ) from None


def is_listening(path: str = SOCKET_PATH) -> bool:
    """Say whether some daemon accepts callers right now (even if it would refuse this one)."""
    try:
        connect_socket(path, 5.0).close()
    except PermissionError:
        return True
    except OSError:
        return False
    return True
