"""A stage for the Kubernetes side: the sandbox's API server on loopback, with a way to break its answers.

A `Fault` sits between client and API server as a TCP proxy would, but above TLS: it is asked before each
request and may answer in the server's place.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from inroad.kube.client import ApiClient
from inroad.kube.credentials import Credentials
from inroad.sandbox.apiserver import (
    ApiServer,
    Authenticator,
    CertificateAuthority,
    Restricted,
    Store,
    User,
    administrator,
    server_context,
)

TOKEN = "the-administrators-token"
Fault = Callable[[web.BaseRequest], Awaitable[web.StreamResponse | None]]
"""Returns an answer, or None to let the API server answer."""


class Stage:
    """A running API server; `faults` are asked in order before it is."""

    def __init__(self, **store: Any) -> None:
        self.store = Store(**({"service_cidrs": ("10.96.0.0/16",)} | store))
        self.ca = CertificateAuthority()
        self.tokens = Authenticator(self.store, {TOKEN: administrator(), "nobody": User("nobody")})
        self.rights = Restricted()
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.backends: dict[tuple[str, str, int], int] = {}
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self.server = _Faulty(self, listener)

    async def dial(self, namespace: str, pod: str, port: int) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        where = self.backends.get((namespace, pod, port), 1)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", where))
        return sock

    def credentials(self, **changes: Any) -> Credentials:
        values = {"server": self.url, "ca_pem": self.ca.pem.decode(), "token": TOKEN, "context": "stage"}
        return Credentials(**(values | changes))

    def client(self, **changes: Any) -> ApiClient:
        return ApiClient(self.credentials(**changes))

    async def __aenter__(self) -> Stage:
        await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.stop()


class _Faulty(ApiServer):
    def __init__(self, stage: Stage, listener: socket.socket) -> None:
        super().__init__(
            stage.store,
            dial_pod=stage.dial,
            sockets=[listener],
            tls=server_context(stage.ca.issue_server(["127.0.0.1", "kubernetes"]), stage.ca.pem),
            authenticator=stage.tokens,
            authorizer=stage.rights,
        )
        self._stage = stage

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._stage.requests.append(f"{request.method} {request.path_qs}")
        for fault in list(self._stage.faults):
            answer = await fault(request)
            if answer is not None:
                return answer
        return await super()._handle(request)


def pod(name: str, ip: str = "", **more: Any) -> dict[str, Any]:
    """A running pod with an address."""
    status: dict[str, Any] = {"phase": "Running"}
    if ip:
        status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
    spec = {"nodeName": "node-1", "containers": [{"name": "main", "image": "none"}]} | more
    return {"metadata": {"name": name}, "spec": spec, "status": status}


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for something to become true; an assertion failure when it does not."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
