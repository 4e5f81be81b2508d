"""In which form a client wants its answer: plain objects, a Table (`kubectl get`), or metadata alone.

Content negotiation: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-representations
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from inroad.sandbox.apiserver import tables
from inroad.sandbox.apiserver.collection import Entry, encode, event_line
from inroad.sandbox.apiserver.resources import Resource
from inroad.sandbox.apiserver.status import ApiError

Json = dict[str, Any]
_META = "meta.k8s.io/v1"
_CHUNK = 1 << 20
_MEDIA = ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf")


class _Metadata(msgspec.Struct):
    metadata: msgspec.Raw


_metadata_of = msgspec.json.Decoder(_Metadata).decode
_object_of = msgspec.json.Decoder(dict[str, Any]).decode


class Plain:
    """Objects as they are: their stored bytes."""

    def one(self, resource: Resource, data: bytes) -> bytes:
        """Return the answer for one object."""
        return data

    def many(self, resource: Resource, entries: Sequence[Entry], metadata: Json) -> Iterator[bytes]:
        """Yield the answer for a list, in pieces of about a megabyte."""
        head = {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.group_version,
            "metadata": metadata,
        }
        yield encode(head)[:-1] + b',"items":['
        yield from _joined(entry.data for entry in entries)
        yield b"]}\n"

    def line(self, resource: Resource, kind: str, data: bytes) -> bytes:
        """Return one event of a watch."""
        return event_line(kind, data)


class PartialMetadata(Plain):
    """The metadata of objects alone, as clients ask that watch many objects for their names."""

    def one(self, resource: Resource, data: bytes) -> bytes:
        """Return the answer for one object."""
        head = b'{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":'
        return head + bytes(_metadata_of(data).metadata) + b"}"

    def many(self, resource: Resource, entries: Sequence[Entry], metadata: Json) -> Iterator[bytes]:
        """Yield the answer for a list."""
        head = {"kind": "PartialObjectMetadataList", "apiVersion": _META, "metadata": metadata}
        yield encode(head)[:-1] + b',"items":['
        yield from _joined(self.one(resource, entry.data) for entry in entries)
        yield b"]}\n"

    def line(self, resource: Resource, kind: str, data: bytes) -> bytes:
        """Return one event of a watch."""
        return event_line(kind, data if kind == "ERROR" else self.one(resource, data))


class Table(Plain):
    """Rows for people. `now` is the present time, `include` the request's includeObject."""

    def __init__(self, now: float, include: str) -> None:
        self._now = now
        self._include = include or "Metadata"

    def one(self, resource: Resource, data: bytes) -> bytes:
        """Return the answer for one object."""
        obj = _object_of(data)
        metadata = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
        return encode(tables.table(resource, [obj], self._now, self._include, metadata))

    def many(self, resource: Resource, entries: Sequence[Entry], metadata: Json) -> Iterator[bytes]:
        """Yield the answer for a list."""
        empty = encode(tables.table(resource, [], self._now, self._include, metadata))
        yield empty.removesuffix(b"]}")
        yield from _joined(
            encode(tables.row(resource, entry.object(), self._now, self._include)) for entry in entries
        )
        yield b"]}\n"

    def line(self, resource: Resource, kind: str, data: bytes) -> bytes:
        """Return one event of a watch."""
        if kind == "ERROR":
            return event_line(kind, data)
        if kind == "BOOKMARK":
            obj = _object_of(data)
            rows: Json = {"rows": [{"cells": [], "object": tables.partial(obj)}]}
            empty = tables.table(resource, [], self._now, self._include, {})
            return event_line(kind, encode(empty | rows))
        return event_line(kind, self.one(resource, data))


def representation(accept: str, include: str, now: float) -> Plain:
    """Return the first form in an Accept header that we have; 406 when there is none."""
    for choice in accept.split(",") if accept.strip() else ["*/*"]:
        media, *parameters = (part.strip() for part in choice.split(";"))
        options = dict(part.partition("=")[::2] for part in parameters)
        if media not in ("application/json", "application/*", "*/*"):
            continue
        wanted = options.get("as", "")
        if not wanted:
            return Plain()
        if options.get("g") != "meta.k8s.io" or options.get("v") not in ("v1", "v1beta1"):
            continue
        if wanted == "Table":
            return Table(now, include)
        if wanted in ("PartialObjectMetadata", "PartialObjectMetadataList"):
            return PartialMetadata()
    raise ApiError(
        406, "NotAcceptable", f"only the following media types are accepted: {', '.join(_MEDIA[:1])}"
    )


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield pieces with commas between them, collected to chunks."""
    waiting: list[bytes] = []
    size = 0
    first = True
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _CHUNK:
            yield (b"" if first else b",") + b",".join(waiting)
            first, size = False, 0
            waiting.clear()
    if waiting:
        yield (b"" if first else b",") + b",".join(waiting)
