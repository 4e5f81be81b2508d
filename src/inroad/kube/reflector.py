"""A collection of the API server kept in memory: listed once, then watched.

    list (pages) ── resourceVersion ──> watch ── events ──> watch ended: again from the last version
         ^                                │
         └──────── 410 Gone: list anew, tell only what differs

Objects are projected on arrival: only what `project` returns is kept (10 k pods are 25 MB of JSON, and
300 MB as model classes). Source of the rules: Kubernetes API concepts, "Efficient detection of changes".
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

import msgspec
import structlog

from inroad.core.errors import ApiUnreachable, InroadError
from inroad.kube.client import ApiClient
from inroad.kube.failures import ApiStatus

WATCH_SECONDS = (240, 300)
"""A watch asks the server to end it after a time between these, so that not all end at once."""
SILENCE = 150.0
"""Seconds without a byte after which a watch is given up, once it has shown that it sends bookmarks
(every minute or so): a middlebox may have forgotten the connection without telling."""
GRACE = 15.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0
MAX_EVENT = 16 << 20
"""Bytes of one event; etcd's limit for an object is 1.5 MB by default."""

log = structlog.get_logger()

Key = tuple[str, str]
"""(namespace, name); the namespace of a cluster-wide object is ""."""


class Meta(msgspec.Struct, rename="camel", gc=False):
    """What of an object's metadata is needed to follow it."""

    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class Followed(Protocol):
    """What a struct must have to be followed."""

    metadata: Meta


T = TypeVar("T", bound=Followed)
R = TypeVar("R")


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Bookmark(msgspec.Struct):
    metadata: Meta


class _Failure(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""


class _Gone(Exception):
    """The resourceVersion is too old: only a new list helps."""


class Reflector(Generic[T, R]):
    """Keeps `items` equal to a collection.

    `kind` is the struct that objects are decoded to, `project` what is kept of one (None: nothing, as if
    it were not there). `on_change(key, old, new)` is called for each difference in what is kept, `on_sync`
    whenever a list is complete, `on_error` when the collection can't be read (it is tried again).
    """

    def __init__(
        self,
        client: ApiClient,
        path: str,
        kind: type[T],
        *,
        project: Callable[[T], R | None],
        on_change: Callable[[Key, R | None, R | None], None] = lambda key, old, new: None,
        on_sync: Callable[[], None] = lambda: None,
        on_error: Callable[[InroadError], None] = lambda error: None,
        params: Mapping[str, str] | None = None,
    ) -> None:
        self.items: dict[Key, R] = {}
        self.synced = False
        self.error: InroadError | None = None
        self._client = client
        self._path = path
        self._params = dict(params or {})
        self._project = project
        self._on_change = on_change
        self._on_sync = on_sync
        self._on_error = on_error
        self._object = msgspec.json.Decoder(kind)
        self._event = msgspec.json.Decoder(_Event)
        self._bookmark = msgspec.json.Decoder(_Bookmark)
        self._version = ""
        self._pause = FIRST_PAUSE

    async def run(self) -> None:
        """Follow the collection until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except _Gone:
                log.info("watch is too old, listing anew", path=self._path)
                self._version = ""
            except InroadError as error:
                await self._failed(error)
            except msgspec.MsgspecError as error:
                await self._failed(ApiUnreachable(f"the answer to {self._path} is not understood: {error}"))

    async def _failed(self, error: InroadError) -> None:
        """Say what is wrong, once, and wait, longer each time, and as long as the server asks for."""
        tell = log.debug if str(error) == str(self.error) else log.warning
        self.error = error
        self._on_error(error)
        asked = error.retry_after if isinstance(error, ApiStatus) else 0.0
        pause = max(self._pause * random.uniform(0.5, 1.0), asked)  # noqa: S311 - jitter, no secret
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        tell("collection not followed", path=self._path, error=str(error), again_s=round(pause, 1))
        await asyncio.sleep(pause)

    def _went_well(self) -> None:
        if self.error is not None:
            log.info("collection followed again", path=self._path)
        self.error = None
        self._pause = FIRST_PAUSE

    async def _list(self) -> None:
        """Read the collection and tell what differs from what is known."""
        seen: set[Key] = set()
        version = ""
        try:
            async for page, at in self._client.pages(self._path, self._params):
                version = at
                for raw in page:
                    found = self._object.decode(raw)
                    seen.add(self._store(found))
        except ApiStatus as error:
            if error.status == 410:  # the continue token expired in the middle of the pages
                raise ApiUnreachable(f"the list of {self._path} expired while it was read") from error
            raise
        for key in [key for key in self.items if key not in seen]:
            self._put(key, None)
        self._version = version
        self.synced = True
        self._went_well()
        self._on_sync()

    async def _watch(self) -> None:
        """Follow events from the last version on, until the watch ends in one way or another."""
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311 - jitter, no secret
        query = {
            **self._params,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        started, events = asyncio.get_running_loop().time(), 0
        try:
            async with self._client.open("GET", self._path, query, timeout=seconds + GRACE) as response:
                buffer = b""
                self._went_well()
                silence: float | None = None
                while chunk := await asyncio.wait_for(response.content.readany(), silence):
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        silence = SILENCE if self._handle(line) else silence
                    events += len(lines)
                    if len(buffer) > MAX_EVENT:
                        raise ApiUnreachable(f"an event of {self._path} is larger than {MAX_EVENT} bytes")
        except ApiStatus as error:
            if error.status == 410:
                raise _Gone from error
            raise
        if not events and asyncio.get_running_loop().time() - started < 1.0:
            raise ApiUnreachable(f"the watch of {self._path} ends as soon as it begins")

    def _handle(self, line: bytes) -> bool:
        """Apply one event; returns whether it is a bookmark."""
        if not line:
            return False
        event = self._event.decode(line)
        if event.type == "BOOKMARK":
            self._version = self._bookmark.decode(event.object).metadata.resource_version
            return True
        if event.type == "ERROR":
            failure = msgspec.json.decode(event.object, type=_Failure)
            if failure.code == 410:
                raise _Gone
            text = f"the watch of {self._path} failed: {failure.message}"
            raise ApiStatus(failure.code, failure.reason, text)
        found = self._object.decode(event.object)
        if event.type == "DELETED":
            self._put((found.metadata.namespace, found.metadata.name), None)
        else:
            self._store(found)
        self._version = found.metadata.resource_version
        return False

    def _store(self, found: T) -> Key:
        key = (found.metadata.namespace, found.metadata.name)
        self._put(key, self._project(found))
        return key

    def _put(self, key: Key, new: R | None) -> None:
        old = self.items.get(key)
        if old == new:
            return
        if new is None:
            del self.items[key]
        else:
            self.items[key] = new
        self._on_change(key, old, new)
