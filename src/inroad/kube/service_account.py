"""The credentials that Kubernetes mounts into every pod."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from inroad.core.errors import CredentialsRejected
from inroad.kube.credentials import Credentials

DIRECTORY = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_LIFE = 60
"""Seconds after which a pod reads its token file again: the kubelet renews it in place."""


def read(directory: Path, environ: Mapping[str, str]) -> Credentials:
    """Read the credentials that every pod has. Raises `CredentialsRejected` outside of a pod."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        token = (directory / "token").read_text().strip()
        ca_pem = (directory / "ca.crt").read_text()
        namespace = (directory / "namespace").read_text().strip()
    except OSError as error:
        raise CredentialsRejected(
            f"no service account is mounted here: {error}", "is automountServiceAccountToken off?"
        ) from error
    if not host:
        raise CredentialsRejected("KUBERNETES_SERVICE_HOST is not set", "this program runs in a pod")
    return Credentials(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca_pem=ca_pem,
        token=token,
        namespace=namespace,
        expiry=int(time.time()) + TOKEN_LIFE,
    )
