"""The session's link to a traffic-manager: made, greeted, watched, and made again when it breaks.

While it is away, `on_state` says so, new dials wait up to their deadline (in `relay`) and lookups fail
fast, so that the DNS server can serve stale answers.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from inroad import __version__
from inroad.core import backoff, messages
from inroad.core.errors import InroadError, TunnelFailed
from inroad.core.messages import (
    AccessTicket,
    Agents,
    ClusterInfo,
    Connected,
    Control,
    Hello,
    Holding,
    Lookup,
    LookupReply,
    NamesChanged,
    Ticket,
    TicketRequest,
)
from inroad.daemon.peer_link import PeerLink
from inroad.tunnel.api import Link

TICKET_TIMEOUT = 5.0
LONGEST_RETRY = 10.0
"""Seconds between attempts to get the link back while it stays away; the very first is made at once."""

log = structlog.get_logger()

OpenLink = Callable[[str], Awaitable[tuple[Link, str]]]
"""Make a link to a manager pod, to any when the name is ""; returns it with the pod's name."""


class ManagerLink:
    """Keeps one link to the traffic-manager alive for as long as the session lives."""

    def __init__(
        self,
        open_link: OpenLink,
        *,
        namespace: str,
        on_cluster: Callable[[ClusterInfo], None],
        on_names: Callable[[tuple[str, ...]], None],
        on_link: Callable[[Link | None], None],
    ) -> None:
        self.namespace = namespace
        self.session = ""
        self.pod = ""
        self.manager_version = ""
        self.since = time.time()
        self.last_error = ""
        self.on_agents: Callable[[Agents], None] = lambda agents: None
        self._open_link = open_link
        self._on_cluster = on_cluster
        self._on_names = on_names
        self._on_link = on_link
        self._held: tuple[str, ...] = ()
        self._shown: dict[str, AccessTicket] = {}
        self._answers: dict[int, asyncio.Future[Ticket | AccessTicket]] = {}
        self._ids = itertools.count(1)
        self._peer: PeerLink | None = None
        self._closed = False
        self._keeper: asyncio.Task[None] | None = None

    @property
    def link(self) -> Link | None:
        """The tunnel link, or None while there is none."""
        return self._peer.link if self._peer is not None else None

    async def start(self) -> None:
        """Make the first link; raises `InroadError` when it can't be had."""
        await self._connect()

    async def _connect(self) -> None:
        link, pod = await self._open_link("")

        async def open_lane() -> Link:
            return (await self._open_link(pod))[0]

        peer = PeerLink(link, f"pod {pod}", open_lane, on_message=self._on_message, on_closed=self._on_closed)
        welcome = await peer.greet(
            Hello(messages.PROTOCOL_VERSION, __version__, self.namespace, self.session)
        )
        self.session, self.manager_version, self.pod = welcome.session, welcome.software, pod
        self._peer, self.since, self.last_error = peer, time.time(), ""
        if self._held:
            self.hold(self._held)
        for ticket in self._shown.values():
            self._send(msgspec.structs.replace(ticket, id=0))  # before any flow: this manager may not know
        self._on_link(link)
        log.info("linked to the traffic-manager", pod=pod, version=welcome.software)

    async def close(self) -> None:
        """End the link orderly and stop keeping it."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
        if self._peer is not None:
            self._peer.close("the session ends")

    def set_namespace(self, namespace: str) -> None:
        """Tell the manager of another connected namespace."""
        self.namespace = namespace
        self._send(Connected(namespace))

    async def lookup(self, lookup: Lookup) -> LookupReply:
        """Ask the cluster's name server; a reply with `error` set when that can't be done in time."""
        if self._peer is None:
            return LookupReply(0, error="the link to the cluster is down")
        return await self._peer.lookup(lookup)

    async def ticket(self, namespace: str, pod: str, uid: str, workload: str) -> Ticket:
        """Get what an agent in this pod needs to be admitted; raises `TunnelFailed`."""
        answer = await self._ask(TicketRequest(next(self._ids), namespace, pod, uid, workload))
        if not isinstance(answer, Ticket) or answer.error:
            raise TunnelFailed(f"the traffic-manager gave no ticket for an agent: {answer.error}")
        return answer

    async def show(self, ticket: AccessTicket) -> None:
        """Show an agent's ticket, also to managers that this link will lead to; raises `TunnelFailed`."""
        answer = await self._ask(msgspec.structs.replace(ticket, id=next(self._ids)))
        if answer.error:
            self._shown.pop(ticket.agent, None)
            raise TunnelFailed(f"the traffic-manager did not take the agent's ticket: {answer.error}")
        self._shown[ticket.agent] = ticket

    async def _ask(self, request: TicketRequest | AccessTicket) -> Ticket | AccessTicket:
        """Send what the manager answers with the same id; raises `TunnelFailed` when it does not."""
        if self._peer is None:
            raise TunnelFailed("the link to the traffic-manager is down", "inroad status")
        future: asyncio.Future[Ticket | AccessTicket] = asyncio.get_running_loop().create_future()
        self._answers[request.id] = future
        self._send(request)
        try:
            async with asyncio.timeout(TICKET_TIMEOUT):
                return await future
        except TimeoutError:
            raise TunnelFailed("the traffic-manager does not answer", "inroad status") from None
        finally:
            del self._answers[request.id]

    def hold(self, agents: tuple[str, ...]) -> None:
        """Tell the manager which agents this session uses; one that nobody uses any more may end."""
        self._held = agents
        self._send(Holding(agents))

    def _send(self, message: Control) -> None:
        if self._peer is not None:
            self._peer.send(message)

    def _on_message(self, message: Control) -> None:
        match message:
            case ClusterInfo():
                self._on_cluster(message)
            case NamesChanged(names):
                self._on_names(names)
            case Agents():
                self.on_agents(message)
            case Ticket() | AccessTicket():
                waiting = self._answers.get(message.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
            case _:
                log.warning("not expected from a manager", message=type(message).__name__)

    def _on_closed(self, reason: str) -> None:
        self._peer, self.since, self.last_error = None, time.time(), reason
        self._on_link(None)
        if not self._closed:
            log.warning("link to the traffic-manager lost", reason=reason)
            self._keeper = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        pause = backoff.FIRST
        while True:
            try:
                await self._connect()
                return
            except InroadError as error:
                self.last_error = str(error)
                log.info("no link yet", error=str(error), next_attempt_s=round(pause, 1))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
            pause = backoff.next_pause(pause, time.time() - self.since, LONGEST_RETRY)
