"""Credential plugins (`user.exec` of a kubeconfig): what to run, and what its answer means. No I/O.

Protocol: client.authentication.k8s.io/v1 and v1beta1. The package `kubernetes` has this too, but it
takes 0.45 s to import, swallows a failing plugin and goes on without credentials, and knows neither
`provideClusterInfo` nor a plugin's path relative to its file (docs/adr/0011).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from inroad.core.errors import CredentialsRejected, KubeconfigUnreadable
from inroad.kube.kubeconfig import Selected

VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


@dataclass(frozen=True, slots=True)
class Invocation:
    """A plugin to run: without a shell, its output being an `ExecCredential`."""

    argv: tuple[str, ...]
    environ: dict[str, str]
    version: str
    hint: str


class Granted(msgspec.Struct, frozen=True):
    """What a plugin grants; `expiry` in seconds since 1970, 0 when it does not say."""

    token: str = ""
    client_cert_pem: str = ""
    client_key_pem: str = ""
    expiry: int = 0


class _Status(msgspec.Struct, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: str | None = None


class _ExecCredential(msgspec.Struct, rename="camel"):
    api_version: str
    status: _Status | None = None


def invocation(selected: Selected, environ: Mapping[str, str]) -> Invocation:
    """Say how to run the user's plugin. Raises `KubeconfigUnreadable` for what is no plugin."""
    config = selected.user.values["exec"]
    if not isinstance(config, dict) or not isinstance(config.get("command"), str):
        raise KubeconfigUnreadable(
            f"exec of user {selected.user.name} names no command", "kubectl config view"
        )
    version = str(config.get("apiVersion", ""))
    if version not in VERSIONS:
        raise KubeconfigUnreadable(
            f"exec of user {selected.user.name} has apiVersion {version!r}; "
            f"known are {' and '.join(VERSIONS)}",
            "update the kubeconfig with the cloud's own command",
        )
    command: str = config["command"]
    if "/" in command:
        command = str(selected.user.path(command))
    spec: dict[str, Any] = {"interactive": False}
    if config.get("provideClusterInfo"):
        spec["cluster"] = _cluster(selected)
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    variables = {str(item["name"]): str(item["value"]) for item in config.get("env") or []}
    return Invocation(
        argv=(command, *(str(argument) for argument in config.get("args") or [])),
        environ={**environ, **variables, "KUBERNETES_EXEC_INFO": json.dumps(info)},
        version=version,
        hint=str(config.get("installHint") or ""),
    )


def _cluster(selected: Selected) -> dict[str, Any]:
    """Return what `provideClusterInfo` tells the plugin of the cluster."""
    cluster = selected.cluster
    info: dict[str, Any] = {"server": cluster.text("server")}
    for key, name in (("tls-server-name", "tls-server-name"), ("proxy-url", "proxy-url")):
        if cluster.text(key):
            info[name] = cluster.text(key)
    if cluster.values.get("insecure-skip-tls-verify"):
        info["insecure-skip-tls-verify"] = True
    pem = cluster.content("certificate-authority")
    if pem:
        info["certificate-authority-data"] = base64.b64encode(pem.encode()).decode()
    for extension in cluster.values.get("extensions") or []:
        if extension.get("name") == "client.authentication.k8s.io/exec":
            info["config"] = extension.get("extension")
    return info


def granted(invoked: Invocation, status: int, stdout: str, stderr: str) -> Granted:
    """Read what the plugin said. Raises `CredentialsRejected` with its own last words."""
    name = Path(invoked.argv[0]).name
    if status != 0:
        words = [line.strip() for line in stderr.splitlines() if line.strip()]
        last = words[-1][:500] if words else "it said nothing"
        raise CredentialsRejected(
            f"the credential plugin {name} failed with status {status}: {last}", _again(invoked)
        )
    try:
        answer = msgspec.json.decode(stdout, type=_ExecCredential)
        if answer.status is None:
            raise msgspec.ValidationError("it has no status")
        expires = answer.status.expiration_timestamp
        expiry = int(datetime.fromisoformat(expires).timestamp()) if expires else 0
    except (msgspec.DecodeError, ValueError) as error:
        raise CredentialsRejected(
            f"the credential plugin {name} did not answer with an ExecCredential: {error}", _again(invoked)
        ) from error
    if answer.api_version != invoked.version:
        raise CredentialsRejected(
            f"the credential plugin {name} answered with {answer.api_version}, asked was {invoked.version}",
            _again(invoked),
        )
    found = answer.status
    if not found.token and not (found.client_certificate_data and found.client_key_data):
        raise CredentialsRejected(
            f"the credential plugin {name} gave neither token nor certificate", _again(invoked)
        )
    return Granted(found.token, found.client_certificate_data, found.client_key_data, expiry)


def not_started(invoked: Invocation, error: OSError) -> CredentialsRejected:
    """Return the error for a plugin that can't be run; its install hint is the remedy."""
    hint = " ".join(invoked.hint.split())
    return CredentialsRejected(
        f"the credential plugin {invoked.argv[0]} can't be run: {error.strerror}",
        hint or "install it, or put its directory on PATH",
    )


def _again(invoked: Invocation) -> str:
    return f"run it by hand to see more: {' '.join(invoked.argv)}"
