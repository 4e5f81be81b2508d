"""The size that the server must bear: 100,000 pods and 5,000 nodes, and 1,000 events a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest
from apiserver_cluster import Cluster

from inroad.sandbox.apiserver import Store
from inroad.sandbox.apiserver.synthetic import populate

LOOPS = ("uvloop",)
PODS, NODES = 100_000, 5_000


class Metadata(msgspec.Struct, rename={"continue_": "continue"}):
    """What the test reads of a list or an object."""

    name: str = ""
    continue_: str = ""


class Item(msgspec.Struct):
    """One object."""

    metadata: Metadata


class Page(msgspec.Struct):
    """One page of a list."""

    metadata: Metadata
    items: list[Item]


PAGE = msgspec.json.Decoder(Page)
SECONDS = 30.0
"""What a full list may take on a small, shared machine; a quiet one needs half a second."""


@pytest.fixture(scope="module")
def store() -> Store:
    store = Store()
    populate(store, NODES, PODS)
    return store


@pytest.fixture
async def cluster(store: Store) -> AsyncIterator[Cluster]:
    async with Cluster(store) as running:
        yield running


async def test_a_full_list(cluster: Cluster) -> None:
    begin = time.monotonic()
    for path, count in (("/api/v1/pods", PODS), ("/api/v1/nodes", NODES)):
        found = 0
        async with cluster.http.get(path) as answer:
            rest = b""
            async for data in answer.content.iter_any():
                found += (rest + data).count(b'"uid":"') - rest.count(b'"uid":"')
                rest = data[-6:]
        assert found >= count  # owner references have a uid too
    assert time.monotonic() - begin < SECONDS


async def test_a_list_in_pages(cluster: Cluster) -> None:
    begin = time.monotonic()
    names: set[str] = set()
    token = ""
    while True:
        async with cluster.http.get(f"/api/v1/pods?limit=5000&continue={token}") as answer:
            page = PAGE.decode(await answer.read())
        names.update(item.metadata.name for item in page.items)
        token = page.metadata.continue_
        if not token:
            break
    assert len(names) == PODS
    assert time.monotonic() - begin < SECONDS


async def test_selected_lists_do_not_read_everything_twice(cluster: Cluster) -> None:
    for query, count in (
        ("fieldSelector=spec.nodeName%3Dsynthetic-7", PODS // NODES),
        ("labelSelector=app%3Dworkload-3", 10),
    ):
        begin = time.monotonic()
        async with cluster.http.get(f"/api/v1/pods?{query}") as answer:
            assert len((await answer.json())["items"]) == count
        assert time.monotonic() - begin < 5


async def test_a_thousand_events_a_second_to_several_watchers(cluster: Cluster, store: Store) -> None:
    events, watchers, since = 3000, 3, store.rv

    async def follow() -> None:
        seen = 0
        timeout = aiohttp.ClientTimeout(total=None)
        async with cluster.http.get(
            f"/api/v1/pods?watch=1&resourceVersion={since}", timeout=timeout
        ) as answer:
            while seen < events:
                seen += (await answer.content.readany()).count(b"}\n")

    tasks = [asyncio.ensure_future(follow()) for _ in range(watchers)]
    begin = time.monotonic()
    for number in range(events):
        store.modify(
            "pods",
            f"synthetic-{number}",
            f"synthetic-{number // 1000}",
            lambda pod: pod["status"].update(message="changed"),
            subresource="status",
        )
        if number % 50 == 49:
            await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*tasks), SECONDS)
    assert events / (time.monotonic() - begin) > 1000
