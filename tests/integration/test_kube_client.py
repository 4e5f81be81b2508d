"""The client against the sandbox's API server: requests, errors, renewal, port-forward."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from kube_stage import TOKEN, Stage, pod

from inroad.core.errors import ApiCertificate, ApiUnreachable, CredentialsRejected, Forbidden
from inroad.kube.client import CONNECT_TIMEOUT, ApiClient
from inroad.kube.credentials import Credentials
from inroad.kube.failures import ApiStatus
from inroad.kube.portforward import port_forward
from inroad.kube.upgrade import Upgraded
from inroad.sandbox.apiserver import CertificateAuthority, Restriction, administrator
from inroad.tunnel import websocket_frames


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with Stage() as running:
        yield running


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[ApiClient]:
    opened = stage.client()
    yield opened
    await opened.close()


async def test_create_list_in_pages_and_delete(stage: Stage, client: ApiClient) -> None:
    for number in range(1_203):
        stage.store.create("pods", pod(f"p{number:04}"))
    found = await client.list_all("/api/v1/pods", kind=dict)
    assert [item["metadata"]["name"] for item in found] == [f"p{number:04}" for number in range(1_203)]
    assert sum("limit=500" in request for request in stage.requests) == 3
    await client.create("/api/v1/namespaces/default/pods", pod("new"))
    with pytest.raises(ApiStatus) as caught:
        await client.create("/api/v1/namespaces/default/pods", pod("new"))
    assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")
    await client.delete("/api/v1/namespaces/default/pods/new", {"gracePeriodSeconds": "0"})
    with pytest.raises(ApiStatus, match='404 to get pods in namespace default: pods "new" not found'):
        await client.get("/api/v1/namespaces/default/pods/new")


async def test_a_right_that_is_missing_is_named_with_the_question_to_ask(
    stage: Stage, client: ApiClient
) -> None:
    stage.rights.restrictions.append(Restriction(("list",), ("pods", "servicecidrs.networking.k8s.io")))
    with pytest.raises(Forbidden) as caught:
        await client.get("/api/v1/namespaces/shop/pods")
    assert caught.value.message.startswith("not allowed to list pods in namespace shop: ")
    assert caught.value.remedy.endswith("kubectl auth can-i list pods -n shop")
    with pytest.raises(Forbidden, match=r"kubectl auth can-i list servicecidrs\.networking\.k8s\.io$"):
        await client.get("/apis/networking.k8s.io/v1/servicecidrs")


async def test_credentials_that_are_not_accepted(stage: Stage) -> None:
    client = stage.client(token="wrong")
    with pytest.raises(CredentialsRejected, match=stage.url):
        await client.get("/api/v1/pods")
    await client.close()


async def test_a_401_fetches_new_credentials_once_for_everybody(stage: Stage) -> None:
    fetched = 0

    async def refresh() -> Credentials:
        nonlocal fetched
        fetched += 1
        return stage.credentials()

    client = ApiClient(stage.credentials(token="expired"), refresh=refresh)
    await asyncio.gather(*(client.get("/api/v1/pods") for _ in range(5)))
    assert fetched == 1
    stage.tokens.tokens = {}
    with pytest.raises(CredentialsRejected):
        await client.get("/api/v1/pods")
    assert fetched == 2
    await client.close()


async def test_credentials_about_to_expire_are_not_sent(stage: Stage) -> None:
    async def refresh() -> Credentials:
        return stage.credentials(expiry=int(time.time()) + 3600)

    client = ApiClient(stage.credentials(token="old", expiry=int(time.time()) + 5), refresh=refresh)
    await client.get("/api/v1/pods")
    assert len(stage.requests) == 1
    await client.close()


async def test_client_certificates_and_their_renewal(stage: Stage) -> None:
    def pair(name: str) -> dict[str, str]:
        made = stage.ca.issue_client(name, ["system:masters"])
        return {
            "client_cert_pem": made.certificate.decode(),
            "client_key_pem": made.key.decode(),
            "token": "",
        }

    async def refresh() -> Credentials:
        return stage.credentials(**pair("second"))

    client = ApiClient(stage.credentials(token="wrong"), refresh=refresh)
    assert b'"PodList"' in await client.get("/api/v1/pods")
    await client.close()


async def test_a_server_nobody_answers_for_and_one_that_does_not_speak_tls(stage: Stage) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = stage.client(server=f"https://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(ApiUnreachable, match="is not reachable: connection refused"):
            await client.get("/version")
        await client.close()
    client = stage.client(server="https://no-such-host.invalid:6443")
    with pytest.raises(ApiUnreachable, match="its name does not resolve"):
        await client.get("/version")
    await client.close()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    client = stage.client(server=f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(ApiCertificate, match=r"TLS with the API server .* failed"):
        await client.get("/version")
    await client.close()
    server.close()


@pytest.mark.parametrize(
    "changes", [{"ca_pem": CertificateAuthority().pem.decode()}, {"ca_pem": ""}, {"tls_server_name": "other"}]
)
async def test_a_certificate_of_somebody_else(stage: Stage, changes: dict[str, str]) -> None:
    client = stage.client(**changes)
    with pytest.raises(ApiCertificate, match="is not accepted: "):
        await client.get("/version")
    await client.close()


async def test_a_name_for_tls_and_no_check_at_all(stage: Stage) -> None:
    for changes in ({"tls_server_name": "kubernetes"}, {"ca_pem": "", "insecure": True}):
        client = stage.client(**changes)
        assert b"gitVersion" in await client.get("/version")
        await client.close()


@pytest.mark.parametrize("changes", [{"ca_pem": "nonsense"}, {"client_cert_pem": "x", "client_key_pem": "y"}])
async def test_pem_that_is_none(stage: Stage, changes: dict[str, str]) -> None:
    with pytest.raises(CredentialsRejected, match="of the kubeconfig is not usable"):
        stage.client(**changes)


async def test_server_addresses_are_those_resolved_and_those_used(stage: Stage, client: ApiClient) -> None:
    assert await client.server_addresses() == ("127.0.0.1",)
    named = stage.client(server=f"https://localhost:{stage.port}", tls_server_name="127.0.0.1")
    await named.get("/version")
    assert "127.0.0.1" in await named.server_addresses()
    await named.close()


async def test_a_proxy_is_used_and_its_failure_is_its_own(stage: Stage) -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    client = stage.client(proxy_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(ApiUnreachable, match="the proxy on the way"):
        await client.get("/version")
    assert asked[0].startswith(f"CONNECT 127.0.0.1:{stage.port}".encode())
    await client.close()
    server.close()


async def test_a_pod_reads_its_renewed_token(stage: Stage, tmp_path: Path) -> None:
    for name, text in (("token", TOKEN), ("ca.crt", stage.ca.pem.decode()), ("namespace", "inroad")):
        (tmp_path / name).write_text(text)
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(stage.port)}
    client = ApiClient.in_cluster(tmp_path, environ)
    await client.get("/api/v1/pods")
    stage.tokens.tokens = {"second": administrator()}
    (tmp_path / "token").write_text("second\n")
    await client.get("/api/v1/pods")
    assert (client.credentials.token, client.credentials.namespace) == ("second", "inroad")
    await client.close()
    with pytest.raises(CredentialsRejected, match="no service account is mounted"):
        ApiClient.in_cluster(tmp_path / "nowhere", environ)


class Peer(asyncio.Protocol):
    """Reads an upgraded connection: the bytes of each channel, and the WebSocket's own frames."""

    def __init__(self, upgraded: Upgraded) -> None:
        self.upgraded = upgraded
        self.channels: dict[int, bytes] = {}
        self.closed: list[tuple[int, bytes]] = []
        self.over = False
        self.changed = asyncio.Event()
        self.reader = websocket_frames.Reader(self)
        self.transport, rest = upgraded.take(self)
        self.data_received(rest)

    def data_received(self, data: bytes) -> None:
        self.reader.receive(memoryview(data))
        self.changed.set()

    def payload(self, data: memoryview, begin: int, end: int, start: bool) -> None:
        if start:
            self.channel = data[begin]
        channels = self.channels
        channels[self.channel] = channels.get(self.channel, b"") + data[begin + start : end]

    def control(self, opcode: int, payload: bytes) -> None:
        self.closed.append((opcode, payload))

    def connection_lost(self, exc: Exception | None) -> None:
        self.over = True
        self.upgraded.ended(exc)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


