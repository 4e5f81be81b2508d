"""The API server under test: a real cluster's, or the sandbox's own when no kubeconfig is named.

`INROAD_E2E_KUBECONFIG` names an existing cluster; the same tables then say what a real API server answers.
Each test gets a namespace of its own and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import secrets
import shutil
import socket
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

_PATH = [os.environ.get("KUBEBUILDER_ASSETS", ""), str(Path(sys.executable).parent), os.environ["PATH"]]
KUBECTL = shutil.which("kubectl", path=os.pathsep.join(filter(None, _PATH)))
Json = dict[str, Any]


class Api:
    """A client of the server, by plain HTTP and by kubectl."""

    def __init__(
        self, http: aiohttp.ClientSession, bare: aiohttp.ClientSession, kubeconfig: Path, namespace: str
    ) -> None:
        self.http = http
        self.bare = bare
        """A session without the kubeconfig's credentials, for requests that bring their own."""
        self.kubeconfig = kubeconfig
        self.namespace = namespace

    def text(self, template: str) -> str:
        """Fill the test's namespace in."""
        return template.replace("{ns}", self.namespace)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Json]:
        """Send one request; `{ns}` in paths stands for the test's namespace."""
        data = None if body is None else {"json": body}
        if "content_type" in headers:
            headers["Content-Type"] = headers.pop("content_type")
        http = self.bare if "Authorization" in headers else self.http
        async with http.request(method, self.text(path), headers=headers, **(data or {})) as answer:
            try:
                return answer.status, await answer.json(content_type=None)
            except ValueError:
                return answer.status, {"text": await answer.text()}

    async def kubectl(self, *argv: str, stdin: str = "") -> tuple[int, str, str]:
        """Run kubectl in the test's namespace; return exit status, stdout, stderr."""
        assert KUBECTL, "kubectl is not installed"
        process = await asyncio.create_subprocess_exec(
            KUBECTL,
            f"--kubeconfig={self.kubeconfig}",
            f"--namespace={self.namespace}",
            *map(self.text, argv),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"HOME": str(self.kubeconfig.parent), "PATH": os.environ["PATH"]},
        )
        out, err = await process.communicate(self.text(stdin).encode())
        return process.returncode or 0, out.decode(), err.decode()


def matches(actual: Any, wanted: Any) -> bool:
    """Return True when `actual` has all that `wanted` has; a compiled pattern searches in text."""
    if isinstance(wanted, dict):
        return isinstance(actual, dict) and all(
            key in actual and matches(actual[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(actual, list) and len(actual) == len(wanted) and all(map(matches, actual, wanted))
    if isinstance(wanted, re.Pattern):
        return isinstance(actual, str) and bool(wanted.search(actual))
    return bool(actual == wanted)


@asynccontextmanager
async def connected(
    kubeconfig: Path,
) -> AsyncIterator[tuple[aiohttp.ClientSession, aiohttp.ClientSession]]:
    """Open two HTTP sessions: as the kubeconfig's current context says, and without credentials."""
    content = yaml.safe_load(kubeconfig.read_text())
    context = next(one for one in content["contexts"] if one["name"] == content["current-context"])["context"]
    cluster = next(one for one in content["clusters"] if one["name"] == context["cluster"])["cluster"]
    user = next(one for one in content["users"] if one["name"] == context["user"])["user"]
    authority = _inline(cluster, "certificate-authority").decode()
    trust, bare_trust = (ssl.create_default_context(cadata=authority) for _ in range(2))
    if "client-certificate-data" in user or "client-certificate" in user:
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(_inline(user, "client-certificate") + b"\n" + _inline(user, "client-key"))
            pair.flush()
            trust.load_cert_chain(pair.name)
    headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
    connector = aiohttp.TCPConnector(ssl=trust)
    bare_connector = aiohttp.TCPConnector(ssl=bare_trust)
    async with (
        aiohttp.ClientSession(cluster["server"], connector=connector, headers=headers) as http,
        aiohttp.ClientSession(cluster["server"], connector=bare_connector) as bare,
    ):
        yield http, bare


def _inline(section: dict[str, str], name: str) -> bytes:
    data = section.get(f"{name}-data")
    return base64.b64decode(data) if data else Path(section[name]).read_bytes()


@asynccontextmanager
async def sandbox_server(directory: Path) -> AsyncIterator[Path]:
    """Run the sandbox's API server on the loopback; yield its kubeconfig."""
    from inroad.sandbox import apiserver

    async def dial(namespace: str, name: str, port: int) -> socket.socket:
        raise LookupError("no pod runs here")

    store = apiserver.Store(service_cidrs=("10.96.0.0/16", "fd00:10:96::/112"))
    authority, token = apiserver.CertificateAuthority(), secrets.token_hex(16)
    listener = socket.create_server(("127.0.0.1", 0))
    server = apiserver.ApiServer(
        store,
        dial_pod=dial,
        sockets=[listener],
        tls=apiserver.server_context(authority.issue_server(["127.0.0.1"]), authority.pem),
        authenticator=apiserver.Authenticator(store, {token: apiserver.administrator()}),
        authorizer=apiserver.Rbac(store),
    )
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    await server.start()
    kubeconfig = directory / "kubeconfig"
    apiserver.write_kubeconfig(kubeconfig, apiserver.kubeconfig(url, authority.pem, token=token))
    try:
        yield kubeconfig
    finally:
        await server.stop()


@asynccontextmanager
async def _target(directory: Path) -> AsyncIterator[Path]:
    named = os.environ.get("INROAD_E2E_KUBECONFIG")
    if named:
        yield Path(named)
        return
    async with sandbox_server(directory) as kubeconfig:
        yield kubeconfig


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """Yield a client with a namespace of its own."""
    namespace = f"conformance-{secrets.token_hex(4)}"
    async with _target(tmp_path) as kubeconfig, connected(kubeconfig) as sessions:
        target = Api(*sessions, kubeconfig, namespace)
        status, answer = await target.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        assert status == 201, answer
        try:
            yield target
        finally:
            await target.ask("DELETE", "/api/v1/namespaces/{ns}")
