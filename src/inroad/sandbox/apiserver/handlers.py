"""One method per verb: reads the request, asks the store, writes the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from inroad.sandbox.apiserver import bodies, patches, subresources, watches
from inroad.sandbox.apiserver.admission import Admission, Attributes
from inroad.sandbox.apiserver.auth import User
from inroad.sandbox.apiserver.collection import Entry, encode
from inroad.sandbox.apiserver.faults import Faults
from inroad.sandbox.apiserver.lists import Lists
from inroad.sandbox.apiserver.representation import Plain, representation
from inroad.sandbox.apiserver.requests import Query, Target
from inroad.sandbox.apiserver.reviews import Reviews
from inroad.sandbox.apiserver.selectors import predicate
from inroad.sandbox.apiserver.status import (
    ApiError,
    details_of,
    invalid_field,
    method_not_allowed,
    no_such_resource,
)
from inroad.sandbox.apiserver.store import Store
from inroad.sandbox.apiserver.streams import Stream, json_response, send_pieces

Json = dict[str, Any]
_RETURNED = ("pods", "serviceaccounts", "services")
"""Kinds whose deletion answers with the object rather than a Status."""
_PATCH_ATTEMPTS = 5
_OPTIONS = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}
_OBJECT_PARTS = ("", "status", "ephemeralcontainers")


class Exchange:
    """One request on its way through a handler: what it asks and how it wants the answer."""

    def __init__(self, request: web.BaseRequest, target: Target, user: User, now: float) -> None:
        self.request = request
        self.target = target
        self.user = user
        self.query = Query(request.query_string)
        self.form = representation(request.headers.get("Accept", ""), self.query.text("includeObject"), now)

    @property
    def namespace(self) -> str:
        """The object's namespace, '' for kinds without."""
        return (self.target.namespace or "") if self.target.resource.namespaced else ""

    def dry_run(self, options: Json | None = None) -> bool:
        """Return whether nothing shall be stored."""
        return bodies.is_dry_run(self.query, _OPTIONS.get(self.target.verb, "DeleteOptions"), options)

    def answer(self, obj: Json | Entry, status: int = 200) -> web.Response:
        """Return an object in the form that the client wants."""
        data = obj.data if isinstance(obj, Entry) else encode(obj)
        plain = isinstance(obj, dict) and obj.get("kind") != self.target.resource.kind
        form = Plain() if plain else self.form
        return json_response(form.one(self.target.resource, data), status)


