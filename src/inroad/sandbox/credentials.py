"""Who may speak to the API server: the cluster's CA, the administrator's and service accounts' tokens."""

from __future__ import annotations

import secrets
from typing import Any

from inroad.core.errors import SandboxFailed
from inroad.sandbox import apiserver
from inroad.sandbox.topology import Topology

Json = dict[str, Any]
NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
TOKEN_LIFE = 365 * 86400.0
"""Seconds; a sandbox does not live that long, so tokens in pods need no renewal."""


class Credentials:
    """Made anew for every sandbox."""

    def __init__(self, topology: Topology, store: apiserver.Store) -> None:
        self._store = store
        self._authority = apiserver.CertificateAuthority()
        self.ca = self._authority.pem
        self.admin = secrets.token_urlsafe(24)
        self.authenticator = apiserver.Authenticator(store, {self.admin: apiserver.administrator()})
        addresses = [*topology.api_addresses, *topology.control_plane_addresses]
        addresses += [network[1] for network in topology.service_networks]
        server = self._authority.issue_server([*NAMES, *map(str, addresses)])
        self.tls = apiserver.server_context(server, client_ca=self.ca)

    def token(self, pod: Json, audience: str = "", lifetime: float = TOKEN_LIFE) -> str:
        """Return a token of the pod's service account, bound to the pod; "" is the API server's audience."""
        metadata, account = pod["metadata"], pod["spec"].get("serviceAccountName", "default")
        found = self._store.find("serviceaccounts", account, metadata["namespace"])
        if found is None:
            raise SandboxFailed(f"there is no service account {metadata['namespace']}/{account}")
        return self.authenticator.issuer.issue(
            metadata["namespace"],
            account,
            found["metadata"]["uid"],
            **({"audiences": (audience,)} if audience else {}),
            lifetime=lifetime,
            pod=metadata["name"],
            pod_uid=metadata["uid"],
        )
