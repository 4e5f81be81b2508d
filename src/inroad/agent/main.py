"""The traffic-agent: looks up names and dials from the network namespace of the pod it lives in.

It dials the traffic-manager over TLS, proves which pod it is in, and serves what comes over that link; when
the link breaks it makes another one. From the pod network it takes no connection: it listens on the pod's
loopback only (`direct`), for clients that come by a port-forward.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Mapping
from dataclasses import replace

import msgspec
import structlog

from inroad import program
from inroad.agent.direct import Direct
from inroad.agent.identity import Identity, TokenMissing, hello_of, server_context
from inroad.agent.serving import Service
from inroad.core import backoff, messages
from inroad.core.dial_policy import DialPolicy, parse_networks
from inroad.core.errors import ConfigInvalid
from inroad.core.messages import Lookup, Problem, Welcome, agent_id
from inroad.tunnel.tls import TlsLink, connect_tls

LONGEST_RETRY = 5.0
"""Seconds between attempts while the manager stays away."""
SIDECAR_RETRY = 30.0
"""Seconds until a sidecar that was turned away asks again."""

log = structlog.get_logger()


class Rejected(ConfigInvalid):
    """The manager does not admit this agent, whatever it tries."""


class Dismissed(Exception):
    """The manager needs this agent no more: the end that an ephemeral container is meant to have."""


class Agent:
    """Keeps one link to the manager and serves it."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._service = Service(DialPolicy(), agent_id(identity.uid, identity.kind))
        self._direct = Direct(identity.pod, self._service)
        self._is_admitted = False
        """On the link that there is."""

    async def serve(self) -> None:
        """Serve until cancelled; raises `Rejected`, or `Dismissed` after it was admitted."""
        try:
            await self._keep_link()
        finally:
            self._direct.close()

    async def _keep_link(self) -> None:
        loop = asyncio.get_running_loop()
        pause, since = backoff.FIRST, loop.time()
        while True:
            try:
                why = await self._serve_link()
                pause, since = backoff.FIRST, loop.time()
            except (OSError, TokenMissing) as error:
                why = str(error)
            except Rejected as error:
                if self._identity.kind != "sidecar":
                    raise
                # A container that ends would take the readiness of its pod, and so the workload, with it.
                why, pause = str(error), SIDECAR_RETRY
            log.info("no link to the traffic-manager", reason=why, next_attempt_s=round(pause, 1))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
            pause = backoff.next_pause(pause, loop.time() - since, LONGEST_RETRY)

    async def _serve_link(self) -> str:
        """Serve one link to its end; returns why it ended."""
        over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self._direct.start(self._identity.port)
        hello = messages.encode(hello_of(self._identity, self._direct.port))

        def on_closed(reason: str) -> None:
            if not over.done():
                over.set_result(reason)

        def set_up(link: TlsLink) -> None:
            self._is_admitted = False
            link.on_open = self._service.dial
            link.on_control = lambda payload: self._on_control(link, payload, over)
            link.on_closed = on_closed
            link.send_control(hello)

        host, port = self._identity.manager
        context = server_context(self._identity)
        link = await connect_tls(
            host, port, context, server_hostname=self._identity.server_name, setup=set_up
        )
        try:
            return await over
        finally:
            link.close("the agent ends")

    def _on_control(self, link: TlsLink, payload: bytes, over: asyncio.Future[str]) -> None:
        try:
            message = messages.decode_control(payload)
        except msgspec.MsgspecError as error:
            link.send_control(messages.encode(Problem(f"message not understood: {error}")))
            return
        match message:
            case Lookup():
                self._service.look_up(link, message)
            case Welcome():
                self._admitted(message)
            case Problem():
                log.warning("the traffic-manager objects", problem=message.message)
                if message.fatal and not over.done():
                    over.set_exception(self._told_to_end(message.message))
            case _:
                link.send_control(messages.encode(Problem("not expected from a manager")))

    def _told_to_end(self, why: str) -> Exception:
        return Dismissed(why) if self._is_admitted else Rejected(why)

    def _admitted(self, welcome: Welcome) -> None:
        log.info("admitted", version=welcome.software)
        self._is_admitted = True
        if self._identity.ticket:  # it is used up; this one is for the next link
            self._identity = replace(self._identity, ticket=welcome.session)
        self._service.key = welcome.key
        try:
            self._service.policy = DialPolicy(parse_networks(welcome.allow))
        except ValueError as error:
            log.warning("what the traffic-manager allows to dial is not understood", problem=str(error))


async def serve(environ: Mapping[str, str]) -> None:
    """Run until SIGTERM or SIGINT, or until the manager dismisses this agent or turns it away for good."""
    loop = asyncio.get_running_loop()
    agent = asyncio.create_task(Agent(Identity.of(environ)).serve())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.cancel)
    try:
        await agent
    except asyncio.CancelledError:
        log.info("ends")
    except Dismissed as error:
        log.info("ends", reason=str(error))


def main(argv: list[str]) -> int:
    """Run the traffic-agent; returns the exit status."""
    del argv
    return program.run(serve)
