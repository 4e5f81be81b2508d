"""The manager's webhook server, over real TLS: what it answers, and what it lets nobody do to it."""

from __future__ import annotations

import base64
import json
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from inroad.core.agent_container import AgentSpec
from inroad.core.errors import Forbidden, InroadError
from inroad.core.injection import ANNOTATION
from inroad.manager import authority
from inroad.manager.authority import LEAF_LIFE, RENEW_BEFORE, SERVER_NAME, Certificates, make, names_for
from inroad.manager.injector import Injector
from inroad.manager.webhook import MAX_REVIEW, Registration, knows_native_sidecars, serve_webhook

NAMES = names_for("inroad")
NOW = datetime.now(UTC)


def review(
    namespace: str = "shop", operation: str = "CREATE", wish: str = "enabled", **changes: Any
) -> bytes:
    pod = {"metadata": {"annotations": {ANNOTATION: wish}}, "spec": {"containers": [{"name": "app"}]}}
    request = {
        "uid": "u-1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": operation,
        "namespace": namespace,
        "object": pod,
    }
    body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request | changes}
    return json.dumps(body).encode()


class Server:
    """A running webhook and a client that trusts its CA, as the API server does."""

    def __init__(self, port: int, session: aiohttp.ClientSession) -> None:
        self.url = f"https://127.0.0.1:{port}/mutate"
        self.session = session

    async def ask(self, body: bytes, *, name: str = NAMES[1]) -> tuple[int, dict[str, Any]]:
        async with self.session.post(self.url, data=body, server_hostname=name) as answer:
            if answer.status != 200:
                return answer.status, {}
            return answer.status, (await answer.json())["response"]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = make(NOW, NAMES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.install(context)
    spec = AgentSpec("inroad", "traffic-manager.inroad:15703", made.ca)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    runner = await serve_webhook(Injector(lambda: spec, lambda namespace: namespace == "shop"), context, port)
    trust = ssl.create_default_context(cadata=made.ca)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session:
        yield Server(port, session)
    await runner.cleanup()


async def test_a_pod_is_patched_and_always_allowed(server: Server) -> None:
    status, response = await server.ask(review())
    assert (status, response["uid"], response["allowed"]) == (200, "u-1", True)
    paths = [one["path"] for one in json.loads(base64.b64decode(response["patch"]))]
    assert paths == ["/spec/volumes", "/spec/containers/-"]


OTHERS = {
    "a namespace of another manager": review(namespace="default"),
    "an update": review(operation="UPDATE"),
    "a deletion": review(operation="DELETE", object=None),
    "a subresource": review(subResource="ephemeralcontainers"),
    "another kind": review(kind={"group": "apps", "version": "v1", "kind": "Deployment"}),
    "disabled": review(wish="disabled"),
    "no object": review(object=None),
}


@pytest.mark.parametrize("name", OTHERS)
async def test_everything_else_is_let_through_as_it_is(server: Server, name: str) -> None:
    status, response = await server.ask(OTHERS[name])
    assert status == 200
    assert response == {"uid": "u-1", "allowed": True}


async def test_who_asked_in_vain_is_warned(server: Server) -> None:
    _, response = await server.ask(review(wish="yes please"))
    assert response["allowed"]
    assert "use enabled or disabled" in response["warnings"][0]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"request": {}}', b'{"request": {"uid": 1}}'])
async def test_nonsense_is_answered(server: Server, body: bytes) -> None:
    assert (await server.ask(body))[0] == 400


async def test_a_question_is_bounded(server: Server) -> None:
    assert (await server.ask(b" " * (MAX_REVIEW + 1)))[0] == 413


async def test_the_certificate_is_for_the_service_and_for_agents_only(server: Server) -> None:
    assert (await server.ask(review(), name=SERVER_NAME))[0] == 200
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await server.ask(review(), name="traffic-manager.other.svc")


class Cluster:
    """The one Secret, and the webhooks, as an API server keeps them."""

    def __init__(self) -> None:
        self.data: dict[str, str] = {}
        self.version = 1
        self.forbidden = False
        self.patches: list[tuple[str, Any]] = []
        self.minor = "34"

    async def get(self, path: str) -> bytes:
        if path == "/version":
            return json.dumps({"major": "1", "minor": self.minor, "gitVersion": "v1"}).encode()
        assert path == "/api/v1/namespaces/inroad/secrets/traffic-manager-tls"
        return json.dumps({"metadata": {"resourceVersion": str(self.version)}, "data": self.data}).encode()

    async def send(self, method: str, path: str, params: Any, body: bytes, content_type: str = "") -> bytes:
        if self.forbidden:
            raise Forbidden("it is not allowed")
        if method == "PATCH":
            assert content_type == "application/json-patch+json"
            self.patches.append((path, json.loads(body)))
            return b"{}"
        found = json.loads(body)
        assert found["metadata"]["resourceVersion"] == str(self.version)
        self.data, self.version = found["data"], self.version + 1
        return b"{}"


async def test_the_certificate_is_renewed_while_the_manager_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    certificates = Certificates(cluster, "inroad")
    first = await certificates.refresh()
    assert await certificates.refresh() == first
    moment = NOW + LEAF_LIFE - RENEW_BEFORE + timedelta(days=1)

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return moment

    monkeypatch.setattr(authority, "datetime", Later)
    second = await certificates.refresh()
    assert (second.ca, second.ca_key) == (first.ca, first.ca_key)
    assert second.certificate != first.certificate
    assert await Certificates(cluster, "inroad").refresh() == second  # another replica takes the same


async def test_an_older_certificate_gets_the_name_that_the_api_server_asks_for() -> None:
    old = make(NOW, [SERVER_NAME])
    new = old.renewed(NOW, NAMES)
    assert new.certificate != old.certificate
    assert new.renewed(NOW, NAMES) is new


async def test_an_emptied_secret_gets_back_what_agents_trust() -> None:
    cluster = Cluster()
    certificates = Certificates(cluster, "inroad")
    first = await certificates.refresh()
    cluster.data = {}
    assert await certificates.refresh() == first
    assert cluster.data["ca.crt"] == base64.b64encode(first.ca.encode()).decode()


async def test_a_secret_that_makes_no_sense_is_told() -> None:
    cluster = Cluster()
    await Certificates(cluster, "inroad").refresh()
    cluster.data["tls.crt"] = base64.b64encode(b"no certificate").decode()
    with pytest.raises(InroadError, match="makes no sense"):
        await Certificates(cluster, "inroad").refresh()


async def test_the_ca_is_written_into_the_own_webhook_and_a_missing_right_is_told_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = Cluster()
    registration = Registration(cluster, "net-tools")
    await registration.publish("PEM")
    [(path, [operation])] = cluster.patches
    assert path.endswith("/mutatingwebhookconfigurations/traffic-manager-net-tools")
    assert operation == {
        "op": "add",
        "path": "/webhooks/0/clientConfig/caBundle",
        "value": base64.b64encode(b"PEM").decode(),
    }
    cluster.forbidden = True
    for _ in range(3):
        await registration.publish("PEM")
    assert capsys.readouterr().out.count("can't be registered") == 1


@pytest.mark.parametrize(("minor", "native"), [("28", False), ("29", True), ("31+", True), ("", False)])
async def test_which_clusters_have_native_sidecars(minor: str, native: bool) -> None:
    cluster = Cluster()
    cluster.minor = minor
    assert await knows_native_sidecars(cluster) is native
