# ruff: noqa: E501 -- tables
"""Paths to targets, rights over targets, tokens, ages and tables."""

from __future__ import annotations

from typing import Any

import pytest

from inroad.sandbox.apiserver import ages, protobuf
from inroad.sandbox.apiserver.auth import ADMINISTRATORS, Authenticator, User
from inroad.sandbox.apiserver.requests import Query, Target, split_path, target_of
from inroad.sandbox.apiserver.resources import BY_PLURAL
from inroad.sandbox.apiserver.rights import PathTarget, Rbac, Restriction, denied
from inroad.sandbox.apiserver.status import ApiError
from inroad.sandbox.apiserver.store import Store
from inroad.sandbox.apiserver.tables import table
from inroad.sandbox.apiserver.tokens import ISSUER, TokenIssuer

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("request_line", "verb", "resource", "namespace", "name", "subresource"),
    [
        ("GET /api/v1/pods", "list", "pods", None, "", ""),
        ("GET /api/v1/pods?watch=1", "watch", "pods", None, "", ""),
        ("GET /api/v1/pods?watch=true", "watch", "pods", None, "", ""),
        ("GET /api/v1/pods?watch=false", "list", "pods", None, "", ""),
        ("GET /api/v1/watch/namespaces/a/pods", "watch", "pods", "a", "", ""),
        ("GET /api/v1/namespaces/a/pods/b", "get", "pods", "a", "b", ""),
        ("GET /api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Db", "list", "pods", "a", "b", ""),
        ("POST /api/v1/namespaces/a/pods", "create", "pods", "a", "", ""),
        ("PUT /api/v1/namespaces/a/pods/b", "update", "pods", "a", "b", ""),
        ("PATCH /api/v1/namespaces/a/pods/b/status", "patch", "pods", "a", "b", "status"),
        ("DELETE /api/v1/namespaces/a/pods/b", "delete", "pods", "a", "b", ""),
        ("DELETE /api/v1/namespaces/a/pods", "deletecollection", "pods", "a", "", ""),
        ("GET /api/v1/namespaces/a/pods/b/portforward?ports=1", "get", "pods", "a", "b", "portforward"),
        ("POST /api/v1/namespaces/a/pods/b/portforward", "create", "pods", "a", "b", "portforward"),
        ("GET /api/v1/namespaces", "list", "namespaces", None, "", ""),
        ("GET /api/v1/namespaces/a", "get", "namespaces", "a", "a", ""),
        ("PUT /api/v1/namespaces/a/finalize", "update", "namespaces", "a", "a", "finalize"),
        ("PUT /api/v1/namespaces/a/status", "update", "namespaces", "a", "a", "status"),
        ("GET /api/v1/nodes/n", "get", "nodes", None, "n", ""),
        ("GET /apis/apps/v1/namespaces/a/deployments/b", "get", "deployments", "a", "b", ""),
        ("GET /apis/apps/v1/deployments", "list", "deployments", None, "", ""),
    ],
)
def test_targets(
    request_line: str, verb: str, resource: str, namespace: str | None, name: str, subresource: str
) -> None:
    method, _, rest = request_line.partition(" ")
    text, _, query = rest.partition("?")
    path = split_path(text)
    assert path is not None
    target = target_of(method, path, Query(query))
    assert target == Target(verb, BY_PLURAL[resource], namespace, name, subresource)


@pytest.mark.parametrize("text", ["/", "/api", "/apis", "/apis/apps", "/version", "/healthz/x"])
def test_paths_that_are_no_resources(text: str) -> None:
    assert split_path(text) is None


@pytest.mark.parametrize(
    "text", ["/api/v1/unicorns", "/api/v1/namespaces/a/nodes", "/apis/apps/v2/deployments"]
)
def test_resources_that_are_not_served(text: str) -> None:
    path = split_path(text)
    assert path is not None and target_of("GET", path, Query("")) is None


JANE = User("jane", ("developers", "system:authenticated"))


def target(verb: str, plural: str, namespace: str | None = None, name: str = "", sub: str = "") -> Target:
    return Target(verb, BY_PLURAL[plural], namespace, name, sub)


@pytest.mark.parametrize(
    ("rule", "asked", "met"),
    [
        ("list:nodes", target("list", "nodes"), True),
        ("list:nodes", target("get", "nodes"), False),
        ("*:nodes", target("get", "nodes"), True),
        ("get,list:pods,secrets", target("list", "secrets", "a"), True),
        ("*:*", target("create", "pods", "a", "b", "portforward"), True),
        ("create:pods", target("create", "pods", "a", "b", "portforward"), False),
        ("create:pods/portforward", target("create", "pods", "a", "b", "portforward"), True),
        ("*:pods/*", target("create", "pods", "a", "b", "portforward"), True),
        ("*:deployments.apps", target("get", "deployments", "a"), True),
        ("*:pods:inroad", target("get", "pods", "inroad"), True),
        ("*:pods:inroad", target("get", "pods", "other"), False),
        ("*:pods:inroad", target("list", "pods"), False),
        ("*:pods@jane", target("list", "pods"), True),
        ("*:pods@john", target("list", "pods"), False),
    ],
)
def test_restrictions(rule: str, asked: Target, met: bool) -> None:
    assert Restriction.parse(rule).meets(JANE, asked) is met


