"""One method per verb: reads the request, asks the store, writes the answer."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from inroad.sandbox.apiserver import portforward, watches, websocket
from inroad.sandbox.apiserver.auth import User
from inroad.sandbox.apiserver.collection import Entry, encode
from inroad.sandbox.apiserver.requests import Query, Target
from inroad.sandbox.apiserver.selectors import predicate
from inroad.sandbox.apiserver.status import (
    ApiError,
    bad_request,
    details_of,
    method_not_allowed,
    no_such_resource,
)
from inroad.sandbox.apiserver.store import Store
from inroad.sandbox.apiserver.takeover import Handed, switch_protocols

Json = dict[str, Any]


class Handlers:
    """Answers requests for resources; who asks has been checked."""

    def __init__(self, store: Store, dial_pod: portforward.DialPod) -> None:
        self._store = store
        self._dial_pod = dial_pod
        self._watches: set[watches.Watch] = set()
        self._forwards: set[portforward.ChannelForward] = set()

    def close(self) -> None:
        """End what would otherwise stay open: watches and port-forwards."""
        for watch in tuple(self._watches):
            watch.stop()
        for forward in tuple(self._forwards):
            forward.websocket.abort()

    async def answer(self, request: web.BaseRequest, target: Target, user: User) -> web.StreamResponse:
        """Answer one request."""
        if target.subresource and target.subresource not in target.resource.subresources:
            raise no_such_resource()
        if target.subresource == "portforward":
            return await self._portforward(request, target)
        if target.subresource not in ("", "status"):
            raise no_such_resource()
        handle = {
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "create": self._create,
            "update": self._update,
            "delete": self._delete,
        }.get(target.verb)
        if handle is None:
            raise method_not_allowed()
        return await handle(request, target)

    async def _get(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        return _object(self._entry(target).data)

    def _entry(self, target: Target) -> Entry:
        return self._store.entry(target.resource.plural, target.name, self._namespace(target))

    def _namespace(self, target: Target) -> str:
        return (target.namespace or "") if target.resource.namespaced else ""

    async def _list(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        query = Query(request.query_string)
        select = predicate(target.resource.plural, query.text("labelSelector"), query.text("fieldSelector"))
        collection = self._store.collection(target.resource.plural)
        scope = target.namespace if target.resource.namespaced else None
        items = [entry.data for entry in collection.select(scope) if select(entry)]
        head = {
            "kind": f"{target.resource.kind}List",
            "apiVersion": target.resource.group_version,
            "metadata": {"resourceVersion": str(self._store.rv)},
        }
        return _object(encode(head)[:-1] + b',"items":[' + b",".join(items) + b"]}")

    async def _watch(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        query = Query(request.query_string)
        select = predicate(target.resource.plural, query.text("labelSelector"), query.text("fieldSelector"))
        options = watches.options_of(query)
        watch = watches.Watch(self._store.collection(target.resource.plural), target, select, options)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        self._watches.add(watch)
        try:
            await watch.serve(response, self._store.rv)
        finally:
            self._watches.discard(watch)
        return response

    async def _create(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        obj = await _body(request)
        metadata = obj.setdefault("metadata", {})
        namespace = self._namespace(target)
        if namespace and metadata.get("namespace", namespace) != namespace:
            raise bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        dry_run = bool(Query(request.query_string).all("dryRun"))
        created = self._store.create(target.resource.plural, obj, namespace, dry_run=dry_run)
        return _object(encode(created), 201)

    async def _update(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        obj = await _body(request)
        name = obj.setdefault("metadata", {}).setdefault("name", target.name)
        if name != target.name:
            raise bad_request(
                f"the name of the object ({name}) does not match the name on the URL ({target.name})"
            )
        updated = self._store.update(
            target.resource.plural,
            obj,
            self._namespace(target),
            subresource=target.subresource,
            dry_run=bool(Query(request.query_string).all("dryRun")),
        )
        return _object(encode(updated))

    async def _delete(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        options = await _body(request, optional=True)
        query = Query(request.query_string)
        grace = options.get("gracePeriodSeconds", query.number("gracePeriodSeconds"))
        deleted = self._store.delete(
            target.resource.plural,
            target.name,
            self._namespace(target),
            grace=grace,
            dry_run=bool(options.get("dryRun") or query.all("dryRun")),
        )
        if "deletionTimestamp" in deleted["metadata"] or target.resource.plural in ("pods", "services"):
            return _object(encode(deleted))
        details = details_of(target.resource, target.name) | {"uid": deleted["metadata"]["uid"]}
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return _object(encode(status | {"details": details}))

    async def _portforward(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        pod = self._entry(target).object()
        if not pod["spec"].get("nodeName"):
            raise bad_request(f"pod {target.name} does not have a host assigned")
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise ApiError(400, "BadRequest", "Upgrade request required")
        offered = [
            protocol.strip()
            for header in request.headers.getall("Sec-WebSocket-Protocol", [])
            for protocol in header.split(",")
        ]
        try:
            ports = portforward.ports_of(Query(request.query_string))
            headers = {key.lower(): value for key, value in request.headers.items()}
            answer = websocket.handshake(headers, offered, (portforward.CHANNELS,))
        except portforward.BadPorts as error:
            return web.Response(status=400, text=f"{error}\n")
        except websocket.Refused as error:
            return web.Response(status=403, text=f"{error}\n")
        forward = portforward.ChannelForward(target.name, ports)
        self._forwards.add(forward)
        try:
            switch_protocols(request, answer, forward.websocket)
            await forward.run(lambda port: self._dial_pod(target.namespace or "", target.name, port))
            await forward.websocket.done
            return Handed()
        finally:
            self._forwards.discard(forward)


def _object(data: bytes, status: int = 200) -> web.Response:
    return web.Response(status=status, body=data, content_type="application/json")


async def _body(request: web.BaseRequest, *, optional: bool = False) -> Json:
    data = await request.read()
    if not data and optional:
        return {}
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from None
