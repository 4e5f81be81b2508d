"""Health and metrics of the traffic-manager, for probes and Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

Gauges = Callable[[], Mapping[str, tuple[str, float]]]
"""Returns (what it is, its value) by name, at the moment of asking; `ready` is 1 once the cluster is read."""


class _Gauges(Collector):
    """What a manager has, read when somebody asks."""

    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the gauges."""
        for name, (about, value) in self._gauges().items():
            yield GaugeMetricFamily(f"inroad_manager_{name}", about, value)


async def serve_health(gauges: Gauges, port: int) -> web.AppRunner:
    """Serve `/healthz` (the process lives), `/readyz` (the cluster has been read) and `/metrics`."""
    registry = CollectorRegistry()
    registry.register(_Gauges(gauges))
    ProcessCollector(registry=registry)

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if gauges()["ready"][1]:
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