@pytest.mark.parametrize("text", ["", "list", "list:", ":pods", "a:b:c:d"])
def test_unreadable_restrictions(text: str) -> None:
    with pytest.raises(ValueError, match="is not VERBS:RESOURCES"):
        Restriction.parse(text)


def rbac() -> Rbac:
    store = Store()
    group = "rbac.authorization.k8s.io"
    reader = [{"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}]
    named = [{"apiGroups": ["apps"], "resources": ["*"], "resourceNames": ["web"], "verbs": ["*"]}]
    paths = [{"nonResourceURLs": ["/metrics", "/debug/*"], "verbs": ["get"]}]
    store.create("clusterroles", {"metadata": {"name": "reader"}, "rules": reader})
    store.create("clusterroles", {"metadata": {"name": "system:paths"}, "rules": paths})
    store.create("roles", {"metadata": {"name": "one"}, "rules": named})
    for plural, name, kind, subject in (
        ("clusterrolebindings", "system:paths", "ClusterRole", {"kind": "Group", "name": "developers"}),
        ("rolebindings", "reader", "ClusterRole", {"kind": "User", "name": "jane"}),
        ("rolebindings", "one", "Role", {"kind": "ServiceAccount", "name": "robot"}),
    ):
        role = {"apiGroup": group, "kind": kind, "name": name}
        store.create(plural, {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]})
    return Rbac(store)


ROBOT = User("system:serviceaccount:default:robot", ("system:serviceaccounts", "system:authenticated"))


@pytest.mark.parametrize(
    ("user", "asked", "allowed"),
    [
        (JANE, target("get", "pods", "default"), True),
        (JANE, target("get", "pods", "default", "a", "log"), True),
        (JANE, target("get", "pods", "default", "a", "portforward"), False),
        (JANE, target("delete", "pods", "default"), False),
        (JANE, target("get", "pods", "other"), False),
        (JANE, target("list", "pods"), False),
        (JANE, target("create", "selfsubjectaccessreviews"), True),
        (ROBOT, target("delete", "deployments", "default", "web"), True),
        (ROBOT, target("delete", "deployments", "default", "api"), False),
        (ROBOT, target("list", "deployments", "default"), False),
        (User("root", (ADMINISTRATORS,)), target("delete", "nodes"), True),
    ],
)
def test_rbac(user: User, asked: Target, allowed: bool) -> None:
    assert rbac().allows(user, asked) is allowed


@pytest.mark.parametrize(
    ("user", "path", "allowed"),
    [
        (JANE, "/metrics", True),
        (JANE, "/debug/pprof", True),
        (JANE, "/apis/apps/v1", True),
        (JANE, "/secret", False),
        (User("x"), "/version", True),
        (User("x"), "/apis", False),
    ],
)
def test_rbac_over_paths(user: User, path: str, allowed: bool) -> None:
    assert rbac().allows_path(user, PathTarget("get", path)) is allowed


def test_what_a_denied_user_reads() -> None:
    cases = (
        (target("list", "nodes"), 'nodes is forbidden: User "jane" cannot list resource "nodes" in API group "" at the cluster scope'),
        (target("get", "pods", "a", "b", "portforward"), 'pods "b" is forbidden: User "jane" cannot get resource "pods/portforward" in API group "" in the namespace "a"'),
        (target("create", "deployments", "a"), 'deployments.apps is forbidden: User "jane" cannot create resource "deployments" in API group "apps" in the namespace "a"'),
    )  # fmt: skip
    for asked, text in cases:
        assert denied(JANE, asked).message == text


def test_service_account_tokens() -> None:
    now = [1000.0]
    store = Store(now=lambda: now[0])
    account = store.create("serviceaccounts", {"metadata": {"name": "robot"}})
    spec = {"nodeName": "n", "containers": [{"name": "main"}]}
    pod = store.create("pods", {"metadata": {"name": "p"}, "spec": spec})
    authenticator = Authenticator(store, {"static": JANE})
    assert authenticator.user_of_token("static") == JANE
    assert authenticator.user_of_token("static", "inroad") is None
    token = authenticator.issuer.issue(
        "default",
        "robot",
        account["metadata"]["uid"],
        audiences=[ISSUER, "inroad"],
        lifetime=60,
        pod="p",
        pod_uid=pod["metadata"]["uid"],
    )
    for audience, known in ((ISSUER, True), ("inroad", True), ("other", False)):
        assert (authenticator.user_of_token(token, audience) is not None) is known
    user = authenticator.user_of(f"Bearer {token}", None)
    assert user.name == "system:serviceaccount:default:robot"
    assert "system:serviceaccounts:default" in user.groups
    assert user.extra["authentication.kubernetes.io/pod-name"] == ("p",)
    head, body, signature = token.split(".")
    other = TokenIssuer(lambda: now[0]).issue("default", "robot", account["metadata"]["uid"])
    for forged in (
        f"{head}.{body[:-4]}AAAA.{signature}",
        f"{head}.{body}.{signature[:-4]}AAAA",
        other,
        "x.y.z",
    ):
        assert authenticator.user_of_token(forged) is None
    now[0] += 59
    assert authenticator.user_of_token(token) is not None
    now[0] += 1
    assert authenticator.user_of_token(token) is None
    now[0] -= 2
    store.delete("pods", "p", "default", grace=0)
    assert authenticator.user_of_token(token) is None


def test_users_of_requests() -> None:
    authenticator = Authenticator(Store())
    assert authenticator.user_of("", None).name == "system:anonymous"
    subject = ((("organizationName", "a"),), (("organizationName", "b"),), (("commonName", "jane"),))
    user = authenticator.user_of("", {"subject": subject})
    assert (user.name, user.groups) == ("jane", ("a", "b", "system:authenticated"))
    with pytest.raises(ApiError) as caught:
        authenticator.user_of("Bearer nonsense", None)
    assert caught.value.code == 401


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (185, "3m5s"),
        (600, "10m"),
        (179 * 60, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 61, "3h1m"),
        (9 * 3600, "9h"),
        (47 * 3600, "47h"),
        (50 * 3600, "2d2h"),
        (9 * 86400, "9d"),
        (729 * 86400, "729d"),
        (731 * 86400, "2y1d"),
        (3000 * 86400, "8y"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert ages.human(seconds) == text


def container(**state: Any) -> Json:
    return {"name": "main", "ready": "running" in state, "restartCount": 0, "state": state}


@pytest.mark.parametrize(
    ("status", "metadata", "cells"),
    [
        ({"phase": "Pending"}, {}, ["0/1", "Pending", "0"]),
        ({"phase": "Running", "containerStatuses": [container(running={})]}, {}, ["1/1", "Running", "0"]),
        (
            {"phase": "Running", "containerStatuses": [container(waiting={"reason": "CrashLoopBackOff"})]},
            {},
            ["0/1", "CrashLoopBackOff", "0"],
        ),
        (
            {"phase": "Failed", "containerStatuses": [container(terminated={"exitCode": 3})]},
            {},
            ["0/1", "ExitCode:3", "0"],
        ),
        (
            {"phase": "Succeeded", "containerStatuses": [container(terminated={"reason": "Completed"})]},
            {},
            ["0/1", "Completed", "0"],
        ),
        (
            {"phase": "Running", "containerStatuses": [container(running={})]},
            {"deletionTimestamp": "2023-11-14T22:13:20Z"},
            ["1/1", "Terminating", "0"],
        ),
        (
            {
                "phase": "Running",
                "containerStatuses": [
                    container(running={})
                    | {"restartCount": 2, "lastState": {"terminated": {"finishedAt": "2023-11-14T22:12:20Z"}}}
                ],
            },
            {},
            ["1/1", "Running", "2 (60s ago)"],
        ),
        (
            {"phase": "Pending", "initContainerStatuses": [container(waiting={"reason": "PodInitializing"})]},
            {},
            ["0/1", "Init:0/0", "0"],
        ),
        ({"phase": "Failed", "reason": "Evicted"}, {}, ["0/1", "Evicted", "0"]),
    ],
)
def test_pods_as_people_see_them(status: Json, metadata: Json, cells: list[str]) -> None:
    pod = {"metadata": {"name": "p"} | metadata, "spec": {"containers": [{}]}, "status": status}
    now = 1_700_000_000.0
    row = table(BY_PLURAL["pods"], [pod], now, "None", {})["rows"][0]
    assert row == {"cells": ["p", *cells, "<unknown>", "<none>", "<none>", "<none>", "<none>"]}


def length(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def test_protobuf_bodies() -> None:
    metadata = b"\x0a" + length(b"c") + b"\x1a\x00\x38\x00" + b"\x5a" + length(b"\x0a\x01k\x12\x01v")
    config = b"\x0a" + length(metadata) + b"\x12" + length(b"\x0a\x05color\x12\x03red")
    types = b"\x0a" + length(b"v1") + b"\x12" + length(b"ConfigMap")
    body = b"k8s\0" + b"\x0a" + length(types) + b"\x12" + length(config) + b"\x1a\x00\x22\x00"
    assert protobuf.decode(body) == {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": "c", "labels": {"k": "v"}},
        "data": {"color": "red"},
    }
    for broken in (b"", b"{}", body[:-20], b"k8s\0\x0a\x7f", b"k8s\0\x0b"):
        with pytest.raises(ApiError) as caught:
            protobuf.decode(broken)
        assert caught.value.code == 400
