"""A watch over HTTP: one JSON line per change, selectors, bookmarks, time-out, 410."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from inroad.sandbox.apiserver.auth import User
from inroad.sandbox.apiserver.collection import Change, Collection, Entry, encode, event_line
from inroad.sandbox.apiserver.faults import Faults
from inroad.sandbox.apiserver.lists import not_a_version
from inroad.sandbox.apiserver.representation import Plain
from inroad.sandbox.apiserver.requests import Query, Target
from inroad.sandbox.apiserver.selectors import Predicate, everything
from inroad.sandbox.apiserver.status import ApiError
from inroad.sandbox.apiserver.streams import Stream

BOOKMARK_PERIOD = 60.0
"""Seconds between bookmarks, as kube-apiserver sends them."""
_SLOW = 100_000
"""A watcher that is this many changes behind is dropped, as the real watch cache does."""
_INITIAL_END = {"k8s.io/initial-events-end": "true"}


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What a watch request asks for."""

    since: int | None
    """None: everything there is first, as ADDED."""
    initial_end: bool
    """Mark the end of those first events by an annotated bookmark (`sendInitialEvents`)."""
    bookmarks: bool
    timeout: float
    """Seconds."""


def options_of(query: Query) -> WatchOptions:
    """Read a watch's parameters; 400 and 422 as the server answers."""
    text = query.text("resourceVersion")
    initial = query.flag("sendInitialEvents")
    try:
        version = int(text or "0")
    except ValueError:
        raise ApiError(500, "", not_a_version(text)) from None
    since = None if initial or not text or version == 0 else version
    asked = query.number("timeoutSeconds")
    timeout = float(asked) if asked else random.uniform(1800, 3600)  # noqa: S311 -- spreads load
    return WatchOptions(since, initial, query.flag("allowWatchBookmarks"), timeout)


class Watch:
    """One watch of one client: takes changes from a collection, keeps the lines to send."""

    def __init__(
        self,
        collection: Collection,
        target: Target,
        user: User,
        select: Predicate,
        options: WatchOptions,
        form: Plain,
    ) -> None:
        self._collection = collection
        self.target = target
        self.user = user
        self._select = select
        self._options = options
        self._form = form
        self._shared = type(form) is Plain
        """The lines are the same for all watchers, so the change keeps them."""
        self._lines: list[bytes] = []
        self._wake = asyncio.Event()
        self._ended = False
        self._seen = 0

    async def serve(self, stream: Stream, rv: int, faults: Faults) -> None:
        """Send events until the time is up or the client has gone. `rv` is the present version."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.timeout
        bookmark = loop.time() + BOOKMARK_PERIOD
        self._seen = rv
        leave = self._begin(rv)
        try:
            while True:
                await faults.stalled(self.user, self.target)
                if self._lines:
                    lines, self._lines = self._lines, []
                    await stream.write(b"".join(lines))
                    continue
                if self._ended:
                    return
                now = loop.time()
                if now >= deadline:
                    if self._options.bookmarks:
                        await stream.write(self._bookmark({}))
                    return
                if self._options.bookmarks and now >= bookmark:
                    bookmark = now + BOOKMARK_PERIOD
                    self._lines.append(self._bookmark({}))
                    continue
                self._wake.clear()
                until = min(deadline, bookmark) if self._options.bookmarks else deadline
                handle = loop.call_at(until, self._wake.set)
                await self._wake.wait()
                handle.cancel()
        finally:
            leave()

    def stop(self) -> None:
        """End the watch once what waits is sent (fault: the server breaks it)."""
        self._ended = True
        self._wake.set()

    def _begin(self, rv: int) -> Callable[[], None]:
        since = self._options.since
        if since is None:
            for entry in self._collection.select(self.target.namespace):
                if self._selects(entry):
                    self._lines.append(self._line("ADDED", entry.data))
            if self._options.initial_end:
                self._lines.append(self._bookmark(_INITIAL_END))
        else:
            try:
                for change in self._collection.since(since):
                    self._take(change)
            except ApiError as error:
                self._lines.append(event_line("ERROR", encode(error.body())))
                self._ended = True
        return self._collection.subscribe(self._take)

    def _take(self, change: Change) -> None:
        self._seen = change.rv
        is_in = change.kind != "DELETED" and self._selects(change.entry)
        was_in = change.before is not None and self._selects(change.before)
        if not is_in and not was_in:
            return
        kind = "MODIFIED" if is_in and was_in else "ADDED" if is_in else "DELETED"
        if kind == change.kind and self._shared:
            self._lines.append(change.line())
        else:
            self._lines.append(self._line(kind, change.entry.data))
        if len(self._lines) > _SLOW:
            self._lines.clear()
            self._ended = True
        self._wake.set()

    def _selects(self, entry: Entry) -> bool:
        namespace, name = self.target.namespace, self.target.name
        if namespace is not None and entry.namespace and entry.namespace != namespace:
            return False
        if name and entry.name != name:
            return False
        return self._select is everything or self._select(entry)

    def _bookmark(self, annotations: dict[str, str]) -> bytes:
        resource = self._collection.resource
        metadata: dict[str, object] = {"resourceVersion": str(self._seen)}
        if annotations:
            metadata["annotations"] = annotations
        obj = {"kind": resource.kind, "apiVersion": resource.group_version, "metadata": metadata}
        return self._line("BOOKMARK", encode(obj))

    def _line(self, kind: str, data: bytes) -> bytes:
        return self._form.line(self._collection.resource, kind, data)
