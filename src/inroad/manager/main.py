"""The traffic-manager: watches the cluster, answers lookups, dials; one Deployment per cluster.

All wiring is here: the Kubernetes watches (`cluster_info`) feed the clients (`clients`), whose flows
and lookups are served from this pod (`origin`).
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack

import msgspec
import structlog

from inroad import program
from inroad.core.dial_policy import DialPolicy
from inroad.core.messages import Agents, ClusterInfo
from inroad.kube.client import ApiClient
from inroad.manager.agent_side import AgentSide
from inroad.manager.client_config import ClientConfig
from inroad.manager.clients import Clients, Services
from inroad.manager.cluster_info import ClusterInfoSource
from inroad.manager.health import serve_health
from inroad.manager.settings import Settings
from inroad.origin.dial import Dialler
from inroad.origin.lookup import LookupService
from inroad.tunnel.listen import loopback_listeners
from inroad.tunnel.stream import serve_stream

CLIENT_PORT = 15701
"""Loopback only: the one way to it is the API server's port-forward, guarded by RBAC."""
HEALTH_PORT = 15702

log = structlog.get_logger()


class Manager:
    """The parts of a traffic-manager and what each tells the others."""

    def __init__(self, api: ApiClient, environ: Mapping[str, str]) -> None:
        self.namespace = environ.get("POD_NAMESPACE", "inroad")
        self.api = api
        settings = Settings.of(environ)
        self.agents = AgentSide(api, settings, self._agents_changed, self._namespaces)
        dialler = Dialler(DialPolicy(settings.dial_allow))
        side = self.agents
        services = Services(dialler, LookupService().answer, side.registry, side.give_ticket, side.rule)
        self.clients = Clients(environ.get("POD_NAME") or socket.gethostname(), services)
        self.client_config = ClientConfig(environ.get("CLIENT_CONFIG", ""), self._publish)
        self.cluster = ClusterInfo(generation=0)
        self.source = ClusterInfoSource(
            api, on_change=self._cluster_changed, on_names=self.clients.names_changed, settings=settings
        )
        self._generation = itertools.count(1)

    @property
    def ready(self) -> bool:
        """True once the cluster has been read."""
        return self.cluster.generation > 0

    def gauges(self) -> dict[str, tuple[str, float]]:
        """Return what is measured."""
        return {
            "clients": ("connected workstations", len(self.clients)),
            "agents": ("admitted traffic-agents", len(self.agents.registry)),
            "subnets": ("subnets of the cluster", len(self.cluster.subnets)),
            "ready": ("1 once the cluster has been read", int(self.ready)),
        }

    def _cluster_changed(self, cluster: ClusterInfo) -> None:
        self.cluster = cluster
        self._publish()

    def _namespaces(self) -> tuple[str, ...] | None:
        return self.cluster.namespaces if self.ready else None

    def _agents_changed(self, agents: Agents) -> None:
        self.clients.publish_agents(agents)

    def _publish(self) -> None:
        if self.ready:
            values = self.client_config.values
            generation = next(self._generation)
            self.clients.publish(
                msgspec.structs.replace(self.cluster, generation=generation, client_config=values)
            )

    async def start(self, stack: AsyncExitStack) -> None:
        """Listen and begin to read the cluster; `stack` undoes it."""
        server = await serve_stream(loopback_listeners(CLIENT_PORT), self.clients.attach)
        stack.callback(server.close)
        stack.callback(self.clients.close)
        await self.source.start()
        stack.push_async_callback(self.source.close)
        stack.callback(self.client_config.start().cancel)
        await self.agents.start(stack)


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
