"""The API server over real sockets: TLS, tokens, objects, watches, and port-forward into a pod."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator

import pytest
from apiserver_cluster import Cluster, pod


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as running:
        yield running


async def test_nobody_without_a_token(cluster: Cluster) -> None:
    async with cluster.http.get("/api/v1/pods", headers={"Authorization": "Bearer wrong"}) as answer:
        assert answer.status == 401
        assert (await answer.json())["reason"] == "Unauthorized"


async def test_an_object_from_create_to_delete(cluster: Cluster) -> None:
    http = cluster.http
    async with http.post("/api/v1/namespaces/default/pods", json=pod("web-1")) as answer:
        created = await answer.json()
        assert answer.status == 201
        assert created["metadata"]["uid"] and created["metadata"]["resourceVersion"]
    async with http.post("/api/v1/namespaces/default/pods", json=pod("web-1")) as answer:
        assert answer.status == 409
        assert (await answer.json())["reason"] == "AlreadyExists"
    async with http.get("/api/v1/pods?labelSelector=app=web-1") as answer:
        listed = await answer.json()
        assert [item["metadata"]["name"] for item in listed["items"]] == ["web-1"]
    async with http.delete("/api/v1/namespaces/default/pods/web-1?gracePeriodSeconds=0") as answer:
        assert answer.status == 200
    async with http.get("/api/v1/namespaces/default/pods/web-1") as answer:
        status = await answer.json()
        assert (answer.status, status["message"]) == (404, 'pods "web-1" not found')


async def test_a_watch_from_a_version_sees_what_came_after_it(cluster: Cluster) -> None:
    cluster.store.create("pods", pod("before"))
    since = cluster.store.rv
    cluster.store.create("pods", pod("after"))
    async with cluster.http.get(f"/api/v1/pods?watch=1&resourceVersion={since}") as answer:
        first = json.loads(await answer.content.readline())
        cluster.store.delete("pods", "after", "default", grace=0)
        second = json.loads(await answer.content.readline())
    assert (first["type"], first["object"]["metadata"]["name"]) == ("ADDED", "after")
    assert (second["type"], second["object"]["metadata"]["name"]) == ("DELETED", "after")


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


LOOPS = ("asyncio", "uvloop")
PORTFORWARD = "/api/v1/namespaces/default/pods/web/portforward"


async def test_port_forward_announces_ports_and_carries_bytes(cluster: Cluster, echo: int) -> None:
    cluster.store.create("pods", pod("web"))
    cluster.backends["default", "web", 7] = echo
    async with cluster.http.ws_connect(
        f"{PORTFORWARD}?ports=7&ports=9", protocols=["v4.channel.k8s.io"], max_msg_size=0
    ) as ws:
        assert ws.protocol == "v4.channel.k8s.io"
        announced = [await ws.receive_bytes() for _ in range(4)]
        assert sorted(announced) == [
            bytes((channel,)) + struct.pack("<H", port) for channel, port in ((0, 7), (1, 7), (2, 9), (3, 9))
        ]
        refused = await ws.receive_bytes()
        assert refused[0] == 3 and b"error forwarding port 9 to pod web" in refused
        sent = bytes(range(256)) * 8192
        for start in range(0, len(sent), 300_000):
            await ws.send_bytes(b"\0" + sent[start : start + 300_000])
        got = bytearray()
        while len(got) < len(sent):
            message = await ws.receive_bytes()
            assert message[0] == 0
            got += message[1:]
        assert bytes(got) == sent


async def test_port_forward_closes_when_the_pod_does(cluster: Cluster) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    cluster.store.create("pods", pod("web"))
    cluster.backends["default", "web", 7] = server.sockets[0].getsockname()[1]
    async with cluster.http.ws_connect(f"{PORTFORWARD}?ports=7", protocols=["v4.channel.k8s.io"]) as ws:
        messages = [message.data async for message in ws]
    assert messages[2:] == [b"\0bye"]
    assert ws.close_code == 1000
    server.close()
