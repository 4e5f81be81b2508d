"""The traffic-manager: watches the cluster, answers lookups, dials; one Deployment per cluster.

All wiring is here: the Kubernetes watches (`cluster_info`) feed the clients (`clients`), whose flows
and lookups are served from this pod (`origin`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import secrets
import signal
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack

import msgspec
import structlog

from inroad import program
from inroad.core.errors import InroadError
from inroad.core.messages import AgentHello, Agents, ClusterInfo, Ticket, TicketRequest
from inroad.kube.client import ApiClient
from inroad.manager.agents import AgentRegistry
from inroad.manager.authority import Authority, load_or_make
from inroad.manager.client_config import ClientConfig
from inroad.manager.clients import Clients, Services
from inroad.manager.cluster_info import ClusterInfoSource
from inroad.manager.health import serve_health
from inroad.manager.identity import NotProved, Tickets, check_token
from inroad.origin.dial import Dialler
from inroad.origin.lookup import LookupService
from inroad.tunnel.listen import listen, loopback_listeners
from inroad.tunnel.stream import serve_stream
from inroad.tunnel.tls import serve_tls

CLIENT_PORT = 15701
"""Loopback only: the one way to it is the API server's port-forward, guarded by RBAC."""
HEALTH_PORT = 15702
AGENT_PORT = 15703
"""TLS on the pod network, for agents that prove who they are."""

log = structlog.get_logger()


async def serve_agents(registry: AgentRegistry, authority: Authority) -> list[asyncio.Server]:
    """Listen for agents on all addresses of the pod."""
    listeners = [listen(socket.AF_INET, "0.0.0.0", AGENT_PORT)]
    with contextlib.suppress(OSError):  # a pod without IPv6
        listeners.append(listen(socket.AF_INET6, "::", AGENT_PORT))
    return await serve_tls(listeners, authority.server_context(), registry.attach)


class Manager:
    """The parts of a traffic-manager and what each tells the others."""

    def __init__(self, api: ApiClient, environ: Mapping[str, str]) -> None:
        self.namespace = environ.get("POD_NAMESPACE", "inroad")
        self.api = api
        self.authority: Authority | None = None
        self.tickets = Tickets(secrets.token_bytes(32))
        self.agents = AgentRegistry(self._prove, self._agents_changed)
        services = Services(Dialler(), LookupService().answer, self.agents, self._give_ticket)
        self.clients = Clients(environ.get("POD_NAME") or socket.gethostname(), services)
        self.client_config = ClientConfig(environ.get("CLIENT_CONFIG", ""), self._publish)
        self.cluster = ClusterInfo(generation=0)
        self.source = ClusterInfoSource(
            api, on_change=self._cluster_changed, on_names=self.clients.names_changed
        )
        self._image = environ.get("AGENT_IMAGE", "")
        self._generation = itertools.count(1)

    @property
    def ready(self) -> bool:
        """True once the cluster has been read."""
        return self.cluster.generation > 0

    def gauges(self) -> dict[str, tuple[str, float]]:
        """Return what is measured."""
        return {
            "clients": ("connected workstations", len(self.clients)),
            "agents": ("admitted traffic-agents", len(self.agents)),
            "subnets": ("subnets of the cluster", len(self.cluster.subnets)),
            "ready": ("1 once the cluster has been read", int(self.ready)),
        }

    def _cluster_changed(self, cluster: ClusterInfo) -> None:
        self.cluster = cluster
        self._publish()

    def _agents_changed(self, agents: Agents) -> None:
        self.clients.publish_agents(agents)

    def _publish(self) -> None:
        if self.ready:
            values = self.client_config.values
            generation = next(self._generation)
            self.clients.publish(
                msgspec.structs.replace(self.cluster, generation=generation, client_config=values)
            )

    async def _prove(self, hello: AgentHello, address: str) -> tuple[str, str]:
        if hello.ticket:
            workload = self.tickets.redeem(hello)
        else:
            await check_token(self.api, hello)
            workload = hello.workload
        log.debug("proof accepted", pod=hello.pod, address=address)
        return workload, self.tickets.pass_for(hello, workload) if hello.ticket else ""

    def _give_ticket(self, request: TicketRequest) -> Ticket:
        if self.authority is None:
            raise NotProved("this traffic-manager keeps no certificates and takes no agents")
        manager = f"traffic-manager.{self.namespace}:{AGENT_PORT}"
        return Ticket(request.id, self.tickets.issue(request), manager, self.authority.ca, self._image)

    async def start(self, stack: AsyncExitStack) -> None:
        """Listen and begin to read the cluster; `stack` undoes it."""
        server = await serve_stream(loopback_listeners(CLIENT_PORT), self.clients.attach)
        stack.callback(server.close)
        stack.callback(self.clients.close)
        stack.callback(self.agents.close)
        await self.source.start()
        stack.push_async_callback(self.source.close)
        stack.callback(self.client_config.start().cancel)
        try:
            self.authority = await load_or_make(self.api, self.namespace)
        except InroadError as error:
            log.warning("no agents will be taken: the certificates can't be kept", reason=str(error))
        else:
            self.tickets = Tickets(hashlib.sha256(self.authority.ca_key.encode()).digest())
            for listener in await serve_agents(self.agents, self.authority):
                stack.callback(listener.close)


async def serve(environ: Mapping[str, str]) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        api = ApiClient.in_cluster()
        stack.push_async_callback(api.close)
        manager = Manager(api, environ)
        health = await serve_health(manager.gauges, int(environ.get("HEALTH_PORT") or HEALTH_PORT))
        stack.push_async_callback(health.cleanup)
        await manager.start(stack)
        log.info("traffic-manager serves", port=CLIENT_PORT, namespace=manager.namespace)
        await stop.wait()


def main(argv: list[str]) -> int:
    """Run the traffic-manager; returns the exit status."""
    del argv
    return program.run(serve)
