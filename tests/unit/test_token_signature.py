"""Signatures of service-account tokens: what holds, and every way in which one does not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from inroad.manager.token_signature import BadToken, Bound, UnknownKey, check, read_keys

NOW = 1_800_000_000.0
ISSUER, AUDIENCE = "https://kubernetes.default.svc", "inroad-traffic-manager"
CLAIMS = {
    "iss": ISSUER,
    "sub": "system:serviceaccount:shop:default",
    "aud": [AUDIENCE],
    "iat": NOW - 60,
    "nbf": NOW - 60,
    "exp": NOW + 3540,
    "kubernetes.io": {
        "namespace": "shop",
        "pod": {"name": "web-1", "uid": "uid-1"},
        "serviceaccount": {"name": "default", "uid": "sa-1"},
        "node": {"name": "node-1", "uid": "n-1"},
    },
}
RSA_KEY = rsa.generate_private_key(65_537, 2_048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, size: int) -> str:
    return b64(value.to_bytes(size, "big"))


def rsa_jwk(key=RSA_KEY, **more):
    numbers = key.public_key().public_numbers()
    size = (key.key_size + 7) // 8
    return {"kty": "RSA", "kid": "rsa", "use": "sig", "n": number(numbers.n, size), "e": "AQAB", **more}


def ec_jwk(**more):
    numbers = EC_KEY.public_key().public_numbers()
    x, y = number(numbers.x, 32), number(numbers.y, 32)
    return {"kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "x": x, "y": y, **more}


def key_set(*keys) -> bytes:
    return json.dumps({"keys": keys}).encode()


KEYS = read_keys(key_set(rsa_jwk(alg="RS256"), ec_jwk(alg="ES256")))


def rs256(text: bytes) -> bytes:
    return RSA_KEY.sign(text, padding.PKCS1v15(), hashes.SHA256())


def es256(text: bytes) -> bytes:
    r, s = utils.decode_dss_signature(EC_KEY.sign(text, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def token(sign=es256, header=None, **claims) -> str:
    header = header or {"alg": "ES256", "kid": "ec"}
    body = {name: value for name, value in (CLAIMS | claims).items() if value is not None}
    text = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(body).encode())}"
    return f"{text}.{b64(sign(text.encode()))}"


def checked(text: str, keys=None, now: float = NOW) -> Bound:
    return check(text, KEYS if keys is None else keys, issuer=ISSUER, audience=AUDIENCE, now=now)


RS = {"alg": "RS256", "kid": "rsa"}


def test_both_algorithms_hold() -> None:
    wanted = Bound("shop", "web-1", "uid-1")
    assert checked(token()) == checked(token(rs256, RS)) == wanted
    assert checked(token(aud=AUDIENCE)) == wanted  # RFC 7519 allows one audience as a string
    assert checked(token(nbf=None)) == wanted


def hmac_with_public_key(text: bytes) -> bytes:
    """The classic confusion: the RSA key, which everybody knows, as the secret of an HMAC."""
    pem = RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hmac.new(pem, text, hashlib.sha256).digest()


def der(text: bytes) -> bytes:
    return EC_KEY.sign(text, ec.ECDSA(hashes.SHA256()))


WRONG = {
    "no signature": (token(lambda text: b"", {"alg": "none", "kid": "ec"}), "algorithm 'none'"),
    "hmac of the public key": (
        token(hmac_with_public_key, {"alg": "HS256", "kid": "rsa"}),
        "algorithm 'HS256'",
    ),
    "hmac said to be RS256": (token(hmac_with_public_key, RS), "signature is wrong"),
    "ES256 by the RSA key's id": (token(es256, {"alg": "ES256", "kid": "rsa"}), "algorithm 'ES256'"),
    "RS256 by the EC key's id": (token(rs256, {"alg": "RS256", "kid": "ec"}), "algorithm 'RS256'"),
    "RS512": (token(rs256, {"alg": "RS512", "kid": "rsa"}), "algorithm 'RS512'"),
    "DER instead of raw numbers": (token(der), "algorithm"),
    "a signature of nothing": (token(lambda text: bytes(64)), "signature is wrong"),
    "critical extensions": (token(header={"alg": "ES256", "kid": "ec", "crit": ["b64"]}), "critical"),
    "two parts": ("e30.e30", "no JWT"),
    "four parts": (token() + ".e30", "no JWT"),
    "not base64": ("%%.%%.%%", "no JWT"),
    "not ASCII": ("\u00e4.e30.e30", "no JWT"),
    "no header": (f"{b64(b'[]')}.e30.e30", "no JWT"),
    "too long": ("x" * 20_000, "longer than"),
    "another issuer": (token(iss="https://evil"), "another issuer"),
    "another audience": (token(aud=[ISSUER]), "not for inroad-traffic-manager"),
    "no audience": (token(aud=[]), "not for"),
    "expired": (token(exp=NOW - 11), "expired"),
    "not yet": (token(nbf=NOW + 60), "not valid yet"),
    "no expiry": (token(exp=None), "claims can't be read"),
    "not bound": (token(**{"kubernetes.io": {"namespace": "shop"}}), "not bound to a pod"),
    "no claims of kubernetes": (token(**{"kubernetes.io": None}), "not bound to a pod"),
    "a user's": (token(sub="admin"), "service account"),
    "an account of elsewhere": (token(sub="system:serviceaccount:other:default"), "service account"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_hold(name: str) -> None:
    text, words = WRONG[name]
    with pytest.raises(BadToken, match=words):
        checked(text)


def test_a_changed_claim_breaks_the_signature() -> None:
    header, _, signature = token().split(".")
    other = b64(json.dumps(CLAIMS | {"sub": "system:serviceaccount:shop:root"}).encode())
    with pytest.raises(BadToken, match="signature is wrong"):
        checked(f"{header}.{other}.{signature}")


@pytest.mark.parametrize("kid", ["", "other"])
def test_an_unknown_key_is_told_apart(kid: str) -> None:
    with pytest.raises(UnknownKey):
        checked(token(header={"alg": "ES256", "kid": kid}))


def test_only_keys_that_may_sign_are_taken() -> None:
    weak = rsa.generate_private_key(65_537, 1_024)
    keys = read_keys(
        key_set(
            rsa_jwk(kid="a", use="enc"),
            rsa_jwk(kid="b", alg="RS512"),
            rsa_jwk(weak, kid="c"),
            ec_jwk(kid="d", crv="P-384"),
            {"kty": "oct", "kid": "e", "k": "c2VjcmV0"},
            ec_jwk(kid="f"),
        )
    )
    assert set(keys) == {"f"}


@pytest.mark.parametrize(
    "document", [b"", b"{}", b'{"keys": 1}', key_set(ec_jwk(x="AQ")), key_set(rsa_jwk(n="%"))]
)
def test_nonsense_is_no_key_set(document: bytes) -> None:
    with pytest.raises(BadToken, match="keys can't be read"):
        read_keys(document)