class Handlers:
    """Answers requests for resources; who asks has been checked."""

    def __init__(
        self,
        store: Store,
        reviews: Reviews,
        faults: Faults,
        admission: Admission,
        read_log: subresources.ReadLog | None,
    ) -> None:
        self._admission = admission
        self._faults = faults
        self.lists = Lists(store)
        self.watches: set[watches.Watch] = set()
        self._store = store
        self._reviews = reviews
        self._read_log = read_log
        self._verbs = {
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }

    async def answer(self, request: web.BaseRequest, target: Target, user: User) -> web.StreamResponse:
        """Answer one request; every failure is an `ApiError`."""
        if target.subresource and target.subresource not in target.resource.subresources:
            raise no_such_resource()
        exchange = Exchange(request, target, user, self._store.now())
        if target.subresource in _OBJECT_PARTS:
            on_collection = target.verb in ("update", "patch") and not target.name
            on_part = target.verb == "create" and bool(target.name)
            if target.verb not in target.resource.verbs or on_collection or on_part:
                raise method_not_allowed()
            return await self._verbs[target.verb](exchange)
        return await self._subresource(exchange)

    async def _get(self, exchange: Exchange) -> web.StreamResponse:
        target = exchange.target
        return exchange.answer(self._store.entry(target.resource.plural, target.name, exchange.namespace))

    async def _list(self, exchange: Exchange) -> web.StreamResponse:
        page = self.lists.page(exchange.target, exchange.query)
        pieces = exchange.form.many(exchange.target.resource, page.entries, page.metadata)
        rate = self._faults.rate(exchange.user, exchange.target)
        return await send_pieces(exchange.request, pieces, rate)

    async def _watch(self, exchange: Exchange) -> web.StreamResponse:
        target, query = exchange.target, exchange.query
        plural = target.resource.plural
        select = predicate(plural, query.text("labelSelector"), query.text("fieldSelector"))
        options = watches.options_of(query)
        collection = self._store.collection(plural)
        watch = watches.Watch(collection, target, exchange.user, select, options, exchange.form)
        stream = Stream(exchange.request, self._faults.rate(exchange.user, target))
        await stream.start()
        self.watches.add(watch)
        try:
            await watch.serve(stream, self._store.rv, self._faults)
        finally:
            self.watches.discard(watch)
        return stream.response

    async def _create(self, exchange: Exchange) -> web.StreamResponse:
        resource = exchange.target.resource
        obj = await bodies.read_object(exchange.request)
        _check_identity(exchange, obj)
        if not resource.stored:
            return exchange.answer(self._reviews.answer(exchange.target, obj, exchange.user), 201)
        return exchange.answer(await self._post(exchange, obj), 201)

    async def _post(self, exchange: Exchange, obj: Json) -> Json:
        resource, dry_run = exchange.target.resource, exchange.dry_run()
        plural = resource.plural
        if "status" in resource.subresources and plural != "nodes":
            obj.pop("status", None)  # is reported later; a kubelet registers its node with one
        obj = self._store.completed(plural, obj, exchange.namespace)
        admitted = await self._admit(exchange, "create", obj, None)
        return self._store.create(plural, admitted or obj, exchange.namespace, dry_run=dry_run)

    async def _admit(self, exchange: Exchange, verb: str, obj: Json | None, old: Json | None) -> Json | None:
        """Ask the webhooks; return what they make of the object."""
        metadata = (obj or old or {}).get("metadata", {})
        attributes = Attributes(
            replace(exchange.target, verb=verb),
            exchange.user,
            metadata.get("name", ""),
            exchange.namespace,
            old,
            exchange.dry_run(),
        )
        return await self._admission.admit(attributes, obj)

    async def _update(self, exchange: Exchange) -> web.StreamResponse:
        obj = await bodies.read_object(exchange.request)
        _check_identity(exchange, obj)
        return exchange.answer(await self._put(exchange, obj, self._object(exchange)))

    async def _put(self, exchange: Exchange, obj: Json, old: Json) -> Json:
        target = exchange.target
        obj = await self._admit(exchange, "update", obj, old) or obj
        return self._store.update(
            target.resource.plural,
            obj,
            exchange.namespace,
            subresource=target.subresource,
            dry_run=exchange.dry_run(),
        )

    async def _patch(self, exchange: Exchange) -> web.StreamResponse:
        target = exchange.target
        kind, patch = await bodies.read_patch(exchange.request)
        old = self._store.find(target.resource.plural, target.name, exchange.namespace)
        if old is None and kind == patches.APPLY_PATCH and isinstance(patch, dict):
            _check_identity(exchange, patch)
            return exchange.answer(await self._post(exchange, patch), 201)
        return exchange.answer(await self._patched(exchange, kind, patch))

    async def _patched(self, exchange: Exchange, kind: str, patch: Any) -> Json:
        """Apply a patch to the present object, again when it changed while webhooks were asked."""
        attempts = _PATCH_ATTEMPTS
        while True:
            old = self._object(exchange)
            new = patches.apply(kind, self._object(exchange), patch)
            _check_identity(exchange, new)
            attempts -= 1
            its_own = new["metadata"].get("resourceVersion") != old["metadata"]["resourceVersion"]
            try:
                return await self._put(exchange, new, old)
            except ApiError as error:
                if error.reason != "Conflict" or its_own or attempts == 0:
                    raise

    async def _delete(self, exchange: Exchange) -> web.StreamResponse:
        target, options = exchange.target, await bodies.read_object(exchange.request, optional=True)
        old = self._store.entry(target.resource.plural, target.name, exchange.namespace).object()
        _check_preconditions(target, options.get("preconditions") or {}, old["metadata"])
        await self._admit(exchange, "delete", None, old)
        deleted = self._remove(exchange, options, target.name, exchange.namespace)
        if "deletionTimestamp" in deleted["metadata"] or target.resource.plural in _RETURNED:
            return exchange.answer(deleted)
        details = details_of(target.resource, target.name) | {"uid": deleted["metadata"]["uid"]}
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return exchange.answer(status | {"details": details})

    async def _delete_collection(self, exchange: Exchange) -> web.StreamResponse:
        options = await bodies.read_object(exchange.request, optional=True)
        page = self.lists.page(exchange.target, exchange.query)
        for entry in page.entries:
            self._remove(exchange, options, entry.name, entry.namespace)
        resource = exchange.target.resource
        return json_response(b"".join(Plain().many(resource, page.entries, page.metadata)))

    def _remove(self, exchange: Exchange, options: Json, name: str, namespace: str) -> Json:
        grace = options.get("gracePeriodSeconds", exchange.query.number("gracePeriodSeconds"))
        policy = options.get("propagationPolicy") or exchange.query.text("propagationPolicy")
        return self._store.delete(
            exchange.target.resource.plural,
            name,
            namespace,
            grace=grace,
            policy=policy,
            dry_run=exchange.dry_run(options),
        )

    async def _subresource(self, exchange: Exchange) -> web.StreamResponse:
        target = exchange.target
        match target.subresource, target.verb:
            case "scale", "get":
                return exchange.answer(subresources.scale_of(self._object(exchange)))
            case "scale", "update":
                body = await bodies.read_object(exchange.request)
                return exchange.answer(subresources.rescaled(self._store, target, body))
            case "scale", "patch":
                kind, patch = await bodies.read_patch(exchange.request)
                scale = patches.apply(kind, subresources.scale_of(self._object(exchange)), patch)
                return exchange.answer(subresources.rescaled(self._store, target, scale))
            case "log", "get":
                return await self._log(exchange)
            case "finalize", "update":
                body = await bodies.read_object(exchange.request)
                return exchange.answer(subresources.finalize(self._store, target, body))
            case ("token" | "binding" | "eviction") as name, "create":
                body = await bodies.read_object(exchange.request)
                return exchange.answer(self._action(name, target, body), 201)
        raise method_not_allowed()

    def _action(self, name: str, target: Target, body: Json) -> Json:
        if name == "token":
            return subresources.token_request(self._store, self._reviews.authenticator, target, body)
        act = subresources.bind if name == "binding" else subresources.evict
        return act(self._store, target, body)

    def _object(self, exchange: Exchange) -> Json:
        return self._store.get(exchange.target.resource.plural, exchange.target.name, exchange.namespace)

    async def _log(self, exchange: Exchange) -> web.StreamResponse:
        query = exchange.query
        if query.flag("follow"):
            raise invalid_field("PodLogOptions", "follow", "this server does not follow logs")
        text = await subresources.log_text(
            self._read_log, self._store, exchange.target, query.text("container"), query.number("tailLines")
        )
        if text is None:
            return web.Response(status=204)
        return web.Response(body=text, content_type="text/plain")


def _check_identity(exchange: Exchange, obj: Json) -> None:
    target, resource = exchange.target, exchange.target.resource
    bodies.check_identity(obj, resource.kind, resource.group_version, target.name, exchange.namespace)


def _check_preconditions(target: Target, wanted: Mapping[str, str], metadata: Json) -> None:
    for key, label, done in (
        ("uid", "UID", "deleted and then recreated"),
        ("resourceVersion", "ResourceVersion", "modified"),
    ):
        if wanted.get(key) and wanted[key] != metadata[key]:
            why = (
                f"the {label} in the precondition ({wanted[key]}) does not match the {label} in record "
                f"({metadata[key]}). The object might have been {done}"
            )
            subject = f'{target.resource.kind} "{target.name}"'
            text = f"Operation cannot be fulfilled on {subject}: {why}"
            raise ApiError(409, "Conflict", text, details={"name": target.name, "kind": target.resource.kind})


__all__ = ["ApiError", "Exchange", "Handlers", "json_response"]
