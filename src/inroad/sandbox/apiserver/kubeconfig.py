"""Writes kubeconfig files for a sandbox cluster."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml

from inroad.sandbox.apiserver.certs import KeyPair


def kubeconfig(
    server: str,
    ca: bytes,
    *,
    token: str = "",
    client: KeyPair | None = None,
    name: str = "inroad-sandbox",
    namespace: str = "",
    exec_plugin: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a kubeconfig with one cluster, one user and one context, all called `name`.

    `server` is the https URL, `ca` its CA (PEM). The user has a bearer token, a client certificate or an
    exec plugin (the `exec` section as it stands in the file).
    """
    user: dict[str, Any] = {}
    if token:
        user["token"] = token
    if client is not None:
        user["client-certificate-data"] = _base64(client.certificate)
        user["client-key-data"] = _base64(client.key)
    if exec_plugin is not None:
        user["exec"] = exec_plugin
    context = {"cluster": name, "user": name}
    if namespace:
        context["namespace"] = namespace
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": server, "certificate-authority-data": _base64(ca)}}
        ],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": context}],
        "current-context": name,
    }


def write_kubeconfig(path: Path, content: dict[str, Any]) -> None:
    """Write a kubeconfig, readable by its owner only (kubectl warns otherwise)."""
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
