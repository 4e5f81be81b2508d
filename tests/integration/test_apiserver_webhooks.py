"""Mutating admission webhooks over HTTPS: the request they see, what they change, deny, and break."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from apiserver_cluster import Cluster, pod

from inroad.sandbox.apiserver import CertificateAuthority, server_context

Json = dict[str, Any]
Decide = Callable[[Json], Json]
PODS = "/api/v1/namespaces/default/pods"
ADD_LABEL = [{"op": "add", "path": "/metadata/labels/seen", "value": "yes"}]


class Hook:
    """A webhook's server in the place of a pod's port 8443; `decide` makes the response."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ca = CertificateAuthority("hook")
        self.reviews: list[Json] = []
        self.decide: Decide = lambda request: {}

    async def start(self) -> Callable[[], Awaitable[None]]:
        async def answer(request: web.BaseRequest) -> web.Response:
            review = json.loads(await request.read())
            self.reviews.append(review["request"])
            response = {"uid": review["request"]["uid"], "allowed": True} | self.decide(review["request"])
            body = {"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response}
            return web.json_response(body)

        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        pair = self.ca.issue_server(["hook.default.svc"])
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(pair))
        await site.start()
        self.cluster.backends["default", "hook-1", 8443] = runner.addresses[0][1]
        return runner.cleanup

    def register(self, **changes: Any) -> None:
        """Make the Service, its endpoint and the configuration."""
        store = self.cluster.store
        if store.find("services", "hook", "default") is None:
            store.create("services", {"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443}]}})
            endpoint = {
                "addresses": ["127.0.0.1"],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": "hook-1", "namespace": "default"},
            }
            labels = {"kubernetes.io/service-name": "hook"}
            slice_ = {
                "metadata": {"name": "hook-x", "labels": labels},
                "addressType": "IPv4",
                "ports": [{"port": 8443}],
                "endpoints": [endpoint],
            }
            store.create("endpointslices", slice_)
        rule = {"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
        service = {"name": "hook", "namespace": "default", "path": "/mutate"}
        client = {"service": service, "caBundle": base64.b64encode(self.ca.pem).decode()}
        one = {"name": "hook.example.com", "rules": [rule], "clientConfig": client, "sideEffects": "None"}
        body = {"metadata": {"name": changes.pop("config", "hook")}, "webhooks": [one | changes]}
        store.create("mutatingwebhookconfigurations", body)


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    async with Cluster() as cluster:
        hook = Hook(cluster)
        stop = await hook.start()
        yield hook
        await stop()


async def create(hook: Hook, name: str = "web", path: str = PODS) -> tuple[int, Json]:
    async with hook.cluster.http.post(path, json=pod(name)) as answer:
        return answer.status, await answer.json()


def patch(operations: list[Json]) -> Json:
    return {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(operations).encode()).decode()}


async def test_what_a_webhook_sees_and_changes(hook: Hook) -> None:
    hook.register()
    hook.decide = lambda request: patch(ADD_LABEL)
    status, made = await create(hook)
    assert (status, made["metadata"]["labels"]) == (201, {"app": "web", "seen": "yes"})
    (seen,) = hook.reviews
    assert (seen["operation"], seen["name"], seen["namespace"]) == ("CREATE", "web", "default")
    assert seen["kind"] == {"group": "", "version": "v1", "kind": "Pod"}
    assert seen["resource"] == {"group": "", "version": "v1", "resource": "pods"}
    assert seen["userInfo"]["username"] == "kubernetes-admin"
    assert seen["object"]["spec"]["restartPolicy"] == "Always"  # defaults are there already
    assert (seen["oldObject"], seen["dryRun"]) == (None, False)
    async with hook.cluster.http.delete(f"{PODS}/web") as answer:
        assert answer.status == 200
    assert [one["operation"] for one in hook.reviews] == ["CREATE", "DELETE"]
    assert hook.reviews[1]["oldObject"]["metadata"]["name"] == "web"


async def test_controllers_can_ask_too(hook: Hook) -> None:
    hook.register()
    hook.decide = lambda request: patch(ADD_LABEL)
    made = await hook.cluster.store.create_admitted("pods", pod("web"), "default")
    assert made["metadata"]["labels"]["seen"] == "yes"
    assert hook.reviews[0]["userInfo"]["username"].endswith(":replicaset-controller")


async def test_a_denied_request(hook: Hook) -> None:
    hook.register()
    hook.decide = lambda request: {"allowed": False, "status": {"code": 403, "message": "no such luck"}}
    status, answer = await create(hook)
    assert (status, answer["message"]) == (
        403,
        'admission webhook "hook.example.com" denied the request: no such luck',
    )
    assert hook.cluster.store.find("pods", "web", "default") is None


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (lambda hook: hook.cluster.backends.clear(), "onnect"),
        (
            lambda hook: hook.cluster.store.delete("endpointslices", "hook-x", "default"),
            'no endpoints available for service "hook"',
        ),
        (lambda hook: setattr(hook, "decide", lambda request: {"uid": "another"}), "uid"),
        (lambda hook: setattr(hook, "decide", lambda request: patch([{"op": "odd"}])), "odd operation"),
    ],
)
async def test_a_webhook_that_fails(hook: Hook, failure: Callable[[Hook], object], text: str) -> None:
    hook.register()
    failure(hook)
    status, answer = await create(hook)
    assert status == 500
    assert answer["message"].startswith('Internal error occurred: failed calling webhook "hook.example.com":')
    assert text in answer["message"]
    hook.cluster.store.delete("mutatingwebhookconfigurations", "hook")
    hook.register(failurePolicy="Ignore")
    assert (await create(hook))[0] == 201


