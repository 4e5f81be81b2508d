"""Lists and watches: versions, pages, selectors, bookmarks, tables, and what is too old.

From kubernetes.io/docs/reference/using-api/api-concepts.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from api_target import Api, Json, api, matches

__all__ = ["api"]

MAPS = "/api/v1/namespaces/{ns}/configmaps"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PARTIAL = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
OURS = "conformance=yes"


def config(name: str, **labels: str) -> Json:
    return {"metadata": {"name": name, "labels": {"conformance": "yes", **labels}}, "data": {"name": name}}


async def make(api: Api, *names: str, **labels: str) -> None:
    for name in names:
        status, answer = await api.ask("POST", MAPS, config(name, **labels))
        assert status == 201, answer


def names(answer: Json) -> list[str]:
    return [item["metadata"]["name"] for item in answer["items"]]


async def test_a_list_is_in_the_order_of_names_and_has_a_version(api: Api) -> None:
    await make(api, "b", "a-1", "a", "a.b", "a1")
    status, answer = await api.ask("GET", f"{MAPS}?labelSelector={OURS}")
    assert (status, answer["kind"], answer["apiVersion"]) == (200, "ConfigMapList", "v1")
    assert names(answer) == ["a", "a-1", "a.b", "a1", "b"]
    assert re.fullmatch(r"\d+", answer["metadata"]["resourceVersion"])
    newest = max(int(one["metadata"]["resourceVersion"]) for one in answer["items"])
    assert int(answer["metadata"]["resourceVersion"]) >= newest


async def test_pages_are_one_version_of_the_world(api: Api) -> None:
    await make(api, "a", "b", "c", "d", "e")
    _, first = await api.ask("GET", f"{MAPS}?limit=2&labelSelector={OURS}")
    await make(api, "aa", "bb")
    await api.ask("DELETE", f"{MAPS}/d")
    version, token = first["metadata"]["resourceVersion"], first["metadata"]["continue"]
    _, second = await api.ask("GET", f"{MAPS}?limit=2&labelSelector={OURS}&continue={token}")
    token = second["metadata"]["continue"]
    _, third = await api.ask("GET", f"{MAPS}?limit=2&labelSelector={OURS}&continue={token}")
    assert [names(page) for page in (first, second, third)] == [["a", "b"], ["c", "d"], ["e"]]
    assert third["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"] == version
    assert not third["metadata"].get("continue")


async def test_the_rest_is_counted_when_nothing_is_selected(api: Api) -> None:
    await make(api, "a", "b", "c")
    _, everything = await api.ask("GET", MAPS)
    _, page = await api.ask("GET", f"{MAPS}?limit=1")
    assert page["metadata"]["remainingItemCount"] == len(everything["items"]) - 1
    _, page = await api.ask("GET", f"{MAPS}?limit=1&labelSelector={OURS}")
    assert "remainingItemCount" not in page["metadata"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (f"labelSelector={OURS}", ["a", "b", "c"]),
        ("labelSelector=tier%3Dfront", ["a"]),
        ("labelSelector=tier", ["a", "b"]),
        (f"labelSelector={OURS},!tier", ["c"]),
        (f"labelSelector={OURS},tier%21%3Dfront", ["b", "c"]),
        ("labelSelector=tier+in+(front,back)", ["a", "b"]),
        (f"labelSelector={OURS},tier+notin+(front)", ["b", "c"]),
        ("fieldSelector=metadata.name%3Db", ["b"]),
        (f"labelSelector={OURS}&fieldSelector=metadata.name%21%3Db", ["a", "c"]),
    ],
)
async def test_selectors(api: Api, query: str, found: list[str]) -> None:
    await make(api, "a", tier="front")
    await make(api, "b", tier="back")
    await make(api, "c")
    _, answer = await api.ask("GET", f"{MAPS}?{query}")
    assert names(answer) == found


@pytest.mark.parametrize(
    ("query", "status", "reason", "text"),
    [
        ("labelSelector=a+b", 400, "BadRequest", "unable to parse requirement"),
        ("fieldSelector=data.x%3Dy", 400, "BadRequest", "is not a known field selector: only"),
        ("continue=nonsense", 400, "BadRequest", "continue"),
        ("resourceVersionMatch=Exact", 422, "Invalid", "resourceVersionMatch is forbidden unless"),
    ],
)
async def test_what_is_refused(api: Api, query: str, status: int, reason: str, text: str) -> None:
    got, answer = await api.ask("GET", f"{MAPS}?{query}")
    assert (got, answer["reason"]) == (status, reason), answer
    assert text in answer["message"]


async def test_a_version_that_does_not_exist_yet(api: Api) -> None:
    status, answer = await api.ask("GET", f"{MAPS}?resourceVersion=99999999999")
    assert (status, answer["reason"]) == (504, "Timeout")
    assert "Too large resource version: 99999999999, current:" in answer["message"]


async def test_tables(api: Api) -> None:
    await make(api, "a")
    _, table = await api.ask("GET", f"{MAPS}?labelSelector={OURS}", Accept=TABLE)
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert table["rows"][0]["cells"][:2] == ["a", 1]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    _, table = await api.ask("GET", f"{MAPS}/a?includeObject=Object", Accept=TABLE)
    assert table["rows"][0]["object"]["data"] == {"name": "a"}
    _, partial = await api.ask("GET", f"{MAPS}?labelSelector={OURS}", Accept=PARTIAL)
    assert partial["kind"] == "PartialObjectMetadataList"
    assert names(partial) == ["a"] and "data" not in partial["items"][0]


async def test_discovery(api: Api) -> None:
    _, versions = await api.ask("GET", "/api")
    assert "v1" in versions["versions"]
    _, core = await api.ask("GET", "/api/v1")
    listed = {one["name"]: one for one in core["resources"]}
    wanted = {"kind": "Pod", "namespaced": True, "singularName": "pod", "shortNames": ["po"]}
    assert matches(listed["pods"], wanted)
    assert {"get", "list", "watch", "create", "update", "patch", "delete"} <= set(listed["pods"]["verbs"])
    assert {"get", "create"} <= set(listed["pods/portforward"]["verbs"])
    _, groups = await api.ask("GET", "/apis")
    assert {"apps", "discovery.k8s.io", "rbac.authorization.k8s.io"} <= {
        one["name"] for one in groups["groups"]
    }
    _, apps = await api.ask("GET", "/apis/apps/v1")
    assert "deployments/scale" in {one["name"] for one in apps["resources"]}
    _, version = await api.ask("GET", "/version")
    assert version["gitVersion"].startswith(f"v{version['major']}.")


class Events:
    """A running watch."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> tuple[str, Json]:
        """Return the next event that is no bookmark; ('', {}) at the end."""
        while True:
            line = await asyncio.wait_for(self.response.content.readline(), 20)
            if not line:
                return "", {}
            event = json.loads(line)
            if event["type"] != "BOOKMARK":
                return event["type"], event["object"]


