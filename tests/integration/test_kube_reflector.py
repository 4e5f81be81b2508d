"""The reflector against the sandbox's API server, with faults put into its answers one by one."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from kube_stage import Stage, pod, until

from inroad.core.errors import InroadError
from inroad.kube import reflector as module
from inroad.kube.client import ApiClient
from inroad.kube.credentials import Credentials
from inroad.kube.reflector import Key, Meta, Reflector
from inroad.sandbox.apiserver import administrator


class _Spec(msgspec.Struct, rename="camel"):
    node_name: str = ""


class _Pod(msgspec.Struct):
    metadata: Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)


Change = tuple[str, str | None, str | None]


class Followed:
    """A reflector of pods by their node, and everything that it said."""

    def __init__(self, client: ApiClient, path: str = "/api/v1/pods") -> None:
        self.changes: list[Change] = []
        self.syncs = 0
        self.errors: list[str] = []
        self.reflector: Reflector[_Pod, str] = Reflector(
            client,
            path,
            _Pod,
            project=lambda found: found.spec.node_name or None,
            on_change=self._changed,
            on_sync=self._synced,
            on_error=self._failed,
        )
        self.task = asyncio.create_task(self.reflector.run())

    def _changed(self, key: Key, old: str | None, new: str | None) -> None:
        self.changes.append((key[1], old, new))

    def _synced(self) -> None:
        self.syncs += 1

    def _failed(self, error: InroadError) -> None:
        self.errors.append(str(error))

    @property
    def names(self) -> set[str]:
        return {name for _, name in self.reflector.items}


Follow = Callable[..., Followed]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with Stage() as running:
        yield running


@pytest.fixture
async def follow(stage: Stage) -> AsyncIterator[Follow]:
    client = stage.client()
    begun: list[Followed] = []

    def begin(**arguments: Any) -> Followed:
        begun.append(Followed(client, **arguments))
        return begun[-1]

    yield begin
    for followed in begun:
        followed.task.cancel()
    await asyncio.gather(*(followed.task for followed in begun), return_exceptions=True)
    await client.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.05)


def is_watch(request: web.BaseRequest) -> bool:
    return "watch" in request.query


def once(answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], **where: bool) -> Any:
    """A fault that meets the first watch (or list) only."""
    used = False

    async def fault(request: web.BaseRequest) -> web.StreamResponse | None:
        nonlocal used
        if used or is_watch(request) is not where.get("watch", True):
            return None
        used = True
        return await answer(request)

    return fault


def event(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


async def test_lists_then_follows(stage: Stage, follow: Follow) -> None:
    stage.store.create("pods", pod("a"))
    followed = follow()
    await until(lambda: followed.syncs == 1)
    assert followed.changes == [("a", None, "node-1")]
    stage.store.create("pods", pod("b", nodeName="node-2"))
    stage.store.create("pods", pod("waits", nodeName=""))
    stage.store.delete("pods", "a", "default", grace=0)
    await until(lambda: followed.names == {"b"})
    assert followed.changes[1:] == [("b", None, "node-2"), ("a", "node-1", None)]
    stage.store.modify("pods", "b", "default", lambda obj: obj["metadata"].update(labels={"x": "y"}))
    stage.store.create("pods", pod("c"))
    await until(lambda: "c" in followed.names)
    assert followed.changes[3:] == [("c", None, "node-1")], "what is not kept is no change"
    assert followed.errors == []


async def test_a_watch_that_ends_goes_on_where_it_was(
    stage: Stage, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WATCH_SECONDS", (1, 1))
    followed = follow()
    await until(lambda: followed.syncs == 1)
    for number in range(12):
        stage.store.create("pods", pod(f"p{number}"))
        await asyncio.sleep(0.2)
    await until(lambda: len(followed.names) == 12)
    assert followed.syncs == 1, "it was never listed again"
    assert sum("watch=1" in request for request in stage.requests) >= 2
    assert [change[0] for change in followed.changes] == [f"p{number}" for number in range(12)]


async def test_410_when_watching_lists_anew_and_tells_only_the_difference(
    stage: Stage, follow: Follow
) -> None:
    for name in ("stays", "goes"):
        stage.store.create("pods", pod(name))

    async def gone(request: web.BaseRequest) -> web.StreamResponse:
        stage.store.delete("pods", "goes", "default", grace=0)
        stage.store.create("pods", pod("comes"))
        return web.json_response({"kind": "Status", "code": 410, "reason": "Expired"}, status=410)

    stage.faults.append(once(gone))
    followed = follow()
    await until(lambda: followed.syncs == 2)
    assert followed.changes[2:] == [("comes", None, "node-1"), ("goes", "node-1", None)]
    stage.store.create("pods", pod("later"))
    await until(lambda: "later" in followed.names)


async def test_410_as_an_event_lists_anew(stage: Stage, follow: Follow) -> None:
    async def expired(request: web.BaseRequest) -> web.StreamResponse:
        stage.store.create("pods", pod("missed"))
        return web.Response(body=event("ERROR", {"kind": "Status", "code": 410, "message": "too old"}))

    stage.faults.append(once(expired))
    followed = follow()
    await until(lambda: followed.syncs == 2)
    assert followed.names == {"missed"}


async def test_410_in_the_middle_of_the_pages_begins_the_list_again(stage: Stage, follow: Follow) -> None:
    for number in range(1_100):
        stage.store.create("pods", pod(f"p{number:04}"))
    used = 0

    async def expired(request: web.BaseRequest) -> web.StreamResponse | None:
        nonlocal used
        if "continue" in request.query and not used:
            used += 1
            stage.store.delete("pods", "p0000", "default", grace=0)
            return web.json_response({"code": 410, "reason": "Expired", "message": "too old"}, status=410)
        return None

    stage.faults.append(expired)
    followed = follow()
    await until(lambda: followed.syncs == 1)
    assert len(followed.names) == 1_099
    assert "p0000" not in followed.names
    assert len(followed.errors) == 1


async def test_a_connection_that_is_reset_in_the_middle_of_an_event(stage: Stage, follow: Follow) -> None:
    async def reset(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        whole = event("ADDED", stage.store.create("pods", pod("whole")))
        half = event("ADDED", stage.store.create("pods", pod("half")))[:40]
        await response.write(whole + half)
        assert request.transport is not None
        request.transport.abort()
        return response

    stage.faults.append(once(reset))
    followed = follow()
    await until(lambda: followed.names == {"whole", "half"})
    assert followed.syncs == 1
    assert [change[0] for change in followed.changes] == ["whole", "half"], "nothing twice"


async def test_bytes_that_arrive_slowly(stage: Stage, follow: Follow) -> None:
    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        lines = b"".join(event("ADDED", stage.store.create("pods", pod(name))) for name in ("x", "y"))
        for at in range(0, len(lines), 7):
            await response.write(lines[at : at + 7])
        await until(lambda: len(followed.names) == 2)
        return response

    stage.faults.append(once(slow))
    followed = follow()
    await until(lambda: followed.names == {"x", "y"})
    assert followed.errors == []


@pytest.mark.parametrize("watch", [False, True])
async def test_429_is_obeyed(stage: Stage, follow: Follow, watch: bool) -> None:
    async def busy(request: web.BaseRequest) -> web.StreamResponse:
        headers = {"Retry-After": "1"}
        return web.json_response({"code": 429, "message": "slow down"}, status=429, headers=headers)

    stage.faults.append(once(busy, watch=watch))
    begun = time.monotonic()
    followed = follow()
    await until(lambda: followed.syncs == 1 and len(stage.requests) >= 3)
    assert time.monotonic() - begun >= 1.0
    assert ["slow down" in error for error in followed.errors] == [True] * watch, "a list is asked for again"


async def test_401_fetches_a_new_token(stage: Stage) -> None:
    async def refresh() -> Credentials:
        return stage.credentials(token="new")

    client = ApiClient(stage.credentials(token="revoked"), refresh=refresh)
    stage.tokens.tokens = {"new": administrator()}
    followed = Followed(client)
    await until(lambda: followed.syncs == 1)
    followed.task.cancel()
    assert (client.credentials.token, followed.errors) == ("new", [])
    await client.close()


async def test_a_watch_that_goes_silent_is_noticed(
    stage: Stage, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.3)
    release = asyncio.Event()

    async def silent(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        version = {"metadata": {"resourceVersion": request.query["resourceVersion"]}}
        await response.write(event("BOOKMARK", version))
        stage.store.create("pods", pod("unheard"))
        await release.wait()
        return response

    stage.faults.append(once(silent))
    followed = follow()
    await until(lambda: followed.names == {"unheard"})
    assert "does not answer in time" in followed.errors[0]
    release.set()


async def test_a_collection_that_may_not_be_read_or_is_not_served(stage: Stage, follow: Follow) -> None:
    followed = follow(path="/apis/example.com/v1/things")
    await until(lambda: len(followed.errors) >= 3)
    assert "404" in followed.errors[0]
    assert not followed.reflector.synced


async def test_random_faults_never_lose_or_invent_an_object(stage: Stage, follow: Follow) -> None:
    """Watches cut at any byte, expired or refused at random, while objects come, change and go."""
    chance = random.Random(7)

    async def trouble(request: web.BaseRequest) -> web.StreamResponse | None:
        dice = chance.random()
        if dice < 0.2:
            return web.json_response({"code": 503, "message": "later"}, status=503)
        if is_watch(request) and dice < 0.4:
            return web.json_response({"code": 410, "message": "too old"}, status=410)
        if is_watch(request) and dice < 0.9:
            transport = request.transport
            assert transport is not None
            asyncio.get_running_loop().call_later(chance.random() * 0.1, transport.abort)
        return None

    stage.faults.append(trouble)
    followed = follow()
    for number in range(300):
        name = f"p{chance.randrange(40)}"
        if stage.store.find("pods", name, "default"):
            stage.store.delete("pods", name, "default", grace=0)
        else:
            stage.store.create("pods", pod(name, nodeName=f"node-{number}"))
        await asyncio.sleep(0.003)
    stage.faults.clear()
    there = {item["metadata"]["name"]: item["spec"]["nodeName"] for item in stage.store.list("pods")}
    await until(lambda: {key[1]: node for key, node in followed.reflector.items.items()} == there)
    replayed: dict[str, str] = {}
    for name, old, new in followed.changes:
        assert replayed.get(name) == old, "each change starts from what was told before"
        if new is None:
            del replayed[name]
        else:
            replayed[name] = new
    assert replayed == there