async def test_a_certificate_of_another_ca_is_not_trusted(hook: Hook) -> None:
    hook.ca = CertificateAuthority("hook")
    hook.register()
    status, answer = await create(hook)
    assert status == 500 and "certificate verify failed" in answer["message"]


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({}, True),
        ({"objectSelector": {"matchLabels": {"app": "web"}}}, True),
        ({"objectSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}, False),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}, True),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}, False),
        (
            {
                "rules": [
                    {
                        "operations": ["UPDATE"],
                        "apiGroups": ["*"],
                        "apiVersions": ["*"],
                        "resources": ["*/*"],
                    }
                ]
            },
            False,
        ),
        (
            {
                "rules": [
                    {
                        "operations": ["*"],
                        "apiGroups": ["apps"],
                        "apiVersions": ["v1"],
                        "resources": ["*"],
                    }
                ]
            },
            False,
        ),
    ],
)
async def test_which_requests_are_shown(hook: Hook, changes: Json, asked: bool) -> None:
    hook.register(**changes)
    assert (await create(hook))[0] == 201
    assert bool(hook.reviews) is asked


async def test_webhooks_are_asked_in_order_and_again_when_they_wish(hook: Hook) -> None:
    hook.register(config="a", name="first.example.com", reinvocationPolicy="IfNeeded")
    hook.register(config="b", name="second.example.com")

    def count(request: Json) -> Json:
        seen = int(request["object"]["metadata"]["labels"].get("seen", "0"))
        return patch([{"op": "add", "path": "/metadata/labels/seen", "value": str(seen + 1)}])

    hook.decide = count
    _, made = await create(hook)
    assert made["metadata"]["labels"]["seen"] == "3"


async def test_a_patch_is_admitted_as_an_update(hook: Hook) -> None:
    await create(hook)
    hook.register()
    hook.decide = lambda request: patch(ADD_LABEL)
    headers = {"Content-Type": "application/merge-patch+json"}
    body = {"metadata": {"annotations": {"a": "b"}}}
    async with hook.cluster.http.patch(f"{PODS}/web?dryRun=All", json=body, headers=headers) as answer:
        changed = (await answer.json())["metadata"]
    assert (changed["annotations"], changed["labels"]["seen"]) == ({"a": "b"}, "yes")
    (seen,) = hook.reviews
    assert (seen["operation"], seen["dryRun"]) == ("UPDATE", True)
    assert "seen" not in hook.cluster.store.get("pods", "web", "default")["metadata"]["labels"]
