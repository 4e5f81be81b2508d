"""The real kubectl and its port-forward, in both ways in which it speaks SPDY; and client certificates."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from apiserver_cluster import Cluster, pod

from inroad.sandbox.apiserver import Rbac, Store

LOOPS = ("asyncio", "uvloop")
KUBECTL = shutil.which("kubectl", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
needs_kubectl = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")
SIZE = 8 * 1024 * 1024


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as running:
        running.store.create("pods", pod("web") | {"status": {"phase": "Running"}})
        yield running


@asynccontextmanager
async def backend(cluster: Cluster, port: int) -> AsyncIterator[None]:
    """A server in the place of the pod's port: it sends back what it gets, then says how much that was."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        total = 0
        while total < SIZE and (data := await reader.read(65536)):
            total += len(data)
            writer.write(data)
            await writer.drain()
        writer.write(b"%d" % total)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    cluster.backends["default", "web", port] = server.sockets[0].getsockname()[1]
    yield
    server.close()


@asynccontextmanager
async def forwarded(config: Path, websockets: bool, *ports: int) -> AsyncIterator[dict[int, int]]:
    """Run `kubectl port-forward`; yield the local port for each port."""
    assert KUBECTL
    process = await asyncio.create_subprocess_exec(
        KUBECTL,
        f"--kubeconfig={config}",
        "port-forward",
        "--address=127.0.0.1",
        "pod/web",
        *(f":{port}" for port in ports),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            "HOME": str(config.parent),
            "KUBECTL_PORT_FORWARD_WEBSOCKETS": "true" if websockets else "false",
        },
    )
    assert process.stdout
    local = {}
    try:
        for _ in ports:
            line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
            found = re.match(r"Forwarding from 127.0.0.1:(\d+) -> (\d+)", line)
            assert found, line
            local[int(found[2])] = int(found[1])
        yield local
    finally:
        process.kill()
        await process.communicate()


@needs_kubectl
@pytest.mark.parametrize("websockets", [True, False])
async def test_port_forward(cluster: Cluster, tmp_path: Path, websockets: bool) -> None:
    config = cluster.kubeconfig(tmp_path)
    sent = os.urandom(SIZE)

    async def exchange(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        got = await reader.read(-1)
        writer.close()
        return got

    async with backend(cluster, 7), forwarded(config, websockets, 7) as local:
        for got in await asyncio.wait_for(asyncio.gather(*(exchange(local[7]) for _ in range(3))), 60):
            assert got == sent + b"%d" % SIZE


@needs_kubectl
async def test_a_refused_port_is_told(cluster: Cluster, tmp_path: Path) -> None:
    async with forwarded(cluster.kubeconfig(tmp_path), True, 9) as local:
        reader, writer = await asyncio.open_connection("127.0.0.1", local[9])
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_client_certificates(tmp_path: Path) -> None:
    store = Store()
    async with Cluster(store, Rbac(store)) as cluster:
        for groups, status in ((["system:masters"], 200), (["developers"], 403)):
            pair = cluster.ca.issue_client("jane", groups)
            trust = ssl.create_default_context(cadata=cluster.ca.pem.decode())
            with tempfile.NamedTemporaryFile() as file:
                file.write(pair.certificate + pair.key)
                file.flush()
                trust.load_cert_chain(file.name)
            connector = aiohttp.TCPConnector(ssl=trust)
            async with (
                aiohttp.ClientSession(cluster.url, connector=connector) as http,
                http.get("/api/v1/pods") as answer,
            ):
                body = await answer.json()
                assert answer.status == status
        assert body["message"].startswith('pods is forbidden: User "jane" cannot list resource "pods"')


async def test_anonymous_users_see_health_and_version_only(cluster: Cluster) -> None:
    async with cluster.session("") as http:
        for path, status in (("/healthz", 200), ("/version", 200), ("/api/v1/pods", 403), ("/api", 403)):
            async with http.get(path) as answer:
                assert answer.status == status, path
        async with http.get("/metrics") as answer:
            message = (await answer.json())["message"]
            assert message == 'forbidden: User "system:anonymous" cannot get path "/metrics"'


async def test_a_stranger_with_a_certificate_of_another_ca(cluster: Cluster) -> None:
    async with Cluster() as other:
        pair = other.ca.issue_client("jane", ["system:masters"])
    trust = ssl.create_default_context(cadata=cluster.ca.pem.decode())
    with tempfile.NamedTemporaryFile() as file:
        file.write(pair.certificate + pair.key)
        file.flush()
        trust.load_cert_chain(file.name)
    async with aiohttp.ClientSession(cluster.url, connector=aiohttp.TCPConnector(ssl=trust)) as http:
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            async with http.get("/version") as answer:
                await answer.read()
