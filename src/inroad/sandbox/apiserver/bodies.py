"""Reads what clients send: objects, patches, options; and the parameters that all writes share."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from inroad.sandbox.apiserver import patches, protobuf
from inroad.sandbox.apiserver.requests import Query
from inroad.sandbox.apiserver.resources import Resource
from inroad.sandbox.apiserver.status import ApiError, Cause, bad_request, invalid, unsupported_media_type

Json = dict[str, Any]
_OBJECTS = ("application/json", "application/yaml", protobuf.CONTENT_TYPE)
_UNRECOGNIZED = "the object provided is unrecognized: couldn't get version/kind; json parse error"
LARGEST = 3 * 1024 * 1024
"""Bytes of a request's body, as kube-apiserver limits it."""


async def read_object(request: web.BaseRequest, *, optional: bool = False) -> Json:
    """Return the object in a request's body; 400, 413, 415."""
    data = await _read(request)
    if not data and optional:
        return {}
    kind = request.content_type
    if kind not in (*_OBJECTS, "application/octet-stream"):  # octet-stream: aiohttp's word for none
        raise unsupported_media_type(_OBJECTS)
    if kind == protobuf.CONTENT_TYPE:
        return protobuf.decode(data)
    found = _yaml(data) if kind == "application/yaml" else _json(data)
    if not isinstance(found, dict):
        raise bad_request(f"{_UNRECOGNIZED}: not an object")
    return found


async def read_patch(request: web.BaseRequest) -> tuple[str, Any]:
    """Return a patch and its content type; 400, 413, 415."""
    kind = request.content_type
    if kind not in patches.TYPES:
        raise ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", details={})
    data = await _read(request)
    return kind, _yaml(data) if kind == patches.APPLY_PATCH else _json(data)


def is_dry_run(query: Query, kind: str, options: Json | None = None) -> bool:
    """Return whether nothing shall be stored; 422 of `kind` (say CreateOptions) for anything but All."""
    wanted = query.all("dryRun") or (options or {}).get("dryRun") or []
    for value in wanted:
        if value != "All":
            cause = Cause(
                "FieldValueNotSupported", "dryRun", f'Unsupported value: ["{value}"]: supported values: "All"'
            )
            raise invalid(Resource("", kind, "meta.k8s.io"), "", [cause])
    return bool(wanted)


def check_identity(obj: Json, kind: str, group_version: str, name: str, namespace: str) -> None:
    """Check that an object is the one its URL speaks of; 400. Empty `name`: the object's own."""
    said_version, said_kind = obj.get("apiVersion") or group_version, obj.get("kind") or kind
    if said_kind != kind:
        raise bad_request(f'{said_kind} in version "{said_version}" cannot be handled as a {kind}')
    if said_version != group_version:
        raise bad_request(
            f'{kind} in version "{said_version}" cannot be handled as a {kind}: no kind "{kind}" is '
            f'registered for version "{said_version}" in scheme'
        )
    metadata = obj.get("metadata")
    if metadata is None:
        metadata = obj["metadata"] = {}
    if name and metadata.setdefault("name", name) != name:
        raise bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
        )
    if namespace and (metadata.get("namespace") or namespace) != namespace:
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )


async def _read(request: web.BaseRequest) -> bytes:
    if (request.content_length or 0) > LARGEST:
        raise _too_large()
    data = await request.read()
    if len(data) > LARGEST:
        raise _too_large()
    return data


def _too_large() -> ApiError:
    return ApiError(
        413,
        "RequestEntityTooLarge",
        f"Request entity too large: limit is {LARGEST}",
        details={},
    )


def _json(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise bad_request(f"{_UNRECOGNIZED}: {error}") from None


def _yaml(data: bytes) -> Any:
    try:
        return msgspec.yaml.decode(data)
    except msgspec.DecodeError as error:
        raise bad_request(f"error decoding YAML: {error}") from None
