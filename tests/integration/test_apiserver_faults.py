"""What goes wrong on demand: each fault as a client meets it, and that it is over when it is cleared."""

from __future__ import annotations

import asyncio
import errno
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from apiserver_cluster import Cluster, pod

from inroad.sandbox.apiserver import Restricted, Restriction

LOOPS = ("asyncio", "uvloop")
PODS = "/api/v1/pods"


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as running:
        running.store.create("pods", pod("web"))
        yield running


async def status_of(cluster: Cluster, path: str = PODS) -> int:
    async with cluster.http.get(path) as answer:
        await answer.read()
        return answer.status


async def test_delay(cluster: Cluster) -> None:
    await cluster.server.faults.apply({"fault": "delay", "seconds": 0.2, "match": "list:pods", "count": 1})
    begin = time.monotonic()
    assert await status_of(cluster, "/api/v1/nodes") == 200
    assert time.monotonic() - begin < 0.15
    assert await status_of(cluster) == 200
    assert time.monotonic() - begin >= 0.2
    begin = time.monotonic()
    assert await status_of(cluster) == 200
    assert time.monotonic() - begin < 0.15


async def test_throttle_and_fail(cluster: Cluster) -> None:
    await cluster.server.faults.apply({"fault": "throttle", "retry_after": 3, "match": "*:pods"})
    async with cluster.http.get(PODS) as answer:
        body = await answer.json()
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
        assert (body["reason"], body["details"]["retryAfterSeconds"]) == ("TooManyRequests", 3)
    assert await status_of(cluster, "/api/v1/nodes") == 200
    await cluster.server.faults.apply({"fault": "clear"})
    await cluster.server.faults.apply({"fault": "fail", "code": 503})
    assert await status_of(cluster) == 503
    await cluster.server.faults.apply({"fault": "clear"})
    assert await status_of(cluster) == 200


async def watch(cluster: Cluster, since: int | None = None) -> aiohttp.ClientResponse:
    query = "" if since is None else f"&resourceVersion={since}"
    return await cluster.http.get(f"{PODS}?watch=1{query}")


async def event(response: aiohttp.ClientResponse) -> dict[str, Any]:
    return dict(json.loads(await asyncio.wait_for(response.content.readline(), 5)))


async def test_broken_watches_end_at_once(cluster: Cluster) -> None:
    pods, nodes = await watch(cluster), await cluster.http.get("/api/v1/nodes?watch=1")
    await event(pods)
    state = await cluster.server.faults.apply({"fault": "break", "match": "watch:pods"})
    assert state["ended"] == 1
    assert await asyncio.wait_for(pods.content.readline(), 5) == b""
    cluster.store.create("nodes", {"metadata": {"name": "n"}})
    assert (await event(nodes))["type"] == "ADDED"


