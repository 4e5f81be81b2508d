"""Checks service-account tokens by their signature, for managers that may not ask for TokenReviews.

Tokens are JWTs (RFC 7519, 7515) that Kubernetes signs with RS256 or ES256. The key decides the algorithm: one
of RSA takes only RS256, one of P-256 only ES256, whatever a token's header says. Everything here is bounded
and nothing of a token is believed before its signature was checked.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

MAX_TOKEN = 16 << 10
"""Characters; those of Kubernetes have about 1,200."""
MAX_KEYS = 64
LEEWAY = 10.0
"""Seconds by which clocks may differ."""
MIN_RSA_BITS, MAX_RSA_BITS = 2_048, 8_192

Key = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class BadToken(Exception):
    """The token does not hold; the text says why, in one line."""


class UnknownKey(BadToken):
    """It is signed with a key that is not known (yet)."""


class _Header(msgspec.Struct):
    alg: str
    kid: str = ""
    crit: list[str] | None = None


class _Named(msgspec.Struct):
    name: str
    uid: str


class _Kubernetes(msgspec.Struct):
    namespace: str
    pod: _Named | None = None


class _Claims(msgspec.Struct):
    iss: str
    sub: str
    aud: str | list[str]
    exp: float
    nbf: float = 0.0
    kubernetes: _Kubernetes | None = msgspec.field(default=None, name="kubernetes.io")


class _Jwk(msgspec.Struct):
    kty: str
    kid: str = ""
    use: str = "sig"
    alg: str = ""
    crv: str = ""
    n: str = ""
    e: str = ""
    x: str = ""
    y: str = ""


class _KeySet(msgspec.Struct):
    keys: list[_Jwk]


_header = msgspec.json.Decoder(_Header)
_claims = msgspec.json.Decoder(_Claims)


@dataclass(frozen=True, slots=True)
class Bound:
    """The pod to which a token is bound."""

    namespace: str
    pod: str
    uid: str


def read_keys(document: bytes) -> dict[str, Key]:
    """Return the keys of a JSON Web Key Set (RFC 7517) that may sign tokens, by id; raises `BadToken`."""
    try:
        found = msgspec.json.decode(document, type=_KeySet).keys[:MAX_KEYS]
        return {one.kid: key for one in found if (key := _key(one)) is not None}
    except (msgspec.MsgspecError, ValueError) as error:
        raise BadToken(f"the cluster's keys can't be read: {error}") from None


def _key(one: _Jwk) -> Key | None:
    """Return a key, None for one of a kind that signs no tokens here."""
    if one.use != "sig":
        return None
    if one.kty == "RSA" and one.alg in ("", "RS256"):
        key = rsa.RSAPublicNumbers(_number(one.e), _number(one.n)).public_key()
        return key if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS else None
    if one.kty == "EC" and one.crv == "P-256" and one.alg in ("", "ES256"):
        return ec.EllipticCurvePublicNumbers(_number(one.x), _number(one.y), ec.SECP256R1()).public_key()
    return None


def check(token: str, keys: Mapping[str, Key], *, issuer: str, audience: str, now: float) -> Bound:
    """Return the pod of a token that holds at `now` (seconds since the epoch).

    Raises `UnknownKey` when none of `keys` has signed it, `BadToken` for anything else that is wrong with it.
    """
    if len(token) > MAX_TOKEN:
        raise BadToken(f"it is longer than {MAX_TOKEN} characters")
    parts = token.split(".")
    if len(parts) != 3:
        raise BadToken("it is no JWT")
    try:
        header = _header.decode(_bytes(parts[0]))
        signature = _bytes(parts[2])
    except (msgspec.MsgspecError, ValueError):
        raise BadToken("it is no JWT") from None
    if header.crit is not None:
        raise BadToken("it has critical extensions")
    key = keys.get(header.kid)
    if key is None:
        raise UnknownKey("it is signed with a key that is not the cluster's")
    _verify(key, header.alg, f"{parts[0]}.{parts[1]}".encode(), signature)
    try:
        claims = _claims.decode(_bytes(parts[1]))
    except (msgspec.MsgspecError, ValueError) as error:
        raise BadToken(f"its claims can't be read: {error}") from None
    return _bound(claims, issuer, audience, now)


def _verify(key: Key, algorithm: str, signed: bytes, signature: bytes) -> None:
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm == "RS256":
            key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm == "ES256" and len(signature) == 64:
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            key.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
        else:
            raise BadToken(f"its algorithm {algorithm[:20]!r} is not that of its key")
    except InvalidSignature:
        raise BadToken("its signature is wrong") from None


def _bound(claims: _Claims, issuer: str, audience: str, now: float) -> Bound:
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    if claims.iss != issuer:
        raise BadToken("it is of another issuer")
    if audience not in audiences:
        raise BadToken(f"it is not for {audience}")
    if not claims.nbf - LEEWAY <= now < claims.exp + LEEWAY:
        raise BadToken("it has expired" if now >= claims.exp else "it is not valid yet")
    bound = claims.kubernetes
    if bound is None or bound.pod is None:
        raise BadToken("it is not bound to a pod")
    if not claims.sub.startswith(f"system:serviceaccount:{bound.namespace}:"):
        raise BadToken("it is not of a service account of its namespace")
    return Bound(bound.namespace, bound.pod.name, bound.pod.uid)


def _bytes(text: str) -> bytes:
    """Decode base64url without padding (RFC 7515); raises ValueError for anything else."""
    if not text.isascii():
        raise ValueError("not base64url")
    return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)


def _number(text: str) -> int:
    return int.from_bytes(_bytes(text), "big")
