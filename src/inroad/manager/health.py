"""Health and metrics of the traffic-manager, for probes and Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from inroad.manager.main import Manager


class _Gauges(Collector):
    """What a manager has, read when somebody asks."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the gauges."""
        manager = self._manager
        for name, about, value in (
            ("clients", "connected workstations", len(manager.clients)),
            ("agents", "admitted traffic-agents", len(manager.agents)),
            ("subnets", "subnets of the cluster", len(manager.cluster.subnets)),
            ("ready", "1 once the cluster has been read", int(manager.ready)),
        ):
            yield GaugeMetricFamily(f"inroad_manager_{name}", about, value)


async def serve_health(manager: Manager, port: int) -> web.AppRunner:
    """Serve `/healthz` (the process lives), `/readyz` (the cluster has been read) and `/metrics`."""
    registry = CollectorRegistry()
    registry.register(_Gauges(manager))
    ProcessCollector(registry=registry)

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if manager.ready:
            return web.Response(text="ok\n")
        return web.Response(status=503, text="the cluster's nodes, pods and services are not read yet\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": "text/plain; version=0.0.4"}
        )

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port).start()
    return runner
