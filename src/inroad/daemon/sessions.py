"""Which session the workstation has: none or one, and who may do what with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from inroad import __version__
from inroad.core.errors import ConfigInvalid, ConnectedElsewhere, Interrupted, NotConnected
from inroad.core.status import (
    AgentRequest,
    ConfigView,
    ConnectRequest,
    Explanation,
    Line,
    Outcome,
    Progress,
    Status,
    WorkloadList,
)
from inroad.daemon.connecting import open_session
from inroad.daemon.explain import explain
from inroad.daemon.report import report
from inroad.daemon.session import Session
from inroad.daemon.user_child import Peer, load
from inroad.host.journal import Journal


class Workstation:
    """Implements `local_api.Sessions`."""

    def __init__(self, journal_path: Path, on_quit: Callable[[], None], *, service: bool = False) -> None:
        self._service = service
        self._journal = Journal(journal_path)
        self._on_quit = on_quit
        self._session: Session | None = None
        self._changing = asyncio.Lock()
        self._opening: asyncio.Task[Session] | None = None

    async def connect(self, request: ConnectRequest, peer: Peer, progress: asyncio.Queue[Line]) -> Outcome:
        """Connect; a session that lives already is reported, switched or defended."""
        started = time.monotonic()

        def elapsed() -> int:
            return int((time.monotonic() - started) * 1000)

        def say(step: str, text: str) -> None:
            progress.put_nowait(Progress(step, text, elapsed()))

        async with self._changing:
            if self._session is not None:
                change = await self._reconnect(self._session, request, peer, say)
                return Outcome(change, await self.status(), elapsed())
            self._opening = asyncio.create_task(open_session(request, peer, self._journal, say))
            try:
                self._session = await self._opened(self._opening)
            except BaseException:
                self._on_quit()
                raise
            finally:
                self._opening = None
            return Outcome("connected", await self.status(), elapsed())

    @staticmethod
    async def _opened(opening: asyncio.Task[Session]) -> Session:
        """Wait for a session; whoever gives up (Ctrl-C) still waits until everything is undone."""
        try:
            await asyncio.wait([opening])
        except asyncio.CancelledError:
            opening.cancel()
            await asyncio.wait([opening])
            if not opening.cancelled() and opening.exception() is None:
                await opening.result().close()
            raise
        if opening.cancelled():
            raise Interrupted("the connection was given up before it was made")
        return opening.result()

    async def _reconnect(
        self, session: Session, request: ConnectRequest, peer: Peer, say: Callable[[str, str], None]
    ) -> str:
        """Connect while connected: unchanged, another namespace, or refused."""
        if peer.uid != session.peer.uid:
            raise ConnectedElsewhere(
                f"{session.peer.name} has connected this workstation to {session.context}",
                f"as {session.peer.name}: inroad quit",
            )
        say("credentials", "reading the kubeconfig")
        loaded = await load(peer, request)
        credentials = loaded.credentials
        if (credentials.server, credentials.context) != (session.server, session.context):
            raise ConnectedElsewhere(
                f"connected to context {session.context} ({session.server}) already, "
                f"not to {credentials.context} ({credentials.server})",
                "inroad quit, then connect again",
            )
        if request.namespace and request.namespace != session.cluster.namespace:
            say("namespace", f"changing the namespace to {request.namespace}")
            await session.change_namespace(request.namespace)
            return "namespace"
        return "unchanged"

    async def quit(self, peer: Peer) -> Status:
        """End the session, or the attempt to make one; returns what there was."""
        if self._opening is not None:
            self._opening.cancel()
        async with self._changing:
            session = self._session
            if session is None:
                self._on_quit()
                return await self.status()
            if peer.uid not in (0, session.peer.uid):
                raise ConnectedElsewhere(
                    f"the session belongs to {session.peer.name}", f"as {session.peer.name}: inroad quit"
                )
            status = await self.status()
            self._session = None
            await session.close()
            self._on_quit()
            return status

    async def status(self) -> Status:
        """Tell the truth about the session."""
        if self._session is not None:
            status = await report(self._session)
        else:
            state = "connecting" if self._opening is not None else "disconnected"
            status = Status(state=state, version=__version__)
        status.service = self._service
        return status

    def _own_session(self, peer: Peer) -> Session:
        session = self._session
        if session is None:
            raise NotConnected("there is no session", "inroad connect")
        if peer.uid not in (0, session.peer.uid):
            raise ConnectedElsewhere(f"the session belongs to {session.peer.name}", "inroad status")
        return session

    async def agents(self, request: AgentRequest, peer: Peer) -> str:
        """Do what the user wants with agents; returns what was done."""
        attachments = self._own_session(peer).attachments
        match request.action:
            case "attach":
                return await attachments.attach(request.workload, request.namespace)
            case "detach":
                return await attachments.detach(request.workload, request.namespace)
            case "add":
                return await attachments.add_agent(request.namespace)
            case "remove":
                return await attachments.remove_agent(request.namespace)
            case action:
                raise ConfigInvalid(f"{action!r} is no action", "use attach, detach, add or remove")

    async def workloads(self, namespace: str, peer: Peer) -> WorkloadList:
        """Return a namespace's workloads and the agents they have."""
        session = self._own_session(peer)
        namespace = namespace or session.cluster.namespace
        return WorkloadList(namespace, await session.attachments.listing(namespace))

    async def config(self) -> ConfigView:
        """Return the configuration in force; raises `NotConnected`."""
        if self._session is None:
            raise NotConnected("there is no session", "inroad connect")
        return self._session.cluster.settings.view()

    async def explain(self, what: str) -> Explanation:
        """Return the path of a name or an address; raises `NotConnected` and `ConfigInvalid`."""
        if self._session is None:
            raise NotConnected("there is no session", "inroad connect")
        return await explain(self._session, what)

    async def close(self) -> None:
        """Put the host back; called when the daemon ends."""
        if self._opening is not None:
            self._opening.cancel()
        async with self._changing:
            if self._session is not None:
                await self._session.close()
                self._session = None