async def test_a_port_forward_carries_bytes_both_ways(stage: Stage, client: ApiClient) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    backend = await asyncio.start_server(echo, "127.0.0.1", 0)
    stage.store.create("pods", pod("manager", "10.244.1.2"))
    stage.backends["default", "manager", 15701] = backend.sockets[0].getsockname()[1]
    peer = Peer(await port_forward(client, "default", "manager", 15701))
    await peer.until(lambda: len(peer.channels) == 2)
    port = struct.pack("<H", 15701)
    assert peer.channels == {0: port, 1: port}
    payload = bytes(range(256)) * 40_000
    peer.transport.write(websocket_frames.frame((b"\0", payload), b"\1\2\3\4"))
    await peer.until(lambda: len(peer.channels[0]) == len(port + payload))
    assert peer.channels[0] == port + payload
    peer.transport.write(websocket_frames.frame((b"\3\xe8",), b"\1\2\3\4", websocket_frames.CLOSE))
    await peer.until(lambda: peer.closed == [(websocket_frames.CLOSE, b"\3\xe8")])
    peer.transport.close()
    await peer.until(lambda: peer.over)
    await client.get("/api/v1/pods")  # the pool of connections is as it was
    backend.close()


async def test_a_port_forward_without_the_right_or_the_pod(stage: Stage, client: ApiClient) -> None:
    with pytest.raises(ApiStatus, match='pods "gone" not found') as missing:
        await port_forward(client, "default", "gone", 15701)
    assert missing.value.status == 404
    stage.store.create("pods", pod("manager", "10.244.1.2"))
    stage.rights.restrictions.append(Restriction(("*",), ("pods/portforward",)))
    with pytest.raises(Forbidden) as caught:
        await port_forward(client, "default", "manager", 15701)
    assert "no right to port-forward to pod manager" in caught.value.message
    assert "kubectl auth can-i create pods/portforward -n default" in caught.value.remedy


