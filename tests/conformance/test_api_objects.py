"""What an API server answers to reads and writes of objects: each test is a table of requests and answers.

From kubernetes.io/docs/reference/using-api/api-concepts and the API conventions (sig-architecture).
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from api_target import Api, Json, api, matches

__all__ = ["api"]

MAPS = "/api/v1/namespaces/{ns}/configmaps"
PODS = "/api/v1/namespaces/{ns}/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{ns}/deployments"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
NAMELESS = "Required value: name or generateName is required"
JSON_PATCH = "application/json-patch+json"


def config(name: str, **data: str) -> Json:
    return {"metadata": {"name": name, "labels": {"name": name}}, "data": data}


def idle_pod(name: str = "pod") -> Json:
    """A pod that no scheduler takes."""
    container = {"name": "main", "image": "registry.invalid/none"}
    return {"metadata": {"name": name}, "spec": {"schedulerName": "nobody", "containers": [container]}}


def workload(name: str = "work") -> Json:
    labels = {"app": name}
    return {
        "metadata": {"name": name},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": idle_pod()["spec"]},
        },
    }


def failure(code: int, reason: str, message: Any, **details: Any) -> Json:
    status: Json = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "code": code,
        "message": message if isinstance(message, re.Pattern) else re.compile(re.escape(message)),
    }
    return status | ({"details": details} if details else {})


async def converse(api: Api, steps: list[tuple[Any, ...]]) -> None:
    """Send each request and compare: (method, path, body or None, status, part of the answer[, type])."""
    for method, path, body, status, wanted, *kind in steps:
        headers = {"content_type": kind[0]} if kind else {}
        got_status, got = await api.ask(method, path, body, **headers)
        assert got_status == status, (method, path, got)
        assert matches(got, wanted), (method, path, got, wanted)


async def test_the_life_of_an_object(api: Api) -> None:
    uid = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
    stamp = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
    metadata = {"name": "a", "namespace": api.namespace, "uid": uid, "creationTimestamp": stamp}
    made = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": {"x": "1"}}
    taken = failure(409, "AlreadyExists", 'configmaps "a" already exists', name="a", kind="configmaps")
    gone = failure(404, "NotFound", 'configmaps "a" not found', name="a", kind="configmaps")
    await converse(
        api,
        [
            ("POST", MAPS, config("a", x="1"), 201, made),
            ("POST", MAPS, config("a", x="1"), 409, taken),
            ("GET", f"{MAPS}/a", None, 200, made),
            ("PUT", f"{MAPS}/a", config("a", y="2"), 200, {"data": {"y": "2"}}),
            ("PATCH", f"{MAPS}/a", {"data": {"z": "3"}}, 200, {"data": {"y": "2", "z": "3"}}, MERGE),
            ("PATCH", f"{MAPS}/a", {"data": {"y": None}}, 200, {"data": {"z": "3"}}, STRATEGIC),
            (
                "PATCH",
                f"{MAPS}/a",
                [{"op": "replace", "path": "/data/z", "value": "4"}],
                200,
                {"data": {"z": "4"}},
                JSON_PATCH,
            ),
            (
                "DELETE",
                f"{MAPS}/a",
                None,
                200,
                {"kind": "Status", "status": "Success", "details": {"name": "a", "kind": "configmaps"}},
            ),
            ("GET", f"{MAPS}/a", None, 404, gone),
            ("DELETE", f"{MAPS}/a", None, 404, gone),
            ("PUT", f"{MAPS}/a", config("a"), 404, gone),
            ("PATCH", f"{MAPS}/a", {"data": {}}, 404, gone, MERGE),
        ],
    )


async def test_what_is_refused(api: Api) -> None:
    other = {"metadata": {"name": "a", "namespace": "other"}}
    empty_pod = {"metadata": {"name": "p"}, "spec": {}}
    subdomain = re.compile(
        r'^ConfigMap "A_b" is invalid: metadata.name: Invalid value: "A_b": a lowercase RFC 1123 subdomain'
    )
    await converse(
        api,
        [
            (
                "POST",
                MAPS,
                {"metadata": {}},
                422,
                failure(
                    422,
                    "Invalid",
                    f'ConfigMap "" is invalid: metadata.name: {NAMELESS}',
                    kind="ConfigMap",
                    causes=[
                        {
                            "reason": "FieldValueRequired",
                            "message": NAMELESS,
                            "field": "metadata.name",
                        }
                    ],
                ),
            ),
            ("POST", MAPS, config("A_b"), 422, failure(422, "Invalid", subdomain)),
            (
                "POST",
                MAPS,
                other,
                400,
                failure(
                    400,
                    "BadRequest",
                    "the namespace of the provided object does not match the namespace sent on the request",
                ),
            ),
            (
                "POST",
                "/api/v1/namespaces/no-such-namespace/configmaps",
                config("a"),
                404,
                failure(404, "NotFound", 'namespaces "no-such-namespace" not found', kind="namespaces"),
            ),
            (
                "PUT",
                f"{MAPS}/b",
                config("a"),
                400,
                failure(
                    400,
                    "BadRequest",
                    "the name of the object (a) does not match the name on the URL (b)",
                ),
            ),
            (
                "POST",
                MAPS,
                {"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "a"}},
                400,
                failure(400, "BadRequest", re.compile("v2")),
            ),
            ("POST", PODS, empty_pod, 422, failure(422, "Invalid", "spec.containers: Required value")),
            (
                "GET",
                "/api/v1/namespaces/{ns}/unicorns",
                None,
                404,
                failure(404, "NotFound", "the server could not find the requested resource"),
            ),
            (
                "PUT",
                MAPS,
                config("a"),
                405,
                failure(
                    405,
                    "MethodNotAllowed",
                    "the server does not allow this method on the requested resource",
                ),
            ),
            (
                "PATCH",
                f"{MAPS}/a",
                {},
                415,
                failure(415, "UnsupportedMediaType", "415: Unsupported Media Type"),
                "application/odd",
            ),
        ],
    )


async def test_bodies_that_are_no_objects(api: Api) -> None:
    for data in (b"", b"{", b"[]", b'"text"'):
        async with api.http.post(
            api.text(MAPS), data=data, headers={"Content-Type": "application/json"}
        ) as answer:
            assert answer.status == 400, data
            assert (await answer.json())["reason"] == "BadRequest"


async def test_a_write_from_an_old_version_is_a_conflict(api: Api) -> None:
    _, old = await api.ask("POST", MAPS, config("a", x="1"))
    changed = failure(
        409,
        "Conflict",
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; '
        "please apply your changes to the latest version and try again",
        name="a",
        kind="configmaps",
    )
    version = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}}
    await converse(
        api,
        [
            ("PUT", f"{MAPS}/a", old | {"data": {"x": "2"}}, 200, {"data": {"x": "2"}}),
            ("PUT", f"{MAPS}/a", old | {"data": {"x": "3"}}, 409, changed),
            ("PATCH", f"{MAPS}/a", version | {"data": {"x": "3"}}, 409, changed, MERGE),
            ("PUT", f"{MAPS}/a", config("a", x="4"), 200, {"data": {"x": "4"}}),
        ],
    )
    status, answer = await api.ask(
        "DELETE", f"{MAPS}/a", {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
    )
    assert (status, answer["reason"]) == (409, "Conflict")
    assert (
        "the UID in the precondition (00000000-0000-0000-0000-000000000000) does not match the UID in "
        in (answer["message"])
    )


async def test_a_put_that_changes_nothing_makes_no_version(api: Api) -> None:
    _, old = await api.ask("POST", MAPS, config("a", x="1"))
    _, same = await api.ask("PUT", f"{MAPS}/a", old)
    assert same["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"]


async def test_generated_names(api: Api) -> None:
    names = set()
    for _ in range(3):
        status, made = await api.ask("POST", MAPS, {"metadata": {"generateName": "gen-"}})
        assert status == 201
        names.add(made["metadata"]["name"])
    assert len(names) == 3
    assert all(re.fullmatch(r"gen-[bcdfghjklmnpqrstvwxz2456789]{5}", name) for name in names)


async def test_a_dry_run_answers_and_stores_nothing(api: Api) -> None:
    await converse(
        api,
        [
            ("POST", f"{MAPS}?dryRun=All", config("a", x="1"), 201, {"data": {"x": "1"}}),
            ("GET", f"{MAPS}/a", None, 404, {"reason": "NotFound"}),
            ("POST", MAPS, config("a", x="1"), 201, {}),
            ("PATCH", f"{MAPS}/a?dryRun=All", {"data": {"x": "2"}}, 200, {"data": {"x": "2"}}, MERGE),
            ("DELETE", f"{MAPS}/a?dryRun=All", None, 200, {"status": "Success"}),
            ("GET", f"{MAPS}/a", None, 200, {"data": {"x": "1"}}),
        ],
    )


async def test_finalizers_hold_an_object_back(api: Api) -> None:
    held = {"metadata": {"name": "a", "finalizers": ["example.com/hold"]}}
    free = {"metadata": {"finalizers": None}}
    await converse(
        api,
        [
            ("POST", MAPS, held, 201, {}),
            ("DELETE", f"{MAPS}/a", None, 200, {"kind": "ConfigMap", "metadata": {"name": "a"}}),
            ("GET", f"{MAPS}/a", None, 200, {"metadata": {"deletionGracePeriodSeconds": 0}}),
            ("PATCH", f"{MAPS}/a", free, 200, {}, MERGE),
            ("GET", f"{MAPS}/a", None, 404, {}),
        ],
    )


async def test_generations_count_specs_and_the_status_is_written_apart(api: Api) -> None:
    scaled = {"spec": {"minReadySeconds": 7}}
    label = {"metadata": {"labels": {"a": "b"}}}
    status = {"status": {"collisionCount": 3}}
    await converse(
        api,
        [
            ("POST", DEPLOYMENTS, workload(), 201, {"metadata": {"generation": 1}}),
            ("PATCH", f"{DEPLOYMENTS}/work", label, 200, {"metadata": {"generation": 1}}, MERGE),
            ("PATCH", f"{DEPLOYMENTS}/work", scaled, 200, {"metadata": {"generation": 2}}, MERGE),
            ("PATCH", f"{DEPLOYMENTS}/work/status", status, 200, status, MERGE),
            ("PATCH", f"{DEPLOYMENTS}/work/status", scaled, 200, {"metadata": {"generation": 2}}, MERGE),
        ],
    )


async def test_scale(api: Api) -> None:
    wanted = {"kind": "Scale", "apiVersion": "autoscaling/v1", "spec": {}}  # 0 is left out
    await converse(
        api,
        [
            ("POST", DEPLOYMENTS, workload(), 201, {}),
            (
                "GET",
                f"{DEPLOYMENTS}/work/scale",
                None,
                200,
                wanted | {"status": {"replicas": 0, "selector": "app=work"}},
            ),
            (
                "PATCH",
                f"{DEPLOYMENTS}/work/scale",
                {"spec": {"replicas": 0}, "metadata": {"name": "work"}},
                200,
                wanted,
                MERGE,
            ),
        ],
    )


async def test_what_the_server_fills_in(api: Api) -> None:
    spec = {
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "terminationGracePeriodSeconds": 30,
        "enableServiceLinks": True,
        "serviceAccountName": "default",
        "containers": [{"name": "main", "terminationMessagePath": "/dev/termination-log"}],
    }
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}
    secret = {"metadata": {"name": "s"}, "stringData": {"a": "hello"}}
    await converse(
        api,
        [
            (
                "GET",
                "/api/v1/namespaces/{ns}",
                None,
                200,
                {
                    "metadata": {"labels": {"kubernetes.io/metadata.name": api.namespace}},
                    "spec": {"finalizers": ["kubernetes"]},
                    "status": {"phase": "Active"},
                },
            ),
            ("POST", DEPLOYMENTS, workload(), 201, {"spec": {"strategy": rolling}}),
            ("POST", "/api/v1/namespaces/{ns}/secrets", secret, 201, {"data": {"a": "aGVsbG8="}}),
        ],
    )
    for _ in range(50):  # a real cluster's controller makes the account a moment later
        status, made = await api.ask("POST", PODS, idle_pod())
        if status != 403:
            break
    assert status == 201, made
    assert matches(made, {"spec": spec, "status": {"phase": "Pending", "qosClass": "BestEffort"}}), made


async def test_collections_are_deleted_by_selector(api: Api) -> None:
    for name in "abc":
        await api.ask("POST", MAPS, config(name))
    status, answer = await api.ask("DELETE", f"{MAPS}?labelSelector=name+in+(a,b)")
    assert (status, answer["kind"]) == (200, "ConfigMapList")
    _, left = await api.ask("GET", f"{MAPS}?labelSelector=name")
    assert [one["metadata"]["name"] for one in left["items"]] == ["c"]


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
async def test_health(api: Api, path: str) -> None:
    async with api.http.get(path) as answer:
        assert (answer.status, await answer.text()) == (200, "ok")


async def test_who_am_i_and_what_may_i(api: Api) -> None:
    review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    attributes = {
        "namespace": api.namespace,
        "verb": "create",
        "resource": "pods",
        "subresource": "portforward",
    }
    status, answer = await api.ask("POST", review, {"spec": {"resourceAttributes": attributes}})
    assert (status, answer["status"]["allowed"]) == (201, True)
    status, answer = await api.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert status == 201
    assert "system:authenticated" in answer["status"]["userInfo"]["groups"]
    status, answer = await api.ask("GET", "/api/v1/namespaces", Authorization="Bearer wrong")
    assert matches(answer, failure(401, "Unauthorized", "Unauthorized"))


async def test_tokens_of_service_accounts(api: Api) -> None:
    accounts = "/api/v1/namespaces/{ns}/serviceaccounts"
    await api.ask("POST", accounts, {"metadata": {"name": "robot"}})
    request = {"spec": {"audiences": ["inroad"], "expirationSeconds": 600}}
    status, made = await api.ask("POST", f"{accounts}/robot/token", request)
    assert status == 201 and made["kind"] == "TokenRequest"
    token = made["status"]["token"]
    review = "/apis/authentication.k8s.io/v1/tokenreviews"
    name = f"system:serviceaccount:{api.namespace}:robot"
    for audiences, known in (
        (["inroad"], True),
        (["another", "inroad"], True),
        (["another"], False),
        ([], False),
    ):
        spec = {"token": token, "audiences": audiences}
        status, answer = await api.ask("POST", review, {"spec": spec})
        assert status == 201
        assert answer["status"].get("authenticated", False) is known, audiences
        if known:
            assert answer["status"]["audiences"] == ["inroad"]
            assert answer["status"]["user"]["username"] == name
    _, made = await api.ask("POST", f"{accounts}/robot/token", {"spec": {}})
    headers = {"Authorization": f"Bearer {made['status']['token']}"}
    status, answer = await api.ask("GET", MAPS, **headers)
    why = f'configmaps is forbidden: User "{name}" cannot list resource "configmaps" in API group "" in the '
    assert matches(answer, failure(403, "Forbidden", f'{why}namespace "{api.namespace}"', kind="configmaps"))
    status, answer = await api.ask("GET", "/apis/apps/v1/deployments", **headers)
    why = f'User "{name}" cannot list resource "deployments" in API group "apps" at the cluster scope'
    assert matches(answer, failure(403, "Forbidden", f"deployments.apps is forbidden: {why}", group="apps"))
    status, answer = await api.ask("POST", f"{accounts}/robot/token", {"spec": {"expirationSeconds": 60}})
    assert status == 422 and "may not specify a duration less than 10 minutes" in answer["message"]


async def test_roles_give_rights(api: Api) -> None:
    accounts = "/api/v1/namespaces/{ns}/serviceaccounts"
    await api.ask("POST", accounts, {"metadata": {"name": "robot"}})
    _, made = await api.ask("POST", f"{accounts}/robot/token", {"spec": {}})
    headers = {"Authorization": f"Bearer {made['status']['token']}"}
    assert (await api.ask("GET", f"{MAPS}/a", **headers))[0] == 403
    rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}"
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"], "verbs": ["get"]}]
    await api.ask("POST", f"{rbac}/roles", {"metadata": {"name": "reader"}, "rules": rules})
    binding = {
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": api.namespace}],
    }
    assert (await api.ask("POST", f"{rbac}/rolebindings", binding))[0] == 201
    for _ in range(100):  # a real authorizer sees the binding a moment later
        status, answer = await api.ask("GET", f"{MAPS}/a", **headers)
        if status != 403:
            break
    assert (status, answer["reason"]) == (404, "NotFound")
    assert (await api.ask("GET", f"{MAPS}/b", **headers))[0] == 403
    assert (await api.ask("GET", MAPS, **headers))[0] == 403


async def test_a_strategic_patch_puts_new_items_first(api: Api) -> None:
    """In lists that are merged, by a key or as sets; items that are known keep their order among the rest."""
    path = "/api/v1/namespaces/{ns}/services"
    ports = [{"name": f"p{number}", "port": number} for number in (80, 81)]
    metadata = {"name": "a", "finalizers": ["example.test/old"]}
    await api.ask("POST", path, {"metadata": metadata, "spec": {"ports": ports}})
    patch = {
        "metadata": {"finalizers": ["example.test/new"]},
        "spec": {"ports": [{"name": "new", "port": 82}, {"port": 81, "targetPort": 9}]},
    }
    _, patched = await api.ask("PATCH", f"{path}/a", patch, content_type=STRATEGIC)
    assert [one["port"] for one in patched["spec"]["ports"]] == [82, 80, 81]
    assert patched["metadata"]["finalizers"] == ["example.test/new", "example.test/old"]
    await api.ask("PATCH", f"{path}/a", {"metadata": {"finalizers": None}}, content_type=MERGE)
