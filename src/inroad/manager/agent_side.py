"""The traffic-manager's side towards agents: who they are, how they get here, and into which pods they go.

All of it rests on the certificates in the chart's Secret. While those can't be had there are no agents, and
it is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import structlog

from inroad.core.agent_container import AgentSpec
from inroad.core.errors import InroadError
from inroad.core.messages import AgentHello, Agents, Ticket, TicketRequest
from inroad.kube.client import ApiClient
from inroad.manager.access import AccessRule
from inroad.manager.agent_pods import workload_of
from inroad.manager.agents import AgentRegistry
from inroad.manager.authority import Certificates
from inroad.manager.identity import NotNow, NotProved, Tickets
from inroad.manager.injector import Injector
from inroad.manager.settings import Settings
from inroad.manager.token_check import TokenCheck
from inroad.manager.webhook import Registration, knows_native_sidecars, serve_webhook
from inroad.tunnel.listen import listen
from inroad.tunnel.tls import serve_tls

AGENT_PORT = 15703
"""TLS on the pod network, for agents that prove who they are."""
RETRY, REFRESH = 5.0, 600.0
"""Seconds until the certificates are looked at again: when they can't be had, and when all is well."""
MAX_ASKING = 32
"""Questions to the API server at a time: after a restart all agents come at once."""

log = structlog.get_logger()


class AgentSide:
    """Agents as the manager has them; `registry` is the part that clients use.

    `namespaces`: those of the manager's clients, None as long as they are not known.
    """

    def __init__(
        self,
        api: ApiClient,
        settings: Settings,
        on_change: Callable[[Agents], None],
        namespaces: Callable[[], Sequence[str] | None],
    ) -> None:
        self._namespaces = namespaces
        self.rule = AccessRule(
            by_namespace=settings.agent_access == "namespace", secret=secrets.token_bytes(32)
        )
        self.registry = AgentRegistry(self._prove, on_change, self.rule, settings.dial_allow)
        self._api = api
        self._settings = settings
        self._certificates = Certificates(api, settings.namespace)
        self._registration = Registration(api, settings.namespace)
        self._injector = Injector(self._spec, self._manages)
        self._tickets = Tickets(self.rule.secret)
        self._tokens = TokenCheck(api)
        self._asking = asyncio.Semaphore(MAX_ASKING)
        self._open = False

    async def start(self, stack: AsyncExitStack) -> None:
        """Take agents from now on, or as soon as the certificates can be had."""
        stack.callback(self.registry.close)
        self._injector.native = await knows_native_sidecars(self._api)
        pause = await self._refresh(stack)
        stack.callback(asyncio.create_task(self._keep(stack, pause)).cancel)

    async def _keep(self, stack: AsyncExitStack, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            pause = await self._refresh(stack)

    async def _refresh(self, stack: AsyncExitStack) -> float:
        """Look at the certificates; returns the seconds until they should be looked at again."""
        try:
            authority = await self._certificates.refresh()
            if not self._open:
                self.rule.secret = hashlib.sha256(authority.ca_key.encode()).digest()
                self._tickets = Tickets(self.rule.secret)
                await self._listen(stack)
                self._open = True
        except InroadError as error:
            without = "renewed" if self._open else "kept, so no agents are taken"
            log.warning(f"the certificates can't be {without}", reason=str(error))
            return RETRY
        if self._settings.injection:
            await self._registration.publish(authority.ca)
        return REFRESH

    async def _listen(self, stack: AsyncExitStack) -> None:
        context = self._certificates.context
        listeners = [listen(socket.AF_INET, "0.0.0.0", AGENT_PORT)]
        with contextlib.suppress(OSError):  # a pod without IPv6
            listeners.append(listen(socket.AF_INET6, "::", AGENT_PORT))
        for server in await serve_tls(listeners, context, self.registry.attach):
            stack.callback(server.close)
        if self._settings.injection:
            webhook = await serve_webhook(self._injector, context)
            stack.push_async_callback(webhook.cleanup)

    def _manages(self, namespace: str) -> bool:
        """Tell whether pods of a namespace get sidecars; where a selector says which, the webhook has it."""
        return not self._settings.namespaces or namespace in self._settings.namespaces

    def _check_namespace(self, namespace: str) -> None:
        """Raise `NotProved` unless agents of a namespace are for our clients."""
        known = self._namespaces()
        if self._settings.namespace_selector and known is None:
            raise NotNow("the cluster's namespaces are not known yet")
        selected = not self._settings.namespace_selector or namespace in (known or ())
        if not (self._manages(namespace) and selected):
            raise NotProved(f"this traffic-manager does not serve namespace {namespace}")

    def _spec(self) -> AgentSpec:
        authority = self._certificates.authority
        if authority is None:
            raise NotProved("this traffic-manager has no certificates and takes no agents")
        values = self._settings.agent
        manager = f"traffic-manager.{self._settings.namespace}:{AGENT_PORT}"
        return AgentSpec(
            values.image,
            manager,
            authority.ca,
            values.pull_policy,
            values.resources,
            values.security,
            values.port,
        )

    def give_ticket(self, request: TicketRequest) -> Ticket:
        """Issue a ticket with what its agent needs; raises `NotProved`."""
        spec = self._spec()
        self._check_namespace(request.namespace)
        return Ticket(
            request.id,
            self._tickets.issue(request),
            spec.manager,
            spec.ca_pem,
            spec.image,
            pull_policy=spec.pull_policy,
            resources=spec.resources,
            security=spec.security,
            port=spec.port,
        )

    async def _prove(self, hello: AgentHello, address: str) -> tuple[str, str]:
        """Check a claim; returns the agent's workload and its pass."""
        self._check_namespace(hello.namespace)
        claimed = pass_ = ""
        if hello.ticket:
            claimed = self._tickets.redeem(hello)
            pass_ = self._tickets.pass_for(hello, claimed)
        elif hello.kind == "ephemeral":
            raise NotProved("an ephemeral agent has to show a ticket")
        else:
            async with self._asking:
                await self._tokens.prove(hello)
        async with self._asking:
            workload = await workload_of(self._api, hello, claimed)
        log.debug("proof accepted", pod=hello.pod, address=address)
        return workload, pass_
