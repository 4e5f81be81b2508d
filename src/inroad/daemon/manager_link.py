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
from inroad.core import messages
from inroad.core.errors import InroadError, TunnelFailed
from inroad.core.messages import (
    AgentInfo,
    Agents,
    ClusterInfo,
    Hello,
    Holding,
    Lookup,
    LookupReply,
    NamesChanged,
    Problem,
    Ticket,
    TicketRequest,
    Welcome,
)
from inroad.tunnel.api import Flow, FlowHandler, Link, Refusal

GREETING_TIMEOUT = 5.0
FIRST_RETRY, LONGEST_RETRY = 0.2, 10.0
"""Seconds between attempts to get the link back; the very first attempt is made at once."""

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
        on_agents: Callable[[tuple[AgentInfo, ...]], None] = lambda agents: None,
        origin: Callable[[], str] = lambda: "",
    ) -> None:
        self.namespace = namespace
        self.session = ""
        self.pod = ""
        self.manager_version = ""
        self.link: Link | None = None
        self.since = time.time()
        self.last_error = ""
        self._open_link = open_link
        self._on_cluster = on_cluster
        self._on_names = on_names
        self._on_link = on_link
        self._on_agents = on_agents
        self._origin = origin
        self._held: tuple[str, ...] = ()
        self._tickets: dict[int, asyncio.Future[Ticket]] = {}
        self._lookups: dict[int, asyncio.Future[LookupReply]] = {}
        self._ids = itertools.count(1)
        self._greeting: asyncio.Future[Welcome] | None = None
        self._closed = False
        self._keeper: asyncio.Task[None] | None = None
        self._lane: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the first link; raises `InroadError` when it can't be had."""
        await self._connect()

    async def _connect(self) -> None:
        link, pod = await self._open_link("")
        link.on_open = self._refuse_flow
        link.on_control = self._on_control
        link.on_closed = self._on_closed
        self._greeting = asyncio.get_running_loop().create_future()
        hello = Hello(messages.PROTOCOL_VERSION, __version__, self.namespace, self.session)
        link.send_control(messages.encode(hello))
        try:
            welcome = await asyncio.wait_for(self._greeting, GREETING_TIMEOUT)
        except TimeoutError:
            link.close("no greeting")
            raise TunnelFailed(
                f"pod {pod} did not answer within {GREETING_TIMEOUT:.0f} s on its client port",
                "check its log: kubectl logs -n <manager namespace> deploy/traffic-manager",
            ) from None
        self.session, self.manager_version, self.pod = welcome.session, welcome.software, pod
        self.link, self.since, self.last_error = link, time.time(), ""
        if self._held:
            self.hold(self._held)
        self._on_link(link)
        self._lane = asyncio.create_task(self._add_lane(link, pod))
        log.info("linked to the traffic-manager", pod=pod, version=welcome.software)

    async def _add_lane(self, main: Link, pod: str) -> None:
        """Give the link a second connection for bulk; without one it works too, only less smoothly."""
        try:
            bulk, _ = await self._open_link(pod)
        except InroadError as error:
            log.info("no bulk lane", reason=str(error))
            return

        def on_control(payload: bytes) -> None:
            if self.link is main and isinstance(messages.decode_control(payload), Welcome):
                main.adopt(bulk)
            else:
                bulk.close("not wanted")

        bulk.on_control = on_control
        hello = Hello(messages.PROTOCOL_VERSION, __version__, session=self.session, lane="bulk")
        bulk.send_control(messages.encode(hello))

    async def close(self) -> None:
        """End the link orderly and stop keeping it."""
        self._closed = True
        for task in (self._keeper, self._lane):
            if task is not None:
                task.cancel()
        if self.link is not None:
            self.link.close("the session ends")
        self._fail_lookups()

    def set_namespace(self, namespace: str) -> None:
        """Tell the manager of another connected namespace."""
        self.namespace = namespace
        if self.link is not None:
            self.link.send_control(messages.encode(messages.Connected(namespace)))

    async def lookup(
        self, query: bytes, *, namespace: str, deadline_ms: int, absolute: bool, bare: bool = True
    ) -> LookupReply:
        """Ask the cluster's name server; a reply with `error` set when that can't be done in time."""
        if self.link is None:
            return LookupReply(0, error="the link to the cluster is down")
        number = next(self._ids)
        future: asyncio.Future[LookupReply] = asyncio.get_running_loop().create_future()
        self._lookups[number] = future
        self.link.send_control(
            messages.encode(Lookup(number, query, namespace, deadline_ms, absolute, bare, self._origin()))
        )
        try:
            return await asyncio.wait_for(future, deadline_ms / 1000)
        except TimeoutError:
            return LookupReply(number, error="the cluster did not answer in time")
        finally:
            self._lookups.pop(number, None)

    async def ticket(self, namespace: str, pod: str, uid: str, workload: str) -> Ticket:
        """Get what an agent in this pod needs to be admitted; raises `TunnelFailed`."""
        if self.link is None:
            raise TunnelFailed("the link to the traffic-manager is down", "inroad status")
        number = next(self._ids)
        future: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        self._tickets[number] = future
        self.link.send_control(messages.encode(TicketRequest(number, namespace, pod, uid, workload)))
        try:
            ticket = await asyncio.wait_for(future, GREETING_TIMEOUT)
        except TimeoutError:
            raise TunnelFailed("the traffic-manager gave no ticket for an agent") from None
        finally:
            self._tickets.pop(number, None)
        if ticket.error:
            raise TunnelFailed(f"the traffic-manager gave no ticket: {ticket.error}")
        return ticket

    def hold(self, agents: tuple[str, ...]) -> None:
        """Tell the manager which agents this session uses; one that nobody uses any more may end."""
        self._held = agents
        if self.link is not None:
            self.link.send_control(messages.encode(Holding(agents)))

    def _on_control(self, payload: bytes) -> None:
        try:
            message = messages.decode_control(payload)
        except msgspec.MsgspecError as error:
            log.warning("message from the manager not understood", error=str(error))
            return
        match message:
            case LookupReply():
                future = self._lookups.get(message.id)
                if future is not None and not future.done():
                    future.set_result(message)
            case ClusterInfo():
                self._on_cluster(message)
            case NamesChanged(names):
                self._on_names(names)
            case Agents(agents):
                self._on_agents(agents)
            case Ticket():
                waiting = self._tickets.get(message.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
            case Welcome():
                if self._greeting is not None and not self._greeting.done():
                    self._greeting.set_result(message)
            case Problem():
                self._problem(message)
            case _:
                log.warning("not expected from a manager", message=type(message).__name__)

    def _problem(self, problem: Problem) -> None:
        log.warning("the traffic-manager objects", problem=problem.message)
        if problem.fatal and self._greeting is not None and not self._greeting.done():
            remedy = "install the same inroad version on both sides"
            self._greeting.set_exception(TunnelFailed(problem.message, remedy))

    def _refuse_flow(self, flow: Flow, request: bytes) -> FlowHandler:
        del request
        flow.refuse(Refusal.NOT_ALLOWED, "a workstation does not dial for the cluster")
        return flow.handler

    def _fail_lookups(self) -> None:
        for number, future in self._lookups.items():
            if not future.done():
                future.set_result(LookupReply(number, error="the link to the cluster broke"))

    def _on_closed(self, reason: str) -> None:
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_exception(TunnelFailed(f"the manager closed the link: {reason}"))
        if self.link is None:
            return
        self.link, self.since, self.last_error = None, time.time(), reason
        self._on_link(None)
        self._fail_lookups()
        if not self._closed:
            log.warning("link to the traffic-manager lost", reason=reason)
            self._keeper = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        pause = FIRST_RETRY
        while True:
            try:
                await self._connect()
                return
            except InroadError as error:
                self.last_error = str(error)
                log.info("no link yet", error=str(error), next_attempt_s=round(pause, 1))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
            pause = min(pause * 2, LONGEST_RETRY)
