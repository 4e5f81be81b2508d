"""Requests to one API server, with errors that a user understands.

One connection pool, whose sockets carry our mark (they pass the VIF by) and notice a dead peer. When the
credentials expire or the server says 401, they are fetched anew, once for everybody who waits.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from inroad import __version__
from inroad.core.errors import ApiUnreachable, CredentialsRejected
from inroad.kube import service_account, tls
from inroad.kube.credentials import Credentials
from inroad.kube.failures import ApiStatus, Request, from_exception, from_status
from inroad.kube.upgrade import Handshake, Upgraded

EXPIRY_SKEW = 30
"""Seconds before their expiry at which credentials are no longer used."""
CONNECT_TIMEOUT = 5.0
"""Seconds until an API server that does not answer is given up, if nobody says otherwise."""
REQUEST_TIMEOUT = 30.0
MAX_ATTEMPTS = 3
MAX_RETRY_AFTER = 5.0
PAGE = 500
JSON = "application/json"
MAX_ERROR_BODY = 64 * 1024
_SO_MARK = 36  # linux/socket.h; not in the `socket` module of other platforms
_TCP_USER_TIMEOUT = 18

T = TypeVar("T")
Refresh = Callable[[], Awaitable[Credentials]]
Params = Mapping[str, str]


class _List(msgspec.Struct):
    """A page of a collection, its items not yet decoded."""

    items: list[msgspec.Raw] | None = None
    metadata: dict[str, Any] = {}


class ApiClient:
    """Speaks to the API server of `credentials`.

    `mark`: fwmark of the sockets, 0 for none (it needs CAP_NET_ADMIN). `refresh`: fetches new credentials;
    without it, expired ones are an error. Every method raises `InroadError`s: `ApiUnreachable`,
    `ApiCertificate`, `CredentialsRejected`, `Forbidden`, or `ApiStatus` with the HTTP status.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        mark: int = 0,
        refresh: Refresh | None = None,
        patience: float = CONNECT_TIMEOUT,
    ) -> None:
        self._credentials = credentials
        self._patience = patience
        self._mark = mark
        self._refresh = refresh
        self._renewing = asyncio.Lock()
        self._ssl = tls.context(credentials)
        self._session: aiohttp.ClientSession | None = None
        self._addresses: set[str] = set()

    @classmethod
    def in_cluster(
        cls, directory: Path = service_account.DIRECTORY, environ: Mapping[str, str] = os.environ
    ) -> ApiClient:
        """Return a client with the rights of this pod's service account."""

        async def refresh() -> Credentials:
            return service_account.read(directory, environ)

        return cls(service_account.read(directory, environ), refresh=refresh)

    @property
    def credentials(self) -> Credentials:
        """The credentials in use."""
        return self._credentials

    @property
    def server(self) -> str:
        """The API server's base URL."""
        return self._credentials.server

    async def get(self, path: str, params: Params | None = None) -> bytes:
        """Return the body (JSON) of one object or one page."""
        return await self.send("GET", path, params)

    async def list_all(self, path: str, params: Params | None = None, *, kind: type[T]) -> list[T]:
        """Return every item of a collection as `kind` (`dict` for all of it), read in pages."""
        decoder = msgspec.json.Decoder(kind)
        items: list[T] = []
        async for page, _ in self.pages(path, params):
            items += [decoder.decode(raw) for raw in page]
        return items

    async def pages(
        self, path: str, params: Params | None = None
    ) -> AsyncIterator[tuple[Sequence[msgspec.Raw], str]]:
        """Yield (items, resourceVersion of the list) page by page."""
        query = {"limit": str(PAGE), **(params or {})}
        while True:
            page = msgspec.json.decode(await self.get(path, query), type=_List)
            yield page.items or (), str(page.metadata.get("resourceVersion", ""))
            token = page.metadata.get("continue")
            if not token:
                return
            query["continue"] = str(token)

    async def create(self, path: str, body: object, params: Params | None = None) -> bytes:
        """Create an object in a collection; returns it as the server has it."""
        return await self.send("POST", path, params, msgspec.json.encode(body))

    async def delete(self, path: str, params: Params | None = None) -> None:
        """Delete an object."""
        await self.send("DELETE", path, params)

    async def send(
        self,
        method: str,
        path: str,
        params: Params | None = None,
        body: bytes | None = None,
        *,
        content_type: str = JSON,
    ) -> bytes:
        """Send one request and return the body of its answer.

        A busy server (429, 503) that says when to come again is asked again, `MAX_ATTEMPTS` times in all.
        """
        for attempt in range(1, MAX_ATTEMPTS + 1):
            opened = self.open(method, path, params, body, timeout=REQUEST_TIMEOUT, content_type=content_type)
            try:
                async with opened as response:
                    return await response.read()
            except ApiStatus as error:
                if attempt == MAX_ATTEMPTS or not 0 < error.retry_after <= MAX_RETRY_AFTER:
                    raise
                await asyncio.sleep(error.retry_after)
        raise AssertionError("the last attempt returns or raises")

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        params: Params | None = None,
        body: bytes | None = None,
        *,
        timeout: float | None = None,
        content_type: str = JSON,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and yield its answer, whose body has not been read (a watch never ends).

        `timeout` in seconds for all that happens inside the `async with`, None for no limit.
        """

        async def attempt() -> aiohttp.ClientResponse:
            options = self._options()
            if body is not None:
                options["headers"]["Content-Type"] = content_type
            return await self._pool().request(method, self.server + path, params=params, data=body, **options)

        try:
            async with asyncio.timeout(timeout):
                response = await self._authorized(attempt)
                async with response:
                    yield response
        except (aiohttp.ClientError, OSError, ssl.SSLError) as error:
            raise from_exception(self.server, error) from error

    async def upgrade(self, path: str, params: Params, protocols: Sequence[str]) -> Upgraded:
        """Ask for a WebSocket, without extensions; returns its connection, for a protocol of the caller's."""
        handshake = Handshake(protocols)

        async def attempt() -> Upgraded:
            options = self._options()
            options["headers"] |= handshake.headers
            response = await self._pool().get(
                self.server + path, params=params, read_until_eof=False, **options
            )
            return handshake.check(response)

        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                return await self._authorized(attempt)
        except (aiohttp.ClientError, OSError, ssl.SSLError) as error:
            raise from_exception(self.server, error) from error

    async def server_addresses(self) -> tuple[str, ...]:
        """Return the addresses that lead to the API server: resolved now, and connected to so far."""
        loop = asyncio.get_running_loop()
        for url in (self.server, self._credentials.proxy_url):
            host = urlsplit(url).hostname
            if not host:
                continue
            try:
                found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except OSError as error:
                if not self._addresses:
                    raise ApiUnreachable(
                        f"the name {host} of the API server does not resolve: {error.strerror}"
                    ) from error
                continue
            self._addresses.update(str(item[4][0]).partition("%")[0] for item in found)
        return self.addresses

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of `server_addresses` that are known without asking a name server again."""
        return tuple(sorted(self._addresses))

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _authorized(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Make an attempt with credentials that hold, and another one when they turn out not to."""
        expiry = self._credentials.expiry
        if expiry and time.time() > expiry - EXPIRY_SKEW:
            await self._renew(self._credentials)
        used = self._credentials
        try:
            return await attempt()
        except CredentialsRejected:
            if self._refresh is None:
                raise
            await self._renew(used)
            return await attempt()

    async def _renew(self, used: Credentials) -> None:
        """Fetch new credentials, unless somebody else has replaced `used` meanwhile."""
        if self._refresh is None:
            return
        async with self._renewing:
            if self._credentials is used:
                fresh = await self._refresh()
                if tls.material(fresh) != tls.material(used):
                    self._ssl = tls.context(fresh)
                self._credentials = fresh

    def _options(self) -> dict[str, Any]:
        """Return what every request needs: authorization, TLS, proxy."""
        headers: dict[str, str] = {}
        credentials = self._credentials
        if credentials.token:
            headers["Authorization"] = f"Bearer {credentials.token}"
        elif credentials.username:
            pair = aiohttp.BasicAuth(credentials.username, credentials.password, "utf-8")
            headers["Authorization"] = pair.encode()
        options: dict[str, Any] = {"headers": headers, "ssl": self._ssl}
        if credentials.proxy_url:
            options["proxy"] = credentials.proxy_url
        if credentials.tls_server_name:
            options["server_hostname"] = credentials.tls_server_name
        return options

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, socket_factory=self._socket),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._patience),
                headers={"User-Agent": f"inroad/{__version__}", "Accept": JSON},
                cookie_jar=aiohttp.DummyCookieJar(),
                middlewares=(self._refuse_errors,),
            )
        return self._session

    async def _refuse_errors(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Turn an answer of 400 or more into an exception, its body read: WebSockets' too."""
        response = await handler(request)
        if response.status < 400:
            return response
        async with asyncio.timeout(CONNECT_TIMEOUT):
            body = await response.content.read(MAX_ERROR_BODY)
        response.close()
        watch, upgrade = "watch" in request.url.query, "Upgrade" in request.headers
        asked = Request.of(request.method, request.url.path, watch=watch, upgrade=upgrade)
        retry_after = response.headers.get("Retry-After", "")
        raise from_status(self.server, asked, response.status, body, retry_after)

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Make the socket of a connection: marked, and closed by the kernel when the peer is gone."""
        family, kind, protocol, _, address = info
        sock = socket.socket(family, kind, protocol)
        try:
            if self._mark:
                sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, self._mark)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, seconds in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
                option = getattr(socket, name, None)
                if option is not None:
                    sock.setsockopt(socket.IPPROTO_TCP, option, seconds)
            if self._mark:  # Linux: unacknowledged data for 30 s ends the connection
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, 30_000)
        except OSError:
            sock.close()
            raise
        self._addresses.add(str(address[0]).partition("%")[0])
        return sock
