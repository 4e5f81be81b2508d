"""The certificates by which agents know their manager: a CA of our own, kept in a Secret of the chart.

The first manager fills it; every replica and every later version uses the same, so agents stay valid
through upgrades. The server certificate is renewed when it has less than a month left (`Certificates`), and
is also what the API server sees when it asks about sidecars.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from inroad.core.errors import InroadError
from inroad.kube.client import ApiClient
from inroad.kube.failures import ApiStatus

SECRET = "traffic-manager-tls"  # noqa: S105 - a name
SERVER_NAME = "inroad-traffic-manager"
"""The name that agents look for in the server certificate, whatever address they used."""
CONFLICT = 409
CA_LIFE, LEAF_LIFE, RENEW_BEFORE = timedelta(days=3650), timedelta(days=90), timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Authority:
    """PEM texts: the CA's certificate and key, the server's certificate and key."""

    ca: str
    ca_key: str
    certificate: str
    key: str

    def install(self, context: ssl.SSLContext) -> None:
        """Have a server's context use this certificate, from the next handshake on."""
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # ssl takes only files
            file.write(self.certificate + self.key)
            file.flush()
            context.load_cert_chain(file.name)

    def renewed(self, now: datetime, names: Sequence[str]) -> Authority:
        """Return the same CA with a server certificate for these names that is good for another while."""
        leaf = x509.load_pem_x509_certificate(self.certificate.encode())
        alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        known = alternatives.get_values_for_type(x509.DNSName)
        if leaf.not_valid_after_utc - now > RENEW_BEFORE and set(names) <= set(known):
            return self
        key = serialization.load_pem_private_key(self.ca_key.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InroadError(f"the key in secret {SECRET} is not an EC key", f"delete secret {SECRET}")
        ca = x509.load_pem_x509_certificate(self.ca.encode())
        certificate, leaf_key = _leaf(ca.subject, key, now, names)
        return Authority(self.ca, self.ca_key, certificate, leaf_key)

    def secret(self, namespace: str) -> dict[str, Any]:
        """Return the Secret that holds it."""
        data = {"ca.crt": self.ca, "ca.key": self.ca_key, "tls.crt": self.certificate, "tls.key": self.key}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": namespace},
            "type": "Opaque",
            "data": {name: base64.b64encode(text.encode()).decode() for name, text in data.items()},
        }


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Secret(msgspec.Struct):
    metadata: _Metadata
    data: dict[str, str] = {}


def make(now: datetime, names: Sequence[str]) -> Authority:
    """Make a new CA and its first server certificate, for these names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "inroad traffic-manager CA")])
    ca = (
        _builder(name, name, key.public_key(), now, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, leaf_key = _leaf(name, key, now, names)
    return Authority(_pem(ca), _key_pem(key), certificate, leaf_key)


def _leaf(
    issuer: x509.Name, ca_key: ec.EllipticCurvePrivateKey, now: datetime, names: Sequence[str]
) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)])
    certificate = (
        _builder(subject, issuer, key.public_key(), now, LEAF_LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return _pem(certificate), _key_pem(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks of nodes differ
        .not_valid_after(now + life)
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def names_for(namespace: str) -> tuple[str, str]:
    """Return the names in the server certificate: for agents, and for the API server (it asks a Service)."""
    return SERVER_NAME, f"traffic-manager.{namespace}.svc"


async def load_or_make(api: ApiClient, namespace: str, known: Authority | None = None) -> Authority:
    """Return the authority that the cluster keeps; raises `InroadError` when it can't be read or kept.

    The Secret itself is the chart's, empty at first, so that the manager needs no right to create any. If it
    was emptied, `known` is put back: agents that are out there trust that one.
    """
    path = f"/api/v1/namespaces/{namespace}/secrets/{SECRET}"
    names = names_for(namespace)
    while True:
        found = msgspec.json.decode(await api.get(path), type=_Secret)
        now = datetime.now(UTC)
        try:
            stored = _decoded(found.data)
            base = stored or known
            current = base.renewed(now, names) if base is not None else make(now, names)
        except ValueError as error:
            raise InroadError(
                f"secret {SECRET} makes no sense: {error}", f"delete its data in {namespace}"
            ) from None
        if current == stored:
            return current
        body = current.secret(namespace)
        body["metadata"]["resourceVersion"] = found.metadata.resource_version
        try:
            await api.send("PUT", path, None, msgspec.json.encode(body))
        except ApiStatus as error:
            if error.status != CONFLICT:
                raise
            continue  # another replica was faster: use what it made
        return current


class Certificates:
    """The authority while the manager runs, and the TLS context of its listeners, kept valid."""

    def __init__(self, api: ApiClient, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self.authority: Authority | None = None
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3

    async def refresh(self) -> Authority:
        """Take what the cluster keeps, renewed if need be; raises `InroadError`."""
        found = await load_or_make(self._api, self._namespace, self.authority)
        if found != self.authority:
            found.install(self.context)
            self.authority = found
        return found


def _decoded(data: dict[str, str]) -> Authority | None:
    texts = {name: base64.b64decode(text).decode() for name, text in data.items()}
    try:
        return Authority(texts["ca.crt"], texts["ca.key"], texts["tls.crt"], texts["tls.key"])
    except KeyError:
        return None
