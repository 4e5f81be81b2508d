"""The daemon's local socket, or its named pipe: HTTP with JSON bodies (`core/status.py` has the structs).

    curl --unix-socket /run/inroad/daemon.sock http://inroad/v1/status

Who calls is asked of the kernel (`choose.caller`), never of the request. A connection belongs to the user
who made it: only that user, or root, may change or end it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
from aiohttp import web

from inroad.core.errors import ConfigInvalid, ConnectedElsewhere, InroadError
from inroad.core.status import (
    AgentOutcome,
    AgentRequest,
    ConfigView,
    ConnectRequest,
    Explanation,
    Failure,
    Line,
    Outcome,
    Progress,
    Status,
    WorkloadList,
)
from inroad.daemon.choose import Close, caller, open_endpoint
from inroad.daemon.user_child import Peer

MAX_BODY = 256 * 1024
GROUP = "inroad"
"""Members of this group may use a daemon that runs as a service."""

log = structlog.get_logger()


class Sessions(Protocol):
    """What the socket's callers can ask for."""

    async def connect(self, request: ConnectRequest, peer: Peer, progress: asyncio.Queue[Line]) -> Outcome:
        """Connect, or change the namespace of the session there is."""

    async def quit(self, peer: Peer) -> Status:
        """End the session and put the host back; the status says what there was."""

    async def status(self) -> Status:
        """Tell the truth."""

    async def agents(self, request: AgentRequest, peer: Peer) -> str:
        """Attach to a workload, detach, add or remove a namespace's agent; returns what was done."""

    async def workloads(self, namespace: str, peer: Peer) -> WorkloadList:
        """Return the workloads of a namespace, the connected one when it is ""."""

    async def config(self) -> ConfigView:
        """Return the configuration in force; raises `NotConnected`."""

    async def explain(self, what: str) -> Explanation:
        """Return the path of a name or an address; raises `NotConnected` and `ConfigInvalid`."""


def peer_of(request: web.Request) -> Peer:
    """Return the user of the process at the other end of the socket."""
    if request.transport is None:
        raise ConfigInvalid("the caller has gone")
    return caller(request.transport)


class LocalApi:
    """Serves the daemon's socket."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._close: Close | None = None
        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/v1/status", self._status),
                web.get("/v1/config", self._config),
                web.get("/v1/explain", self._explain),
                web.post("/v1/connect", self._connect),
                web.post("/v1/quit", self._quit),
                web.post("/v1/agents", self._agents),
                web.get("/v1/workloads", self._workloads),
            ]
        )
        # a caller that goes away (Ctrl-C) cancels what it asked for
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=2.0)

    async def start(self, path: Path, owner: str) -> None:
        """Listen at `path`, for `owner` (a uid or SID; "" for those who may use a service)."""
        await self._runner.setup()
        self._close = await open_endpoint(self._runner, path, owner, GROUP)

    async def close(self) -> None:
        """Stop listening; callers in the middle of something are cancelled."""
        await self._runner.cleanup()
        if self._close is not None:
            await self._close()

    async def _status(self, request: web.Request) -> web.Response:
        del request
        return _json(await self._sessions.status())

    async def _config(self, request: web.Request) -> web.Response:
        del request
        try:
            return _json(await self._sessions.config())
        except InroadError as error:
            return _json(_failure(error), status=404)

    async def _explain(self, request: web.Request) -> web.Response:
        try:
            return _json(await self._sessions.explain(request.query.get("what", "")))
        except InroadError as error:
            return _json(_failure(error), status=400 if isinstance(error, ConfigInvalid) else 404)

    async def _quit(self, request: web.Request) -> web.Response:
        try:
            return _json(await self._sessions.quit(peer_of(request)))
        except InroadError as error:
            return _json(_failure(error), status=403 if isinstance(error, ConnectedElsewhere) else 500)

    async def _agents(self, request: web.Request) -> web.Response:
        try:
            wanted = msgspec.json.decode(await request.read(), type=AgentRequest)
            return _json(AgentOutcome(await self._sessions.agents(wanted, peer_of(request))))
        except msgspec.MsgspecError as error:
            return _json(_failure(ConfigInvalid(f"the request is not an AgentRequest: {error}")), status=400)
        except InroadError as error:
            return _json(_failure(error), status=500)

    async def _workloads(self, request: web.Request) -> web.Response:
        try:
            found = await self._sessions.workloads(request.query.get("namespace", ""), peer_of(request))
        except InroadError as error:
            return _json(_failure(error), status=500)
        return _json(found)

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        peer = peer_of(request)
        try:
            wanted = msgspec.json.decode(await request.read(), type=ConnectRequest)
        except msgspec.MsgspecError as error:
            return _json(_failure(ConfigInvalid(f"the request is not a ConnectRequest: {error}")), status=400)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        lines: asyncio.Queue[Line] = asyncio.Queue()
        work = asyncio.create_task(self._work(wanted, peer, lines))
        try:
            while True:
                line = await lines.get()
                await response.write(msgspec.json.encode(line) + b"\n")
                if not isinstance(line, Progress):
                    break
        finally:
            work.cancel()
            await asyncio.wait([work])
        await response.write_eof()
        return response

    async def _work(self, wanted: ConnectRequest, peer: Peer, lines: asyncio.Queue[Line]) -> None:
        try:
            lines.put_nowait(await self._sessions.connect(wanted, peer, lines))
        except InroadError as error:
            lines.put_nowait(_failure(error))
        except Exception as error:
            log.exception("connect failed in a way nobody planned for")
            lines.put_nowait(Failure("internal", f"{type(error).__name__}: {error}", "see the daemon's log"))


def _failure(error: InroadError) -> Failure:
    return Failure(error.code, error.message, error.remedy)


def _json(body: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")