async def watch(api: Api, query: str, **headers: str) -> AsyncIterator[Events]:
    path = api.text(f"{MAPS}?watch=1&{query}")
    async with api.http.get(path, headers=headers) as response:
        assert response.status == 200
        yield Events(response)


async def version(api: Api) -> str:
    _, answer = await api.ask("GET", f"{MAPS}?labelSelector={OURS}")
    return str(answer["metadata"]["resourceVersion"])


async def test_a_watch_from_a_version(api: Api) -> None:
    await make(api, "before")
    since = await version(api)
    await make(api, "a")
    async for events in watch(api, f"resourceVersion={since}&labelSelector={OURS}"):
        kind, added = await events.next()
        assert (kind, added["metadata"]["name"]) == ("ADDED", "a")
        await api.ask("PUT", f"{MAPS}/a", config("a", tier="front"))
        kind, changed = await events.next()
        assert (kind, changed["metadata"]["labels"]["tier"]) == ("MODIFIED", "front")
        await api.ask("DELETE", f"{MAPS}/a")
        kind, deleted = await events.next()
        assert (kind, deleted["kind"], deleted["data"]) == ("DELETED", "ConfigMap", {"name": "a"})
        assert int(deleted["metadata"]["resourceVersion"]) > int(changed["metadata"]["resourceVersion"])


async def test_a_watch_without_a_version_begins_with_what_is_there(api: Api) -> None:
    await make(api, "a", "b")
    async for events in watch(api, f"labelSelector={OURS}"):
        seen = {(kind, obj["metadata"]["name"]) for kind, obj in [await events.next(), await events.next()]}
        assert seen == {("ADDED", "a"), ("ADDED", "b")}


async def test_an_object_enters_and_leaves_a_selected_watch(api: Api) -> None:
    await make(api, "a", tier="back")
    since = await version(api)
    async for events in watch(api, f"resourceVersion={since}&labelSelector=tier%3Dfront"):
        await api.ask("PUT", f"{MAPS}/a", config("a", tier="front"))
        assert (await events.next())[0] == "ADDED"
        await api.ask("PUT", f"{MAPS}/a", config("a", tier="front", x="y"))
        assert (await events.next())[0] == "MODIFIED"
        await api.ask("PUT", f"{MAPS}/a", config("a", tier="back"))
        assert (await events.next())[0] == "DELETED"


async def test_a_watch_of_one_name(api: Api) -> None:
    since = await version(api)
    async for events in watch(api, f"resourceVersion={since}&fieldSelector=metadata.name%3Db"):
        await make(api, "a", "b")
        kind, obj = await events.next()
        assert (kind, obj["metadata"]["name"]) == ("ADDED", "b")


async def test_a_watch_ends_at_its_time(api: Api) -> None:
    since = await version(api)
    ours = f"labelSelector={OURS}"  # a controller puts kube-root-ca.crt into every new namespace
    async for events in watch(api, f"resourceVersion={since}&timeoutSeconds=1&{ours}"):
        assert await events.next() == ("", {})


async def test_a_streamed_list_ends_with_a_bookmark(api: Api) -> None:
    await make(api, "a", "b")
    query = "sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    path = api.text(f"{MAPS}?watch=1&{query}&labelSelector={OURS}&timeoutSeconds=10")
    async with api.http.get(path) as response:
        seen: list[Any] = []
        while not seen or seen[-1]["type"] != "BOOKMARK":
            seen.append(json.loads(await response.content.readline()))
    assert [(one["type"], one["object"]["metadata"].get("name", "")) for one in seen[:2]] == [
        ("ADDED", "a"),
        ("ADDED", "b"),
    ]
    metadata = seen[2]["object"]["metadata"]
    assert metadata["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(metadata["resourceVersion"]) >= int(seen[1]["object"]["metadata"]["resourceVersion"])


async def test_tables_in_a_watch(api: Api) -> None:
    await make(api, "a")
    async for events in watch(api, f"labelSelector={OURS}", Accept=TABLE):
        kind, table = await events.next()
        assert (kind, table["kind"], table["rows"][0]["cells"][0]) == ("ADDED", "Table", "a")
