"""Translates what goes wrong between us and an API server into `InroadError`s of one line each."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass

import aiohttp
import msgspec

from inroad.core.errors import (
    ApiCertificate,
    ApiFailed,
    ApiUnreachable,
    CredentialsRejected,
    Forbidden,
    InroadError,
)


class ApiStatus(ApiFailed):
    """An HTTP status that no other class stands for.

    `reason` is Kubernetes' word for it (`NotFound`), `retry_after` the server's wish in seconds, 0 for none.
    """

    def __init__(self, status: int, reason: str, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class Status(msgspec.Struct, rename="camel"):
    """What of a `metav1.Status` is used."""

    message: str = ""
    reason: str = ""
    code: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, as `kubectl auth can-i` asks for it."""

    verb: str
    resource: str
    namespace: str

    @classmethod
    def of(cls, method: str, path: str, *, watch: bool = False, upgrade: bool = False) -> Request:
        """Read verb, resource (`pods/portforward`, `servicecidrs.networking.k8s.io`) and namespace."""
        parts = [part for part in path.split("/") if part]
        if parts[:1] not in (["api"], ["apis"]) or len(parts) < 3:
            return cls("get", path, "")  # no resource, as `auth can-i` knows it too
        group = parts[1] if parts[:1] == ["apis"] and len(parts) > 1 else ""
        rest = parts[3:] if group else parts[2:]
        namespace = ""
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        kind, named, sub = (rest[0] if rest else path), len(rest) > 1, "/".join(rest[2:])
        resource = kind + (f".{group}" if group else "") + (f"/{sub}" if sub else "")
        verb = {"POST": "create", "DELETE": "delete", "PATCH": "patch", "PUT": "update"}.get(method, "get")
        if verb == "get" and not named:
            verb = "watch" if watch else "list"
        return cls("create" if upgrade else verb, resource, namespace)

    @property
    def question(self) -> str:
        """The command that asks the API server whether this is allowed."""
        where = f" -n {self.namespace}" if self.namespace else ""
        return f"kubectl auth can-i {self.verb} {self.resource}{where}"

    def __str__(self) -> str:
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.resource}{where}"


def from_status(
    server: str, request: Request, status: int, body: bytes, retry_after: str = ""
) -> InroadError:
    """Return the error for an HTTP answer of 400 or more."""
    try:
        found = msgspec.json.decode(body, type=Status)
    except msgspec.DecodeError:
        found = Status(message=body[:300].decode(errors="replace"))
    words = " ".join(found.message.split())
    if status == 401:
        return CredentialsRejected(
            f"the API server {server} does not accept the kubeconfig's credentials",
            "log in again, then check with: kubectl auth whoami",
        )
    if status == 403:
        return Forbidden(f"not allowed to {request}: {words}", f"ask for the right, then: {request.question}")
    pause = float(retry_after) if retry_after.isdigit() else 0.0
    text = f"the API server answered {status} to {request}: {words or 'without saying why'}"
    return ApiStatus(status, found.reason, text, retry_after=pause)


def from_exception(server: str, error: BaseException) -> InroadError:
    """Return the error for a request that got no answer; `error` is of aiohttp, asyncio or ssl."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _certificate(server, error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return _certificate(server, error.os_error)
    if isinstance(error, ssl.SSLError):
        return _certificate(server, error)
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return ApiUnreachable(
            f"the proxy on the way to the API server {server} does not work: {error}",
            "check proxy-url in the kubeconfig, HTTPS_PROXY and NO_PROXY",
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        why = "its name does not resolve"
    elif isinstance(error, TimeoutError):
        why = "it does not answer in time"
    elif isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        why = os.strerror(number).lower() if number else str(error.os_error)
    else:
        why = f"the connection broke ({error or type(error).__name__})"
    return ApiUnreachable(
        f"the API server {server} is not reachable: {why}", "is the VPN up? check with: kubectl cluster-info"
    )


def _certificate(server: str, error: BaseException) -> InroadError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return ApiCertificate(
            f"the certificate of the API server {server} is not accepted: {error.verify_message}",
            "compare certificate-authority in the kubeconfig: kubectl config view --raw",
        )
    reason = (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
    return ApiCertificate(
        f"TLS with the API server {server} failed: {reason}", "check the server's URL: kubectl config view"
    )
