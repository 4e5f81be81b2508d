"""Service-account tokens: JWTs (RFC 7519) with the claims Kubernetes writes, signed with ES256.

Bound to an audience, a service account, and mostly a pod; whoever gets one can read all that from it.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

ISSUER = "https://kubernetes.default.svc.cluster.local"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid service-account token says."""

    namespace: str
    account: str
    account_uid: str
    audiences: tuple[str, ...]
    expires: float
    """Seconds since the epoch."""
    token_id: str
    pod: str = ""
    pod_uid: str = ""


class TokenIssuer:
    """Signs and checks the service-account tokens of one cluster."""

    def __init__(self, now: Callable[[], float] = time.time, key_id: str = "sandbox") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._key_id = key_id
        self._now = now
        self._header = _encode({"alg": "ES256", "kid": key_id, "typ": "JWT"})
        self._known: dict[str, Claims] = {}

    def issue(
        self,
        namespace: str,
        account: str,
        account_uid: str,
        *,
        audiences: Sequence[str] = (ISSUER,),
        lifetime: float = 3600.0,
        pod: str = "",
        pod_uid: str = "",
    ) -> str:
        """Return a token, valid for `lifetime` seconds from now."""
        now = int(self._now())
        bound: Json = {"namespace": namespace, "serviceaccount": {"name": account, "uid": account_uid}}
        if pod:
            bound["pod"] = {"name": pod, "uid": pod_uid}
        claims = {
            "aud": list(audiences),
            "exp": now + int(lifetime),
            "iat": now,
            "iss": ISSUER,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": bound,
            "nbf": now,
            "sub": f"system:serviceaccount:{namespace}:{account}",
        }
        signed = f"{self._header}.{_encode(claims)}"
        r, s = utils.decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def check(self, token: str) -> Claims | None:
        """Return what a token says, or None when it is not ours or has expired."""
        claims = self._known.get(token)
        if claims is None:
            claims = self._verify(token)
            if claims is None:
                return None
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[token] = claims
        return claims if self._now() < claims.expires else None

    def keys(self) -> Json:
        """Return the JSON Web Key Set (`/openid/v1/jwks`)."""
        numbers = self._key.public_key().public_numbers()
        return {
            "keys": [
                {
                    "use": "sig",
                    "kty": "EC",
                    "kid": self._key_id,
                    "crv": "P-256",
                    "alg": "ES256",
                    "x": _base64(numbers.x.to_bytes(32, "big")),
                    "y": _base64(numbers.y.to_bytes(32, "big")),
                }
            ]
        }

    def _verify(self, token: str) -> Claims | None:
        try:
            header, payload, signature = token.split(".")
            raw = _unbase64(signature)
            if header != self._header or len(raw) != 64:
                return None
            r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
            self._key.public_key().verify(
                utils.encode_dss_signature(r, s), f"{header}.{payload}".encode(), ec.ECDSA(hashes.SHA256())
            )
            claims = msgspec.json.decode(_unbase64(payload))
        except (ValueError, InvalidSignature):
            return None
        bound = claims["kubernetes.io"]
        pod = bound.get("pod", {})
        return Claims(
            bound["namespace"],
            bound["serviceaccount"]["name"],
            bound["serviceaccount"]["uid"],
            tuple(claims["aud"]),
            float(claims["exp"]),
            claims["jti"],
            pod.get("name", ""),
            pod.get("uid", ""),
        )


def _encode(obj: Json) -> str:
    return _base64(msgspec.json.encode(obj))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
