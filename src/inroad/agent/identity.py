"""What an agent knows of itself and of its manager, from its environment.

A sidecar or namespace agent has a projected service-account token; an ephemeral container can't have one
(it gets no new volume) and brings a single-use ticket instead.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from inroad import __version__
from inroad.core.errors import ConfigInvalid
from inroad.core.messages import AGENT_CLIENT_PORT, PROTOCOL_VERSION, AgentHello, AgentKind

TOKEN = "/var/run/secrets/inroad/token"  # noqa: S105 - a path
CA = "/var/run/secrets/inroad/ca.crt"
SERVER_NAME = "inroad-traffic-manager"


class TokenMissing(Exception):
    """There is no token at its path (yet)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """`manager`: host name and port. `ca_pem`: who signs the manager's certificate.

    `port`: where to take clients on the pod's loopback, 0 for nowhere.
    """

    namespace: str
    pod: str
    uid: str
    kind: AgentKind
    workload: str
    manager: tuple[str, int]
    ca_pem: str
    ticket: str = ""
    token_path: str = TOKEN
    server_name: str = SERVER_NAME
    port: int = AGENT_CLIENT_PORT

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Identity:
        """Read the variables; raises `ConfigInvalid` naming the one that is missing or wrong."""
        kind = environ.get("INROAD_AGENT_KIND", "namespace")
        if kind not in get_args(AgentKind):
            raise ConfigInvalid(
                f"INROAD_AGENT_KIND is {kind!r}", f"use one of {', '.join(get_args(AgentKind))}"
            )
        host, _, port = environ.get("INROAD_MANAGER", "").rpartition(":")
        if not host or not port.isdigit():
            raise ConfigInvalid("INROAD_MANAGER is not set to HOST:PORT", "traffic-manager.inroad:15703")
        ca_pem = environ.get("INROAD_MANAGER_CA", "")
        if not ca_pem:
            try:
                ca_pem = Path(environ.get("INROAD_MANAGER_CA_FILE", CA)).read_text()
            except OSError as error:
                raise ConfigInvalid(
                    f"the manager's CA is not known: {error}", "set INROAD_MANAGER_CA"
                ) from None
        needed = {name: environ.get(name, "") for name in ("POD_NAMESPACE", "POD_NAME", "POD_UID")}
        for name, value in needed.items():
            if not value:
                raise ConfigInvalid(f"{name} is not set", "set it by the downward API")
        return cls(
            namespace=needed["POD_NAMESPACE"],
            pod=needed["POD_NAME"],
            uid=needed["POD_UID"],
            kind=cast(AgentKind, kind),
            workload=environ.get("INROAD_WORKLOAD", ""),
            manager=(host, int(port)),
            ca_pem=ca_pem,
            ticket=environ.get("INROAD_TICKET", ""),
            token_path=environ.get("INROAD_TOKEN_FILE", TOKEN),
            port=_port(environ.get("INROAD_CLIENT_PORT", "")),
        )


def _port(text: str) -> int:
    if not text:
        return AGENT_CLIENT_PORT
    if not text.isdigit() or int(text) > 65_535:
        raise ConfigInvalid(f"INROAD_CLIENT_PORT is {text!r}", "use a port, or 0 for none")
    return int(text)


def hello_of(identity: Identity, port: int) -> AgentHello:
    """Return the first message; reads the token anew, because the kubelet renews it.

    `port`: where clients are taken on the pod's loopback, 0 for nowhere.
    """
    token = ""
    if not identity.ticket:
        try:
            token = Path(identity.token_path).read_text().strip()
        except OSError as error:
            raise TokenMissing(f"no service-account token: {error}") from None
    return AgentHello(
        version=PROTOCOL_VERSION,
        software=__version__,
        namespace=identity.namespace,
        pod=identity.pod,
        uid=identity.uid,
        kind=identity.kind,
        workload=identity.workload,
        token=token,
        ticket=identity.ticket,
        port=port,
    )


def server_context(identity: Identity) -> ssl.SSLContext:
    """Return a context that trusts the manager's CA and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=identity.ca_pem)
    return context
