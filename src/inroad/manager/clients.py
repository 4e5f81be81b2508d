"""The clients of one traffic-manager: each is a tunnel link with a session on it.

Whoever reaches the client port came through the API server's port-forward (it listens on loopback
only), so Kubernetes has decided already who may be here. What a client sends is still bounded and
checked: a wrong message ends its link and no other.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import structlog

from inroad import __version__
from inroad.core import messages
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
from inroad.core.origin import Wishes, choose
from inroad.manager.access import AccessRule, Admissions
from inroad.manager.agents import AgentRegistry
from inroad.manager.debounce import Debounce
from inroad.manager.identity import NotProved
from inroad.origin.dial import Dialler
from inroad.tunnel.api import Flow, FlowHandler, Link, Quiet, Refusal

MAX_LOOKUPS_IN_FLIGHT = 4_096
"""Per client; a lookup beyond it is answered with an error at once."""

CLUSTER, AGENTS = "cluster", "agents"
"""Names of the states that are pushed; see `Link.send_control`."""

AGENTS_BURST = 0.1
"""Seconds that a change of the agents waits for more at most: after a restart hundreds come at once, and each
push is of all of them."""

ABSENCE = 300.0
"""Seconds that the attachments of a client that is gone are kept for its return; those too that it had with a
manager before this one."""

log = structlog.get_logger()

Answer = Callable[[Lookup], Awaitable[LookupReply]]
GiveTicket = Callable[[TicketRequest], Ticket]
"""Issue a ticket with what its agent needs; raises `NotProved`."""


@dataclass(frozen=True, slots=True)
class Services:
    """What clients are served with."""

    dialler: Dialler
    answer: Answer
    agents: AgentRegistry
    give_ticket: GiveTicket
    rule: AccessRule


class Clients:
    """All connected clients; hands each the newest `ClusterInfo` and everything that follows."""

    def __init__(self, pod: str, services: Services) -> None:
        self.pod = pod
        self.services = services
        self.cluster = ClusterInfo(generation=0)
        self._clients: set[Client] = set()
        self._ephemeral: set[str] = set()
        self._agents = Agents()
        self._push_agents = Debounce(self._push_agents_now, longest=AGENTS_BURST)

    def __len__(self) -> int:
        return len(self._clients)

    def attach(self, link: Link) -> None:
        """Take over a new link; it has no rights to anything before its `Hello`."""
        self._clients.add(Client(self, link))

    def of_session(self, session: str) -> Client | None:
        """Return the client that has this session."""
        return next((client for client in self._clients if session and client.session == session), None)

    def forget(self, client: Client) -> None:
        """A client's link ended."""
        self._clients.discard(client)

    def let_go(self, agents: set[str]) -> None:
        """A client does not use these agents any more: those that nobody uses end."""
        used = {agent for client in self._clients for agent in client.held}
        for agent in agents - used:
            self.services.agents.dismiss(agent)

    def publish(self, cluster: ClusterInfo) -> None:
        """Push the newest state to every client that has said hello; of several a slow one gets the last."""
        self.cluster = cluster
        payload = messages.encode(cluster)
        for client in self._clients:
            client.push(payload, CLUSTER)

    def publish_agents(self, agents: Agents) -> None:
        """Push the newest set of agents to every client that has said hello; of a burst the last ones."""
        self._expect_claims({agent.id for agent in agents.agents if agent.kind == "ephemeral"})
        self._agents = agents
        self._push_agents()

    def _push_agents_now(self) -> None:
        payload = messages.encode(self._agents)
        for client in self._clients:
            client.push(payload, AGENTS)

    def _expect_claims(self, ephemeral: set[str]) -> None:
        """Somebody has to hold each agent that was made for an attachment, in a while at the latest."""
        new, self._ephemeral = ephemeral - self._ephemeral, ephemeral
        if new:
            asyncio.get_running_loop().call_later(ABSENCE, self.let_go, new)

    def names_changed(self, names: tuple[str, ...]) -> None:
        """Tell every client that cached answers for these services are no longer true."""
        payload = messages.encode(NamesChanged(names))
        for client in self._clients:
            client.push(payload)

    def close(self) -> None:
        """End every link orderly."""
        self._push_agents.close()
        for client in list(self._clients):
            client.link.close("the traffic-manager shuts down")


