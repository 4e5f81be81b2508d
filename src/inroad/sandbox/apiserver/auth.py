"""Who sends a request: bearer tokens, service-account tokens, client certificates, or nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inroad.sandbox.apiserver.status import unauthorized
from inroad.sandbox.apiserver.store import Store
from inroad.sandbox.apiserver.tokens import ISSUER, Claims, TokenIssuer

AUTHENTICATED = "system:authenticated"
ADMINISTRATORS = "system:masters"


@dataclass(frozen=True, slots=True)
class User:
    """Who somebody is to the API server."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def info(self) -> dict[str, Any]:
        """Return the `userInfo` of reviews."""
        info: dict[str, Any] = {"username": self.name}
        if self.uid:
            info["uid"] = self.uid
        info["groups"] = list(self.groups)
        if self.extra:
            info["extra"] = {key: list(values) for key, values in self.extra.items()}
        return info


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))


def administrator(name: str = "kubernetes-admin") -> User:
    """Return a user who may do everything, unless a restriction names them."""
    return User(name, (ADMINISTRATORS, AUTHENTICATED))


class Authenticator:
    """Finds the user of a request. `tokens` may be changed while the server runs: that revokes them."""

    def __init__(
        self, store: Store, tokens: Mapping[str, User] | None = None, issuer: TokenIssuer | None = None
    ) -> None:
        self.tokens = dict(tokens or {})
        self.issuer = issuer or TokenIssuer(store.now)
        self._store = store

    def user_of(self, authorization: str, certificate: Mapping[str, Any] | None) -> User:
        """Return who it is by the verified client certificate, else the Authorization header; 401.

        The certificate comes first, as in kube-apiserver: a token beside it is not even looked at.
        """
        if certificate:
            return _user_of_certificate(certificate)
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            user = self.user_of_token(token.strip())
            if user is None:
                raise unauthorized()
            return user
        return ANONYMOUS

    def user_of_token(self, token: str, audience: str = ISSUER) -> User | None:
        """Return whose token it is, or None: unknown, expired, another audience, its pod is gone."""
        user = self.tokens.get(token)
        if user is not None:
            return user if audience == ISSUER else None
        claims = self.issuer.check(token)
        if claims is None or audience not in claims.audiences or not self._alive(claims):
            return None
        return _user_of_claims(claims)

    def _alive(self, claims: Claims) -> bool:
        """A token dies with the account and the pod it is bound to."""
        account = self._store.find("serviceaccounts", claims.account, claims.namespace)
        if account is None or account["metadata"]["uid"] != claims.account_uid:
            return False
        if not claims.pod:
            return True
        pod = self._store.find("pods", claims.pod, claims.namespace)
        return pod is not None and pod["metadata"]["uid"] == claims.pod_uid


def _user_of_claims(claims: Claims) -> User:
    extra = {"authentication.kubernetes.io/credential-id": (f"JTI={claims.token_id}",)}
    if claims.pod:
        extra["authentication.kubernetes.io/pod-name"] = (claims.pod,)
        extra["authentication.kubernetes.io/pod-uid"] = (claims.pod_uid,)
    groups = (
        "system:serviceaccounts",
        f"system:serviceaccounts:{claims.namespace}",
        AUTHENTICATED,
    )
    name = f"system:serviceaccount:{claims.namespace}:{claims.account}"
    return User(name, groups, claims.account_uid, extra)


def _user_of_certificate(certificate: Mapping[str, Any]) -> User:
    name, groups = "", []
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                name = value
            elif key == "organizationName":
                groups.append(value)
    return User(name, (*groups, AUTHENTICATED))
