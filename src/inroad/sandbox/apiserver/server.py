"""The API server: TLS listeners, and a request's way through authentication and rights to its handler."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Sequence

import structlog
from aiohttp import web

from inroad.sandbox.apiserver import documents, handlers
from inroad.sandbox.apiserver.auth import ANONYMOUS, Authenticator, User
from inroad.sandbox.apiserver.collection import encode
from inroad.sandbox.apiserver.portforward import DialPod
from inroad.sandbox.apiserver.requests import Query, split_path, target_of
from inroad.sandbox.apiserver.rights import Authorizer, Restricted, denied, path_denied
from inroad.sandbox.apiserver.status import ApiError, internal, no_such_resource
from inroad.sandbox.apiserver.store import Store

log = structlog.get_logger(__name__)
_PUBLIC = (
    "/healthz",
    "/livez",
    "/readyz",
    "/version",
    "/.well-known/openid-configuration",
    "/openid/v1/jwks",
)


class ApiServer:
    """Serves a store over HTTPS.

    `sockets` are bound already (they may live in other network namespaces); they are listened on by `start`
    and closed by `stop`. `tls` comes from `certs.server_context`. `dial_pod` connects into a pod's loopback.
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
    ) -> None:
        self.store = store
        self.authenticator = authenticator
        self.authorizer = authorizer or Restricted()
        self._sockets = list(sockets)
        self._tls = tls
        self._handlers = handlers.Handlers(store, dial_pod)
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        """Accept connections from now on."""
        server = web.Server(self._handle, access_log=None, keepalive_timeout=3600.0)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.5)
        await self._runner.setup()
        for listener in self._sockets:
            site = web.SockSite(self._runner, listener.dup(), ssl_context=self._tls, backlog=1024)
            await site.start()

    async def stop(self) -> None:
        """End all connections and close the listening sockets."""
        self._handlers.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        for listener in self._sockets:
            with contextlib.suppress(OSError):
                listener.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._route(request)
        except ApiError as error:
            return status_response(error)
        except ConnectionError:
            raise
        except Exception as error:
            log.exception("request failed", method=request.method, path=request.path)
            return status_response(internal(str(error)))

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        user = self._user(request)
        path = split_path(request.rel_url.raw_path)
        if path is None or not path.plural:
            if user is ANONYMOUS and request.path not in _PUBLIC:
                raise path_denied(user, request.method.lower(), request.path)
            return documents.answer(request, self.store, self.authenticator)
        target = target_of(request.method, path, Query(request.query_string))
        if target is None or not documents.served(self.store, target.resource):
            raise no_such_resource()
        if not self.authorizer.allows(user, target):
            raise denied(user, target)
        return await self._handlers.answer(request, target, user)

    def _user(self, request: web.BaseRequest) -> User:
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        return self.authenticator.user_of(request.headers.get("Authorization", ""), certificate)


def status_response(error: ApiError) -> web.Response:
    """Return a Status as an HTTP answer."""
    return web.Response(
        status=error.code,
        body=encode(error.body()),
        content_type="application/json",
        headers=error.headers,
    )