class Client:
    """One client's side of its link: greeting, lookups, dials."""

    def __init__(self, clients: Clients, link: Link) -> None:
        self.clients = clients
        self.link = link
        self.session = ""
        self.namespace = ""
        self.held: set[str] = set()
        self.admissions = Admissions(clients.services.rule)
        self._lookups: set[asyncio.Task[None]] = set()
        link.on_open = self.on_open
        link.on_control = self.on_control
        link.on_closed = self.on_closed

    def push(self, payload: bytes, state: str = "") -> None:
        """Send a control message, or the newest `state` of something, to a client that has said hello."""
        if self.session:
            self.link.send_control(payload, state)

    def on_open(self, flow: Flow, request: bytes) -> FlowHandler:
        """A flow of the client: dial from this pod, or have an agent do it."""
        services = self.clients.services
        try:
            dial = messages.decode_dial(request)
        except msgspec.MsgspecError as error:
            flow.refuse(Refusal.BAD_REQUEST, str(error))
            return Quiet()
        if dial.via:
            objection = self.admissions.objection(dial.via)
            if objection:
                flow.refuse(Refusal.NOT_ALLOWED, objection)
                return Quiet()
            return services.agents.open(flow, dial)
        return services.dialler.serve(flow, request)

    def on_control(self, payload: bytes) -> None:
        """Handle one control message; a malformed one is answered, not obeyed."""
        try:
            message = messages.decode_control(payload)
        except msgspec.MsgspecError as error:
            self.link.send_control(messages.encode(messages.Problem(f"message not understood: {error}")))
            return
        self._handle(message)

    def _handle(self, message: Control) -> None:
        match message:
            case Hello():
                self._greet(message)
            case Connected(namespace):
                self.namespace = namespace
            case Lookup():
                self._look_up(message)
            case TicketRequest():
                self._give_ticket(message)
            case AccessTicket() if self.session:
                self._admit(message)
            case Holding(agents):
                let_go = self.held - set(agents)
                self.held = set(agents)
                self.clients.let_go(let_go)
            case _:
                self.link.send_control(messages.encode(messages.Problem("not expected from a client")))

    def _greet(self, hello: Hello) -> None:
        text = messages.objection(hello, __version__)
        if text:
            self.link.send_control(messages.encode(messages.Problem(text, fatal=True)))
            self.link.close(text)
            return
        if hello.lane == "bulk":
            self._join(hello)
            return
        self.session = hello.session or secrets.token_hex(8)
        self.namespace = hello.namespace
        self._welcome(hello, self.session)
        self.link.send_control(messages.encode(self.clients.services.agents.current()), AGENTS)
        if self.clients.cluster.generation:
            self.link.send_control(messages.encode(self.clients.cluster), CLUSTER)
        log.info("client connected", session=self.session, namespace=self.namespace, software=hello.software)

    def _welcome(self, hello: Hello, session: str) -> None:
        version = min(hello.version, messages.PROTOCOL_VERSION)
        welcome = messages.Welcome(version, __version__, session, self.clients.pod)
        self.link.send_control(messages.encode(welcome))

    def _join(self, hello: Hello) -> None:
        """This connection is the bulk lane of another one's session, and no client of its own."""
        main = self.clients.of_session(hello.session)
        if main is None or main is self:
            self.link.send_control(messages.encode(messages.Problem("no such session", fatal=True)))
            self.link.close("no such session")
            return
        self.clients.forget(self)
        main.link.adopt(self.link)
        self._welcome(hello, hello.session)
        log.info("bulk lane", session=hello.session)

    def _look_up(self, lookup: Lookup) -> None:
        if len(self._lookups) >= MAX_LOOKUPS_IN_FLIGHT:
            reply = LookupReply(lookup.id, error="too many lookups in flight")
            self.link.send_control(messages.encode(reply))
            return
        task = asyncio.create_task(self._answer(lookup))
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)

    async def _answer(self, lookup: Lookup) -> None:
        services = self.clients.services
        objection = self.admissions.objection(lookup.via) if lookup.via else ""
        if objection:
            self.link.send_control(messages.encode(LookupReply(lookup.id, error=objection)))
            return
        reply = await self._ask_agents(lookup) if lookup.via else None
        if reply is None:
            reply = await services.answer(lookup)
        self.link.send_control(messages.encode(reply))

    async def _ask_agents(self, lookup: Lookup) -> LookupReply | None:
        """Have the agent ask, and if it fails the next choice of the namespace; None: neither could."""
        agents = self.clients.services.agents
        reply = await agents.look_up(lookup)
        if reply is not None:
            return reply
        others = (one for one in agents.current().agents if one.id != lookup.via)
        usable = [one for one in others if not self.admissions.objection(one.id)]
        following = choose(usable, Wishes(self.namespace)).agent
        return await agents.look_up(msgspec.structs.replace(lookup, via=following)) if following else None

    def _admit(self, ticket: AccessTicket) -> None:
        objection = self.admissions.show(self.session, ticket)
        if objection:
            log.warning("access ticket refused", session=self.session, agent=ticket.agent, reason=objection)
        self.link.send_control(messages.encode(AccessTicket(ticket.id, error=objection)))

    def _give_ticket(self, request: TicketRequest) -> None:
        try:
            ticket = self.clients.services.give_ticket(request)
        except NotProved as error:
            ticket = Ticket(request.id, error=str(error))
        log.info("ticket given", session=self.session, namespace=request.namespace, pod=request.pod)
        self.link.send_control(messages.encode(ticket))

    def on_closed(self, reason: str) -> None:
        """The link is gone, and with it every flow and lookup of this client."""
        for task in self._lookups:
            task.cancel()
        self.clients.forget(self)
        if self.held:
            # the client may be asleep, or on its way back over another link
            asyncio.get_running_loop().call_later(ABSENCE, self.clients.let_go, self.held)
        if self.session:
            log.info("client gone", session=self.session, reason=reason)
