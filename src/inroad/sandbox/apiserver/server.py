"""The API server: TLS listeners, and a request's way through authentication and rights to its handler."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from aiohttp import web

from inroad.sandbox.apiserver import documents
from inroad.sandbox.apiserver.admission import Admission, Attributes
from inroad.sandbox.apiserver.auth import ADMINISTRATORS, Authenticator, User
from inroad.sandbox.apiserver.collection import encode
from inroad.sandbox.apiserver.faults import Faults
from inroad.sandbox.apiserver.forwarding import Forwarding
from inroad.sandbox.apiserver.handlers import Handlers, json_response
from inroad.sandbox.apiserver.podlink import DialPod
from inroad.sandbox.apiserver.requests import Query, Target, split_path, target_of
from inroad.sandbox.apiserver.resources import BY_PLURAL, RESOURCES
from inroad.sandbox.apiserver.reviews import Reviews
from inroad.sandbox.apiserver.rights import (
    Authorizer,
    PathTarget,
    Restricted,
    Restriction,
    denied,
    path_denied,
)
from inroad.sandbox.apiserver.status import ApiError, bad_request, internal, no_such_resource
from inroad.sandbox.apiserver.store import Store
from inroad.sandbox.apiserver.subresources import ReadLog
from inroad.sandbox.apiserver.webhooks import Webhooks

log = structlog.get_logger(__name__)
_PUBLIC = ("/healthz", "/livez", "/readyz", "/version")
_FAULTS = "/debug/faults"
Json = dict[str, Any]
CONTROLLER = User(
    "system:serviceaccount:kube-system:replicaset-controller",
    ("system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"),
)
"""Who makes pods in a real cluster."""


class ApiServer:
    """Serves a store over HTTPS.

    `sockets` are bound already, to ports by number (they may live in other network namespaces); they are
    listened on by `start` and closed by `stop`. `tls` comes from `certs.server_context`. `dial_pod` connects
    into a pod's loopback. Without an `authorizer` everybody with valid credentials may do everything.
    """

    def __init__(
        self,
        store: Store,
        *,
        dial_pod: DialPod,
        sockets: Sequence[socket.socket],
        tls: ssl.SSLContext,
        authenticator: Authenticator,
        authorizer: Authorizer | None = None,
        read_log: ReadLog | None = None,
    ) -> None:
        self.store = store
        self.authenticator = authenticator
        self.authorizer = authorizer or Restricted()
        self.faults = Faults(self)
        self._sockets = list(sockets)
        self._tls = tls
        self.admission = Admission(store, Webhooks(store, dial_pod))
        store.admit = self._admit
        reviews = Reviews(authenticator, self.authorizer)
        self._handlers = Handlers(store, reviews, self.faults, self.admission, read_log)
        self._forwarding = Forwarding(store, dial_pod)
        self._server: web.Server | None = None
        self._listeners: list[asyncio.AbstractServer] = []

    async def start(self) -> None:
        """Accept connections from now on."""
        self._server = web.Server(self._handle, access_log=None, keepalive_timeout=3600.0)
        await self.listen(True)

    async def stop(self) -> None:
        """End all connections and close the listening sockets."""
        self.faults.close()
        await self.listen(False)
        self.reset_connections()
        if self._server is not None:
            await self._server.shutdown(0.5)
            self._server = None
        for listener in self._sockets:
            listener.close()

    async def _admit(self, plural: str, obj: Json, namespace: str) -> Json:
        """Ask the webhooks about an object that a controller of the sandbox creates."""
        target = Target("create", BY_PLURAL[plural], namespace or None, "", "")
        name = obj["metadata"].get("name", "")
        attributes = Attributes(target, CONTROLLER, name, namespace, None, dry_run=False)
        return await self.admission.admit(attributes, obj) or obj

    # -- for faults ---------------------------------------------------------------------------------

    async def listen(self, yes: bool) -> None:
        """Accept connections, or refuse them; the addresses stay ours."""
        if yes and not self._listeners and self._server is not None:
            loop = asyncio.get_running_loop()
            for listener in self._sockets:
                self._listeners.append(
                    await loop.create_server(self._server, sock=listener.dup(), ssl=self._tls, backlog=1024)
                )
        elif not yes:
            for server in self._listeners:
                server.close()
            self._listeners.clear()
            for listener in self._sockets:
                # Linux: a listening socket that is shut down refuses, stays bound when it was bound to a
                # port by number, and can listen again.
                with contextlib.suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)

    def break_watches(self, match: Restriction) -> int:
        """End the watches that match; return how many."""
        ended = [watch for watch in self._handlers.watches if match.meets(watch.user, watch.target)]
        for watch in ended:
            watch.stop()
        return len(ended)

    def forget_versions(self) -> None:
        """Drop the history of watches and the versions that lists could be continued at."""
        self._handlers.lists.forget()
        self.store.forget_history()

    def hang_up(self) -> int:
        """Cut the port-forwards; return how many."""
        return self._forwarding.abort()

    def reset_connections(self) -> int:
        """Cut all connections; return how many."""
        forwards = self.hang_up()
        connections = self._server.connections if self._server is not None else []
        for connection in connections:
            if connection.transport is not None:
                connection.transport.abort()
        return len(connections) or forwards

    # -- requests -----------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._route(request)
        except ApiError as error:
            return json_response(encode(error.body()), error.code, error.headers)
        except ConnectionError:
            raise
        except Exception as error:
            log.exception("request failed", method=request.method, path=request.path)
            return json_response(encode(internal(str(error)).body()), 500)

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        user = self._user(request)
        path = split_path(request.rel_url.raw_path)
        if path is None or not path.plural:
            return await self._document(request, user)
        target = target_of(request.method, path, Query(request.query_string))
        if target is None or not documents.served(self.store, target.resource):
            if not any(one.group == path.group for one in RESOURCES):
                return web.Response(status=404, text="404 page not found\n")
            raise no_such_resource()
        await self.faults.before(user, target)
        if not self.authorizer.allows(user, target):
            raise denied(user, target)
        return await self._answer(request, target, user)

    async def _answer(self, request: web.BaseRequest, target: Target, user: User) -> web.StreamResponse:
        if (target.resource.plural, target.subresource) == ("pods", "portforward") and target.name:
            return await self._forwarding.answer(request, target)
        return await self._handlers.answer(request, target, user)

    async def _document(self, request: web.BaseRequest, user: User) -> web.StreamResponse:
        asked = PathTarget(request.method.lower(), request.path)
        if request.path not in _PUBLIC and not self.authorizer.allows_path(user, asked):
            raise path_denied(user, asked)
        if request.path != _FAULTS:
            return documents.answer(request, self.store, self.authenticator)
        if ADMINISTRATORS not in user.groups:
            raise path_denied(user, asked)
        if request.method != "POST":
            return json_response(encode(self.faults.state()))
        try:
            wanted = msgspec.json.decode(await request.read(), type=dict[str, object])
        except msgspec.DecodeError as error:
            raise bad_request(str(error)) from None
        return json_response(encode(await self.faults.apply(wanted)))

    def _user(self, request: web.BaseRequest) -> User:
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        return self.authenticator.user_of(request.headers.get("Authorization", ""), certificate)