async def test_an_answer_that_is_no_kubernetes_status(stage: Stage, client: ApiClient) -> None:
    async def gateway(request: web.BaseRequest) -> web.Response:
        return web.Response(status=502, text="<html>Bad Gateway</html>")

    stage.faults.append(gateway)
    with pytest.raises(ApiStatus, match="answered 502 to get /version: <html>Bad Gateway</html>"):
        await client.get("/version")


async def test_a_busy_server_is_asked_again_when_it_says_so(stage: Stage, client: ApiClient) -> None:
    async def busy(request: web.BaseRequest) -> web.Response | None:
        if len(stage.requests) < 3:
            return web.json_response({"code": 429}, status=429, headers={"Retry-After": "1"})
        return None

    stage.faults.append(busy)
    assert b"gitVersion" in await client.get("/version")
    assert len(stage.requests) == 3

    async def away(request: web.BaseRequest) -> web.Response:
        return web.json_response({"code": 503}, status=503, headers={"Retry-After": "60"})

    stage.faults[:] = [away]
    with pytest.raises(ApiStatus, match="503"):
        await client.get("/version")
    assert len(stage.requests) == 4


async def test_a_server_that_does_not_answer_is_given_up_after_the_configured_time() -> None:
    """Its queue of connections is full, so that the kernel drops what comes: nobody refuses."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        client = ApiClient(Credentials(server=f"http://127.0.0.1:{full.getsockname()[1]}"), patience=0.3)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT - 1):
                with pytest.raises(ApiUnreachable):
                    await client.get("/version")
        finally:
            await client.close()
            for sock in waiting:
                sock.close()
