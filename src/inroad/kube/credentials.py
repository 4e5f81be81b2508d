"""What a connection to an API server needs, worked out from a kubeconfig.

Only ever runs with the rights of the user whose kubeconfig it is (`inroad.daemon.as_user`). Static
tokens, certificates and credential plugins are read here; the deprecated auth-providers (OIDC) are left to
the package `kubernetes`, which the container image leaves out.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import msgspec

from inroad.core.errors import CredentialsRejected, KubeconfigUnreadable
from inroad.kube import exec_plugin, kubeconfig
from inroad.kube.exec_plugin import Granted, Invocation
from inroad.kube.kubeconfig import Section, Selected
from inroad.kube.proxies import proxy_for


class Credentials(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="credentials"):
    """Everything for a TLS connection and an authorized request; text fields are "" when absent.

    `server`: base URL without a trailing slash. `expiry`: seconds since 1970 after which they must be
    fetched anew, 0 for unknown. `token` may also stand for `username` and `password` (HTTP Basic).
    `extensions`: the cluster's, as they are in the kubeconfig (it may configure inroad there).
    """

    server: str
    ca_pem: str = ""
    token: str = ""
    username: str = ""
    password: str = ""
    client_cert_pem: str = ""
    client_key_pem: str = ""
    insecure: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""
    context: str = ""
    cluster: str = ""
    namespace: str = ""
    expiry: int = 0
    extensions: list[Any] = []


@dataclass(frozen=True, slots=True)
class PluginOutput:
    """How a plugin ended."""

    status: int
    stdout: str
    stderr: str


RunPlugin = Callable[[Invocation], PluginOutput]
"""Runs a plugin to its end; raises `OSError` when it can't be started."""


def load(name: str, context: str, environ: Mapping[str, str], run_plugin: RunPlugin) -> Credentials:
    """Load the credentials of a context.

    `name`: the kubeconfig's path, "" for KUBECONFIG or the default. `context`: "" for the current one.
    Raises `KubeconfigMissing`, `KubeconfigUnreadable`, `ContextUnknown` or `CredentialsRejected`.
    """
    selected = kubeconfig.select(kubeconfig.files(name, environ), context)
    user = selected.user
    if user.values.get("auth-provider"):
        found = _ask_library(selected)
    elif user.values.get("exec"):
        found = _ask_plugin(selected, environ, run_plugin)
    else:
        found = Granted(_static_token(user))
    return _assemble(selected, found, environ)


def _ask_plugin(selected: Selected, environ: Mapping[str, str], run_plugin: RunPlugin) -> Granted:
    invoked = exec_plugin.invocation(selected, environ)
    try:
        output = run_plugin(invoked)
    except OSError as error:
        raise exec_plugin.not_started(invoked, error) from error
    return exec_plugin.granted(invoked, output.status, output.stdout, output.stderr)


def _static_token(user: Section) -> str:
    """Return the user's token; the file wins, because it is renewed (client-go does so too)."""
    return user.file("tokenFile").strip() or user.text("token")


def _assemble(selected: Selected, found: Granted, environ: Mapping[str, str]) -> Credentials:
    cluster, user = selected.cluster, selected.user
    server = cluster.text("server").rstrip("/")
    if "://" not in server:
        server = f"https://{server}"
    if not server.startswith(("https://", "http://")):
        raise KubeconfigUnreadable(f"the server of cluster {cluster.name} is no http(s) URL: {server}")
    certificate = found.client_cert_pem or user.content("client-certificate")
    return Credentials(
        server=server,
        ca_pem=cluster.content("certificate-authority"),
        token=found.token,
        username=user.text("username"),
        password=user.text("password"),
        client_cert_pem=certificate,
        client_key_pem=found.client_key_pem or (user.content("client-key") if certificate else ""),
        insecure=bool(cluster.values.get("insecure-skip-tls-verify")),
        tls_server_name=cluster.text("tls-server-name"),
        proxy_url=cluster.text("proxy-url") or proxy_for(server, environ),
        context=selected.context.name,
        cluster=cluster.name,
        namespace=selected.namespace,
        expiry=found.expiry,
        extensions=extensions if isinstance(extensions := cluster.values.get("extensions"), list) else [],
    )


def _ask_library(selected: Selected) -> Granted:
    """Have the package `kubernetes` deal with an auth-provider; its import takes half a second."""
    import asyncio  # noqa: PLC0415 - 30 ms that nobody else here pays

    name = selected.user.values["auth-provider"].get("name", "")
    try:
        library: Any = import_module("kubernetes.aio.config.kube_config")
    except ImportError as error:
        raise CredentialsRejected(
            f"user {selected.user.name} logs in by the auth-provider {name}, for which the Python package "
            "kubernetes is needed, and it is not installed here (the container image leaves it out)",
            "have the kubeconfig written anew, for a credential plugin (exec)",
        ) from error
    single: dict[str, Any] = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://unused"}}],
        "users": [{"name": "u", "user": selected.user.values}],
    }
    configuration = library.Configuration()
    try:
        loader = library.KubeConfigLoader(single, config_base_path=selected.user.directory)
        asyncio.run(loader.load_and_set(configuration))
    except (library.ConfigException, ValueError, KeyError, OSError) as error:
        raise CredentialsRejected(
            f"the auth-provider {name} gave no token: {error}", "kubectl get namespaces"
        ) from error
    token = str(configuration.api_key.get("BearerToken", "")).removeprefix("Bearer ")
    if not token:
        raise CredentialsRejected(
            f"the auth-provider {name} is not supported", "use a credential plugin (exec)"
        )
    return Granted(token, expiry=_token_expiry(token))


def _token_expiry(token: str) -> int:
    """Return `exp` of a JWT, 0 for what is none."""
    parts = token.split(".")
    if len(parts) != 3:
        return 0
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return int(msgspec.json.decode(payload, type=dict[str, Any]).get("exp", 0))
    except (ValueError, TypeError, msgspec.DecodeError):
        return 0
