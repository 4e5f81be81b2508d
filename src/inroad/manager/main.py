"""The traffic-manager: watches the cluster, answers lookups, dials; one Deployment per cluster.

All wiring is here: the Kubernetes watches (`cluster_info`) feed the clients (`clients`), whose flows
and lookups are served from this pod (`origin`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import AsyncExitStack

import structlog
from aiohttp import web

from inroad import logs
from inroad.core.errors import InroadError
from inroad.kube.client import ApiClient
from inroad.manager.clients import Clients
from inroad.manager.cluster_info import ClusterInfoSource
from inroad.origin.dial import Dialler
from inroad.origin.lookup import LookupService
from inroad.tunnel.stream import serve_stream

CLIENT_PORT = 15701
"""Loopback only: the one way to it is the API server's port-forward, guarded by RBAC."""
HEALTH_PORT = 15702

log = structlog.get_logger()


def loopback_listeners(port: int) -> list[socket.socket]:
    """Listen on 127.0.0.1 and, where the pod has IPv6, ::1; raises OSError when neither works."""
    listeners = [_listen(socket.AF_INET, "127.0.0.1", port)]
    try:
        listeners.append(_listen(socket.AF_INET6, "::1", port))
    except OSError as error:
        log.info("no IPv6 loopback here", error=str(error))
    return listeners


def _listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.listen(128)
    return listener


async def serve_health(clients: Clients, source: ClusterInfoSource, port: int) -> web.AppRunner:
    """Serve `/healthz` (the process lives) and `/readyz` (the cluster has been read)."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if clients.cluster.generation:
            return web.Response(text="ok\n")
        return web.Response(status=503, text="the cluster's nodes, pods and services are not read yet\n")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port).start()
    return runner


async def serve() -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        client = ApiClient.in_cluster()
        stack.push_async_callback(client.close)
        lookups = LookupService()
        clients = Clients(pod=socket.gethostname(), dialler=Dialler(), answer=lookups.answer)
        source = ClusterInfoSource(client, on_change=clients.publish, on_names=clients.names_changed)
        health = await serve_health(clients, source, HEALTH_PORT)
        stack.push_async_callback(health.cleanup)
        server = await serve_stream(loopback_listeners(CLIENT_PORT), clients.attach)
        stack.callback(server.close)
        stack.callback(clients.close)
        await source.start()
        stack.push_async_callback(source.close)
        log.info("traffic-manager serves", port=CLIENT_PORT, namespace=os.environ.get("POD_NAMESPACE", ""))
        await stop.wait()


def main(argv: list[str]) -> int:
    """Run the traffic-manager; returns the exit status."""
    import uvloop  # noqa: PLC0415 - only the long-running programs pay for it

    del argv
    logs.configure(verbose=os.environ.get("LOG_LEVEL", "").lower() == "debug")
    try:
        uvloop.run(serve())
    except InroadError as error:
        log.error(str(error), code=error.code)
        return error.exit_code
    return 0