async def test_a_stalled_watch_says_nothing_until_it_is_cleared(cluster: Cluster) -> None:
    response = await watch(cluster, cluster.store.rv)
    await cluster.server.faults.apply({"fault": "stall", "match": "watch:*"})
    cluster.store.create("pods", pod("late"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(response.content.readline(), 0.3)
    await cluster.server.faults.apply({"fault": "clear"})
    assert (await event(response))["object"]["metadata"]["name"] == "late"


async def test_expired_versions(cluster: Cluster) -> None:
    cluster.store.create("pods", pod("another"))
    async with cluster.http.get(f"{PODS}?limit=1") as answer:
        page = await answer.json()
    since = cluster.store.rv
    cluster.store.create("pods", pod("third"))
    await cluster.server.faults.apply({"fault": "expire"})
    response = await watch(cluster, since)
    gone = await event(response)
    assert (gone["type"], gone["object"]["code"], gone["object"]["reason"]) == ("ERROR", 410, "Expired")
    assert await response.content.readline() == b""
    async with cluster.http.get(f"{PODS}?limit=1&continue={page['metadata']['continue']}") as answer:
        gone = await answer.json()
        assert (answer.status, gone["reason"]) == (410, "Expired")
    # The answer has a token for those who would rather have an inconsistent list.
    async with cluster.http.get(f"{PODS}?continue={gone['metadata']['continue']}") as answer:
        rest = await answer.json()
        assert [one["metadata"]["name"] for one in rest["items"]] == ["third", "web"]


async def test_slow_answers(cluster: Cluster) -> None:
    async with cluster.http.get(PODS) as answer:
        size = len(await answer.read())
    await cluster.server.faults.apply({"fault": "slow", "bytes_per_second": size * 2})
    begin = time.monotonic()
    async with cluster.http.get(PODS) as answer:
        assert len(await answer.read()) == size
    assert 0.4 < time.monotonic() - begin < 2


async def test_reset_cuts_every_connection(cluster: Cluster) -> None:
    response = await watch(cluster)
    await event(response)
    await cluster.server.faults.apply({"fault": "reset"})
    with pytest.raises(aiohttp.ClientError):
        await asyncio.wait_for(response.content.readline(), 5)
    assert await status_of(cluster) == 200


async def test_hangup_cuts_port_forwards_alone(cluster: Cluster) -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    cluster.backends["default", "web", 7] = server.sockets[0].getsockname()[1]
    path = "/api/v1/namespaces/default/pods/web/portforward?ports=7"
    response = await watch(cluster)
    await event(response)
    async with cluster.http.ws_connect(path, protocols=["v4.channel.k8s.io"]) as forward:
        await forward.receive_bytes()
        await forward.receive_bytes()
        assert (await cluster.server.faults.apply({"fault": "hangup"}))["cut"] == 1
        assert (await asyncio.wait_for(forward.receive(), 5)).type != aiohttp.WSMsgType.BINARY
    cluster.store.create("pods", pod("late"))
    assert (await event(response))["object"]["metadata"]["name"] == "late"
    server.close()


async def test_refused_connections(cluster: Cluster) -> None:
    assert await status_of(cluster) == 200
    await cluster.server.faults.apply({"fault": "refuse"})
    assert await status_of(cluster) == 200  # connections that are there stay
    async with cluster.session() as other:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await other.get("/version")
        assert caught.value.errno == errno.ECONNREFUSED
        await cluster.server.faults.apply({"fault": "clear"})
        async with other.get("/version") as answer:
            assert answer.status == 200


async def test_restart(cluster: Cluster) -> None:
    since = cluster.store.rv
    cluster.store.create("pods", pod("another"))
    response = await watch(cluster, since)
    await event(response)
    await cluster.server.faults.apply({"fault": "restart", "seconds": 0.3})
    with pytest.raises(aiohttp.ClientError):
        await asyncio.wait_for(response.content.readline(), 5)
    async with cluster.session() as other:
        with pytest.raises(aiohttp.ClientConnectorError):
            await other.get("/version")
        async with asyncio.timeout(5):
            while cluster.server.faults.state()["refusing"]:
                await asyncio.sleep(0.02)
        async with other.get(f"{PODS}?watch=1&resourceVersion={since}") as answer:
            assert json.loads(await answer.content.readline())["object"]["code"] == 410
        async with other.get(PODS) as answer:
            assert len((await answer.json())["items"]) == 2  # objects outlive a server


async def test_administrators_switch_faults_over_http(cluster: Cluster) -> None:
    async with cluster.http.post("/debug/faults", json={"fault": "fail", "code": 500}) as answer:
        assert (await answer.json())["faults"] == [{"fault": "fail", "match": "*:*", "value": 500.0}]
    assert await status_of(cluster) == 500
    async with cluster.http.post("/debug/faults", json={"fault": "odd"}) as answer:
        assert answer.status == 400
    async with cluster.http.post("/debug/faults", json={"fault": "clear"}) as answer:
        assert answer.status == 200
    assert await status_of(cluster) == 200
    async with cluster.session("") as nobody, nobody.get("/debug/faults") as answer:
        assert answer.status == 403


async def test_restricted_rights() -> None:
    rights = Restricted(
        [Restriction.parse("list,watch:nodes"), Restriction.parse("*:pods/portforward:default")]
    )
    async with Cluster(authorizer=rights) as cluster:
        async with cluster.http.get("/api/v1/nodes") as answer:
            assert (answer.status, (await answer.json())["message"]) == (
                403,
                'nodes is forbidden: User "kubernetes-admin" cannot list resource "nodes" in API group "" '
                "at the cluster scope",
            )
        assert await status_of(cluster, "/api/v1/nodes/none") == 404
        async with cluster.http.get("/api/v1/namespaces/default/pods/web/portforward?ports=1") as answer:
            assert (answer.status, (await answer.json())["message"]) == (
                403,
                'pods "web" is forbidden: User "kubernetes-admin" cannot get resource "pods/portforward" '
                'in API group "" in the namespace "default"',
            )
        rights.restrictions.clear()
        assert await status_of(cluster, "/api/v1/nodes") == 200
