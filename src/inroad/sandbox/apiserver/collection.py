"""The objects of one resource, in etcd's key order, and the history that watches replay. No I/O.

An object is kept as its encoded JSON: a pod costs about 2 KB instead of the 10 KB of its dict, lists
and watches copy bytes, and whoever asks for a dict gets one of their own to change.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from inroad.sandbox.apiserver.resources import Resource
from inroad.sandbox.apiserver.status import too_old

Json = dict[str, Any]
ChangeKind = Literal["ADDED", "MODIFIED", "DELETED"]

_decode = msgspec.json.Decoder(dict[str, Any]).decode
encode = msgspec.json.Encoder().encode


class Entry:
    """One version of one object."""

    __slots__ = ("data", "labels", "name", "namespace", "rv")

    def __init__(self, obj: Json, rv: int) -> None:
        metadata = obj["metadata"]
        metadata["resourceVersion"] = str(rv)
        self.rv = rv
        self.name: str = metadata["name"]
        self.namespace: str = metadata.get("namespace", "")
        labels = metadata.get("labels")
        self.labels: dict[str, str] | None = dict(labels) if labels else None
        self.data = encode(obj)

    @property
    def key(self) -> str:
        """Where it sorts: `namespace/name`, as in etcd."""
        return f"{self.namespace}/{self.name}"

    def object(self) -> Json:
        """Return the object as a new dict, the caller's to change."""
        return _decode(self.data)


class Change:
    """One event of a watch: what happened, the object after it, and the version before it."""

    __slots__ = ("_line", "before", "entry", "kind")

    def __init__(self, kind: ChangeKind, entry: Entry, before: Entry | None) -> None:
        self.kind = kind
        self.entry = entry
        self.before = before
        self._line = b""

    @property
    def rv(self) -> int:
        """The resource version that this change made."""
        return self.entry.rv

    def line(self) -> bytes:
        """Return the event as a watch sends it, encoded once for all watchers."""
        if not self._line:
            self._line = event_line(self.kind, self.entry.data)
        return self._line


def event_line(kind: str, data: bytes) -> bytes:
    """Return one line of a watch stream."""
    return b'{"type":"' + kind.encode() + b'","object":' + data + b"}\n"


class Collection:
    """All objects of one resource."""

    def __init__(self, resource: Resource, history: int) -> None:
        self.resource = resource
        self.entries: dict[str, Entry] = {}
        self._keys: list[str] = []
        self._history: deque[Change] = deque()
        self._limit = history
        self.floor = 0
        """Changes up to and including this version are forgotten."""
        self._subscribers: list[Callable[[Change], None]] = []

    def commit(self, change: Change) -> None:
        """Apply a change, remember it, and tell the subscribers in the order in which they came."""
        key = change.entry.key
        if change.kind == "DELETED":
            del self.entries[key]
            del self._keys[bisect_left(self._keys, key)]
        else:
            if key not in self.entries:
                insort(self._keys, key)
            self.entries[key] = change.entry
        self._history.append(change)
        if len(self._history) > self._limit:
            self.floor = self._history.popleft().rv
        for subscriber in tuple(self._subscribers):
            subscriber(change)

    def span(self, namespace: str | None, after: str = "") -> Sequence[str]:
        """Return the keys of a namespace (None: of all) behind the key `after`, in order."""
        first = after + "\0" if after else ""
        if namespace is None:
            return self._keys[bisect_left(self._keys, first) :]
        low = max(first, namespace + "/")
        # "0" is the character behind "/": the first key that can't be in the namespace.
        return self._keys[bisect_left(self._keys, low) : bisect_left(self._keys, namespace + "0")]

    def select(self, namespace: str | None) -> Iterator[Entry]:
        """Yield the objects of a namespace (None: of all) in order."""
        for key in self.span(namespace):
            yield self.entries[key]

    def since(self, rv: int) -> list[Change]:
        """Return the changes after version `rv`; raise 410 when they are forgotten."""
        if rv < self.floor:
            raise too_old(rv, self.floor)
        newer: list[Change] = []
        for change in reversed(self._history):
            if change.rv <= rv:
                break
            newer.append(change)
        newer.reverse()
        return newer

    def forget(self, rv: int) -> None:
        """Drop all history up to version `rv`, as a compaction does."""
        while self._history and self._history[0].rv <= rv:
            self._history.popleft()
        self.floor = max(self.floor, rv)

    def subscribe(self, subscriber: Callable[[Change], None]) -> Callable[[], None]:
        """Call `subscriber` with every change from now on; return what ends that."""
        self._subscribers.append(subscriber)

        def leave() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

        return leave
