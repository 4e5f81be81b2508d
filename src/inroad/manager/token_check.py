"""Whose a service-account token is: the API server reviews it, or its signature is checked here.

A TokenReview is better: the API server knows of deleted pods and accounts. A manager whose rights end at its
namespaces may not ask for one (TokenReviews are the whole cluster's), but every service account may read the
keys by which tokens are signed (ClusterRole `system:service-account-issuer-discovery`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
import structlog

from inroad.core.errors import Forbidden, InroadError
from inroad.core.messages import TOKEN_AUDIENCE, AgentHello
from inroad.manager.identity import NotNow, NotProved
from inroad.manager.token_signature import BadToken, Bound, Key, UnknownKey, check, read_keys

POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"
REREAD = 30.0
"""Seconds between two looks at the cluster's keys, when a token names one that is not known."""
ASK_AGAIN = 600.0
"""Seconds after which a manager that may not ask for reviews tries again whether it may by now."""

log = structlog.get_logger()


class Api(Protocol):
    """What of `kube.client.ApiClient` is used."""

    async def create(self, path: str, body: Any) -> bytes:
        """Create an object; returns the answer's body; raises `InroadError`."""

    async def get(self, path: str) -> bytes:
        """Return a document; raises `InroadError`."""


class _User(msgspec.Struct):
    username: str = ""
    extra: dict[str, list[str]] = {}


class _ReviewStatus(msgspec.Struct):
    authenticated: bool = False
    user: _User = msgspec.field(default_factory=_User)
    audiences: list[str] = []
    error: str = ""


class _Review(msgspec.Struct):
    status: _ReviewStatus


class _Discovery(msgspec.Struct):
    issuer: str


_review = msgspec.json.Decoder(_Review)


class TokenCheck:
    """Finds out whose tokens are. `clock`: seconds since the epoch, as tokens count them."""

    def __init__(self, api: Api, clock: Callable[[], float] = time.time) -> None:
        self._api = api
        self._clock = clock
        self._no_reviews_until = 0.0
        self._issuer = ""
        self._keys: Mapping[str, Key] = {}
        self._read_at = float("-inf")

    async def prove(self, hello: AgentHello) -> None:
        """Check the token of a claim; raises `NotProved` when it is not the claimed pod's."""
        if self._clock() < self._no_reviews_until:
            bound = await self._by_signature(hello.token)
        else:
            try:
                bound = await self._by_review(hello.token)
            except Forbidden as error:
                log.info("tokens are checked by their signature", reason=str(error))
                self._no_reviews_until = self._clock() + ASK_AGAIN
                bound = await self._by_signature(hello.token)
        if bound != Bound(hello.namespace, hello.pod, hello.uid):
            raise NotProved(f"the token is of pod {bound.namespace}/{bound.pod}, not of the claimed one")

    async def _by_review(self, token: str) -> Bound:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [TOKEN_AUDIENCE]},
        }
        try:
            answer = await self._api.create("/apis/authentication.k8s.io/v1/tokenreviews", body)
            status = _review.decode(answer).status
        except Forbidden:
            raise
        except (InroadError, msgspec.MsgspecError) as error:
            raise NotNow(f"the token could not be reviewed: {error}") from None
        if not status.authenticated or TOKEN_AUDIENCE not in status.audiences:
            why = status.error or "not authenticated"
            raise NotProved(f"the API server does not accept the token: {why}")
        account = status.user.username.split(":")
        namespace = account[2] if account[:2] == ["system", "serviceaccount"] and len(account) == 4 else ""
        name, uid = ((status.user.extra.get(key) or [""])[0] for key in (POD_NAME, POD_UID))
        return Bound(namespace, name, uid)

    async def _by_signature(self, token: str) -> Bound:
        try:
            try:
                return self._check(token)
            except UnknownKey:
                await self._read()
                return self._check(token)
        except BadToken as error:
            raise NotProved(f"the token does not hold: {error}") from None

    def _check(self, token: str) -> Bound:
        return check(token, self._keys, issuer=self._issuer, audience=TOKEN_AUDIENCE, now=self._clock())

    async def _read(self) -> None:
        """Read the cluster's keys, unless that was done a moment ago."""
        now = self._clock()
        if now - self._read_at < REREAD:
            return
        try:
            document = await self._api.get("/.well-known/openid-configuration")
            issuer = msgspec.json.decode(document, type=_Discovery).issuer
            keys = read_keys(await self._api.get("/openid/v1/jwks"))
        except Forbidden as error:
            raise NotProved(
                f"tokens can't be checked: {error.message}; the traffic-manager needs the right to create "
                "tokenreviews, or the ClusterRole system:service-account-issuer-discovery"
            ) from None
        except (InroadError, msgspec.MsgspecError, BadToken) as error:
            raise NotNow(f"the cluster's keys could not be read: {error}") from None
        self._read_at, self._issuer, self._keys = now, issuer, keys
