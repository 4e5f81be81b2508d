"""A running API server with a client, and backends on the loopback in place of pods."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import aiohttp

from inroad.sandbox.apiserver import (
    ApiServer,
    Authenticator,
    CertificateAuthority,
    Store,
    administrator,
    kubeconfig,
    server_context,
    write_kubeconfig,
)
from inroad.sandbox.apiserver.rights import Authorizer

TOKEN = "the-administrators-token"
RANGES = ("10.96.0.0/16", "fd00:10:96::/112")


class Cluster:
    """The server on 127.0.0.1; `backends` says which port of the loopback answers for a pod's port."""

    def __init__(self, store: Store | None = None, authorizer: Authorizer | None = None) -> None:
        self.store = store or Store(service_cidrs=RANGES)
        self.ca = CertificateAuthority()
        listener = bound_listener()
        self.url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        self.backends: dict[tuple[str, str, int], int] = {}
        self.authenticator = Authenticator(self.store, {TOKEN: administrator()})
        self.server = ApiServer(
            self.store,
            dial_pod=self.dial,
            sockets=[listener],
            tls=server_context(self.ca.issue_server(["127.0.0.1", "kubernetes"]), self.ca.pem),
            authenticator=self.authenticator,
            authorizer=authorizer,
        )
        self.http: aiohttp.ClientSession

    async def dial(self, namespace: str, pod: str, port: int) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        where = self.backends.get((namespace, pod, port), 1)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", where))
        except BaseException:
            sock.close()
            raise
        return sock

    def session(self, token: str = TOKEN) -> aiohttp.ClientSession:
        trust = ssl.create_default_context(cadata=self.ca.pem.decode())
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return aiohttp.ClientSession(
            self.url, connector=aiohttp.TCPConnector(ssl=trust), headers=headers, read_bufsize=1 << 20
        )

    def kubeconfig(self, directory: Path, token: str = TOKEN) -> Path:
        path = directory / "kubeconfig"
        write_kubeconfig(path, kubeconfig(self.url, self.ca.pem, token=token))
        return path

    async def __aenter__(self) -> Cluster:
        await self.server.start()
        self.http = self.session()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()
        await self.server.stop()


def bound_listener() -> socket.socket:
    """A socket bound to a free port by its number: only then does it keep the port while it refuses."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener


def pod(name: str, node: str = "node-1", **labels: str) -> dict[str, object]:
    return {
        "metadata": {"name": name, "labels": labels or {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
    }
