"""Clients that come to the agent itself, by a port-forward to its pod, past the traffic-manager.

It listens on the pod's loopback only, so whoever comes was let through by Kubernetes RBAC (`pods/portforward`
in this namespace), or is a process of this pod, which may dial from here anyway. A link begins with
`Hello`, as with the traffic-manager; nothing is done for it before that.
"""

from __future__ import annotations

import secrets
from typing import Protocol

import msgspec
import structlog

from inroad import __version__
from inroad.core import messages
from inroad.core.messages import AccessRequest, AccessTicket, Hello, Lookup, Problem, Welcome
from inroad.tunnel.api import Flow, FlowHandler, Link, Quiet, Refusal
from inroad.tunnel.listen import loopback_listeners
from inroad.tunnel.stream import StreamServer, serve_stream

MAX_LINKS = 256
"""Clients' connections at a time, two for each client; what comes beyond them is closed at once."""

log = structlog.get_logger()


class Service(Protocol):
    """What is done for a client that has said hello."""

    def dial(self, flow: Flow, request: bytes) -> FlowHandler:
        """Begin what a flow's request asks for; returns the flow's handler."""

    def look_up(self, link: Link, lookup: Lookup) -> None:
        """Answer a lookup over the link it came from."""

    def ticket(self, request: AccessRequest) -> AccessTicket:
        """Return what the manager may demand of the client."""


class Direct:
    """All clients that came to this agent itself. `pod`: this pod's name."""

    def __init__(self, pod: str, service: Service) -> None:
        self.pod = pod
        self.service = service
        self.port = 0
        self._server: StreamServer | None = None
        self._clients: set[Client] = set()

    async def start(self, port: int) -> None:
        """Listen, unless another agent of this pod does; `port` stays 0 then."""
        if self._server is not None or not port:
            return
        try:
            listeners = loopback_listeners(port)
        except OSError as error:
            log.info("no clients are taken here, only by way of the traffic-manager", reason=str(error))
            return
        self._server = await serve_stream(listeners, self.attach)
        self.port = port

    def attach(self, link: Link) -> None:
        """Take over a new link."""
        if len(self._clients) >= MAX_LINKS:
            link.close(f"{MAX_LINKS} connections are open already")
            return
        self._clients.add(Client(self, link))

    def of_session(self, session: str) -> Client | None:
        """Return the client that has this session."""
        return next((client for client in self._clients if session and client.session == session), None)

    def forget(self, client: Client) -> None:
        """A client's link ended, or became a lane of another one's."""
        self._clients.discard(client)

    def close(self) -> None:
        """Take no more clients and end the links there are."""
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            client.link.close("the agent ends")


class Client:
    """One client's link."""

    def __init__(self, direct: Direct, link: Link) -> None:
        self.direct = direct
        self.link = link
        self.session = ""
        link.on_open = self._on_open
        link.on_control = self._on_control
        link.on_closed = self._on_closed

    def _on_open(self, flow: Flow, request: bytes) -> FlowHandler:
        if not self.session:
            flow.refuse(Refusal.NOT_ALLOWED, "say hello first")
            return Quiet()
        return self.direct.service.dial(flow, request)

    def _on_control(self, payload: bytes) -> None:
        try:
            message = messages.decode_control(payload)
        except msgspec.MsgspecError as error:
            self.link.send_control(messages.encode(Problem(f"message not understood: {error}")))
            return
        match message:
            case Hello():
                self._greet(message)
            case Lookup() if self.session:
                self.direct.service.look_up(self.link, message)
            case AccessRequest() if self.session:
                self.link.send_control(messages.encode(self.direct.service.ticket(message)))
                log.info("access ticket given", session=message.session)
            case _:
                self.link.send_control(messages.encode(Problem("not expected from a client")))

    def _greet(self, hello: Hello) -> None:
        problem = messages.objection(hello, __version__)
        main = self.direct.of_session(hello.session)
        if not problem and hello.lane == "bulk" and (main is None or main is self):
            problem = "no such session"
        if problem:
            self.link.send_control(messages.encode(Problem(problem, fatal=True)))
            self.link.close(problem)
            return
        if hello.lane == "bulk" and main is not None:
            self.direct.forget(self)
            main.link.adopt(self.link)
            self._welcome(hello, hello.session)
            return
        self.session = secrets.token_hex(8)  # never the client's own choice: it is what a bulk lane names
        self._welcome(hello, self.session)
        log.info("client connected", session=self.session, software=hello.software)

    def _welcome(self, hello: Hello, session: str) -> None:
        version = min(hello.version, messages.PROTOCOL_VERSION)
        self.link.send_control(messages.encode(Welcome(version, __version__, session, self.direct.pod)))

    def _on_closed(self, reason: str) -> None:
        self.direct.forget(self)
        if self.session:
            log.info("client gone", session=self.session, reason=reason)
