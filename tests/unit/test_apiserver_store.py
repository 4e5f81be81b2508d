"""The store: versions, conflicts, subresources, deletion, history, as the API conventions describe them."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from inroad.sandbox.apiserver.collection import Change
from inroad.sandbox.apiserver.resources import RESOURCES
from inroad.sandbox.apiserver.status import ApiError
from inroad.sandbox.apiserver.store import Store
from inroad.sandbox.apiserver.synthetic import populate

Json = dict[str, Any]


def make(**options: Any) -> Store:
    return Store(choose=random.Random(7), now=lambda: 1_700_000_000.0, **options)


def pod(name: str = "web", **metadata: Any) -> Json:
    return {"metadata": {"name": name, **metadata}, "spec": {"containers": [{"name": "main"}]}}


def code_of(call: Any) -> tuple[int, str]:
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value.code, caught.value.reason


def test_create_completes_the_object() -> None:
    store = make()
    made = store.create("pods", pod())
    assert (made["kind"], made["apiVersion"]) == ("Pod", "v1")
    metadata = made["metadata"]
    assert metadata["creationTimestamp"] == "2023-11-14T22:13:20Z"
    assert metadata["namespace"] == "default" and metadata["generation"] == 1
    assert len(metadata["uid"]) == 36 and metadata["resourceVersion"] == str(store.rv)
    assert made["status"]["phase"] == "Pending"
    assert made["spec"]["terminationGracePeriodSeconds"] == 30


def test_what_goes_in_is_copied_and_what_comes_out_is_the_callers() -> None:
    store = make()
    mine = pod(labels={"a": "b"})
    theirs = store.create("pods", mine)
    mine["metadata"]["labels"]["a"] = theirs["metadata"]["labels"]["a"] = "changed"
    assert store.get("pods", "web", "default")["metadata"]["labels"] == {"a": "b"}
    assert store.list("pods", labels="a=b")


@pytest.mark.parametrize(
    ("obj", "code", "text"),
    [
        ({"metadata": {}}, 422, 'Pod "" is invalid: metadata.name: Required value: name or generateName'),
        (pod("Web"), 422, "a lowercase RFC 1123 subdomain must consist of"),
        (pod("x" * 254), 422, "must be no more than 253 characters"),
        (pod(labels={"a": "b c"}), 422, "a valid label must be an empty string or consist of"),
        (pod(labels={"a b": "c"}), 422, "name part must consist of"),
        (pod(namespace="nowhere"), 404, 'namespaces "nowhere" not found'),
        ({"metadata": {"name": "web"}, "spec": {}}, 422, "spec.containers: Required value"),
    ],
)
def test_what_is_refused(obj: Json, code: int, text: str) -> None:
    with pytest.raises(ApiError) as caught:
        make().create("pods", obj)
    assert caught.value.code == code
    assert text in caught.value.message


def test_generated_names_and_taken_names() -> None:
    store = make()
    names = {
        store.create("pods", {**pod(), "metadata": {"generateName": "web-"}})["metadata"]["name"]
        for _ in "ab"
    }
    assert len(names) == 2 and all(name.startswith("web-") and len(name) == 9 for name in names)
    store.create("pods", pod())
    with pytest.raises(ApiError) as caught:
        store.create("pods", pod())
    assert (caught.value.code, caught.value.message) == (409, 'pods "web" already exists')


def test_an_update_from_an_old_version_is_a_conflict() -> None:
    store = make()
    old = store.create("configmaps", {"metadata": {"name": "c"}, "data": {"a": "1"}})
    new = {**old, "data": {"a": "2"}}
    store.update("configmaps", new)
    assert code_of(lambda: store.update("configmaps", new)) == (409, "Conflict")
    new["metadata"].pop("resourceVersion")
    store.update("configmaps", {**new, "data": {"a": "3"}})
    assert code_of(lambda: store.update("configmaps", {"metadata": {"name": "d"}})) == (404, "NotFound")


def test_an_update_that_changes_nothing_is_no_event() -> None:
    store = make()
    made = store.create("configmaps", {"metadata": {"name": "c"}, "data": {"a": "1"}})
    before = store.rv
    assert (
        store.update("configmaps", made)["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    )
    assert store.rv == before


def deployment(replicas: int = 1) -> Json:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "main"}]}}
    return {
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}}, "template": template},
    }


def test_spec_and_status_are_written_apart_and_only_the_spec_counts_generations() -> None:
    store = make()
    made = store.create("deployments", deployment())
    made["status"] = {"replicas": 9}
    made["spec"]["replicas"] = 3
    made = store.update("deployments", made)
    assert (made["metadata"]["generation"], made["status"]) == (2, {})
    made["status"] = {"replicas": 9}
    made["spec"]["replicas"] = 7
    made = store.update("deployments", made, subresource="status")
    assert (made["metadata"]["generation"], made["status"], made["spec"]["replicas"]) == (
        2,
        {"replicas": 9},
        3,
    )


def test_a_selector_never_changes_and_fits_its_template() -> None:
    store = make()
    made = store.create("deployments", deployment())
    made["spec"]["selector"] = made["spec"]["template"]["metadata"]["labels"] = {"c": "d"}
    assert code_of(lambda: store.update("deployments", made)) == (422, "Invalid")
    odd = deployment()
    odd["spec"]["selector"] = {"matchLabels": {"other": "x"}}
    assert code_of(lambda: make().create("deployments", odd)) == (422, "Invalid")


def test_a_pods_spec_is_fixed_but_for_a_few_fields() -> None:
    store = make()
    made = store.create("pods", pod())
    made["spec"]["nodeName"] = "node-1"  # the scheduler's part
    made = store.update("pods", made)
    made["spec"]["containers"][0]["image"] = "other"
    made = store.update("pods", made)
    made["spec"]["containers"][0]["command"] = ["true"]
    with pytest.raises(ApiError, match="pod updates may not change fields other than"):
        store.update("pods", made)


def test_ephemeral_containers_have_their_own_door() -> None:
    store = make()
    made = store.create("pods", pod())
    made["spec"]["ephemeralContainers"] = [{"name": "debug"}]
    assert "ephemeralContainers" not in store.update("pods", made)["spec"]
    made = store.update("pods", made, subresource="ephemeralcontainers")
    assert [one["name"] for one in made["spec"]["ephemeralContainers"]] == ["debug"]
    made["spec"]["ephemeralContainers"] = []
    with pytest.raises(ApiError, match="may not be removed"):
        store.update("pods", made, subresource="ephemeralcontainers")


def test_a_pod_on_a_node_is_deleted_twice() -> None:
    store = make()
    store.create("pods", {**pod(), "spec": {"nodeName": "n", "containers": [{"name": "main"}]}})
    marked = store.delete("pods", "web", "default")
    assert marked["metadata"]["deletionTimestamp"] == "2023-11-14T22:13:50Z"
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
    assert store.delete("pods", "web", "default", grace=60) == store.get("pods", "web", "default")
    sooner = store.delete("pods", "web", "default", grace=5)
    assert sooner["metadata"]["deletionGracePeriodSeconds"] == 5
    store.delete("pods", "web", "default", grace=0)
    assert store.find("pods", "web", "default") is None
    store.create("pods", pod("unscheduled"))
    store.delete("pods", "unscheduled", "default")
    assert store.find("pods", "unscheduled", "default") is None


def test_finalizers_hold_an_object_back() -> None:
    store = make()
    store.create("configmaps", {"metadata": {"name": "c", "finalizers": ["example.com/x"]}})
    held = store.delete("configmaps", "c", "default")
    assert held["metadata"]["deletionTimestamp"]
    seen: list[Change] = []
    store.subscribe("configmaps", seen.append)
    held["metadata"]["finalizers"] = []
    store.update("configmaps", held)
    assert store.find("configmaps", "c", "default") is None
    assert [change.kind for change in seen] == ["DELETED"]


def test_a_namespace_goes_when_its_finalizer_does_and_takes_nothing_new_before() -> None:
    store = make()
    store.create("namespaces", {"metadata": {"name": "shop"}})
    store.delete("namespaces", "shop")
    assert store.get("namespaces", "shop")["status"]["phase"] == "Terminating"
    with pytest.raises(ApiError, match="because it is being terminated") as caught:
        store.create("pods", pod(namespace="shop"))
    assert caught.value.code == 403
    store.modify("namespaces", "shop", "", lambda obj: obj["spec"].update(finalizers=[]))
    assert store.find("namespaces", "shop") is None
    assert code_of(lambda: store.delete("namespaces", "default")) == (403, "Forbidden")


def test_a_dry_run_answers_and_does_nothing() -> None:
    store = make()
    before = store.rv
    assert "resourceVersion" not in store.create("pods", pod(), dry_run=True)["metadata"]
    assert (store.rv, store.find("pods", "web", "default")) == (before, None)


def test_secrets_take_plain_strings() -> None:
    made = make().create("secrets", {"metadata": {"name": "s"}, "stringData": {"a": "hello"}})
    assert (made["data"], "stringData" in made, made["type"]) == ({"a": "aGVsbG8="}, False, "Opaque")


def test_deleted_objects_carry_the_version_of_their_deletion() -> None:
    store = make()
    seen: list[Change] = []
    store.subscribe("pods", seen.append)
    store.create("pods", pod())
    store.delete("pods", "web", "default")
    assert [(change.kind, change.rv) for change in seen] == [("ADDED", store.rv - 1), ("DELETED", store.rv)]
    assert seen[1].entry.object()["metadata"]["resourceVersion"] == str(store.rv)


def test_history_is_replayed_until_it_is_forgotten() -> None:
    store = make(history=3)
    start = store.rv
    for number in range(5):
        store.create("configmaps", {"metadata": {"name": f"c{number}"}})
    collection = store.collection("configmaps")
    assert [change.entry.name for change in collection.since(start + 3)] == ["c3", "c4"]
    assert code_of(lambda: collection.since(start + 1)) == (410, "Expired")
    store.forget_history()
    assert collection.since(store.rv) == []
    with pytest.raises(ApiError, match=f"too old resource version: {store.rv - 1} \\({store.rv}\\)"):
        collection.since(store.rv - 1)


async def test_a_watch_in_the_process() -> None:
    store = make()
    store.create("pods", pod("before"))
    seen = []

    async def follow() -> None:
        async for change in store.watch("pods", "default"):
            seen.append((change.kind, change.entry.name))
            if len(seen) == 3:
                return

    task = asyncio.ensure_future(follow())
    await asyncio.sleep(0)
    store.create("namespaces", {"metadata": {"name": "other"}})
    store.create("pods", pod("elsewhere", namespace="other"))
    store.create("pods", pod("after"))
    store.delete("pods", "before", "default")
    await asyncio.wait_for(task, 1)
    assert seen == [("ADDED", "before"), ("ADDED", "after"), ("DELETED", "before")]


def test_service_cidrs_exist_where_the_version_has_them() -> None:
    cidr = make(service_cidrs=["10.96.0.0/16"]).get("servicecidrs", "kubernetes")
    assert cidr["spec"]["cidrs"] == ["10.96.0.0/16"]
    assert cidr["status"]["conditions"][0]["status"] == "True"


def test_synthetic_clusters() -> None:
    store = make()
    populate(store, 3, 2001)
    pods, nodes = store.list("pods"), store.list("nodes")
    assert (len(pods), len(nodes), len(store.list("pods", "synthetic-2"))) == (2001, 3, 1)
    assert len({one["metadata"]["uid"] for one in pods}) == 2001
    assert {one["spec"]["nodeName"] for one in pods} == {one["metadata"]["name"] for one in nodes}


def test_every_kind_is_named_once() -> None:
    names = [(one.group, one.plural) for one in RESOURCES]
    assert len(names) == len(set(names)) == len({(one.group, one.kind) for one in RESOURCES})


class Model(RuleBasedStateMachine):
    """The store against a plain dict, and every watcher's view against the store."""

    names = st.sampled_from(["a", "a-b", "a0", "b"])
    namespaces = st.sampled_from(["default", "kube-system", "kube-public"])

    @initialize()
    def begin(self) -> None:
        self.store = make(history=50)
        self.model: dict[tuple[str, str], str] = {}
        self.view: dict[str, str] = {}
        self.seen = self.store.rv

    @rule(name=names, namespace=namespaces, value=st.sampled_from(["1", "2"]))
    def write(self, name: str, namespace: str, value: str) -> None:
        obj = {"metadata": {"name": name, "labels": {"v": value}}}
        if (namespace, name) in self.model:
            self.store.update("configmaps", obj, namespace)
        else:
            self.store.create("configmaps", obj, namespace)
        self.model[namespace, name] = value

    @rule(name=names, namespace=namespaces)
    def remove(self, name: str, namespace: str) -> None:
        if self.model.pop((namespace, name), None) is None:
            assert code_of(lambda: self.store.delete("configmaps", name, namespace)) == (404, "NotFound")
        else:
            self.store.delete("configmaps", name, namespace)

    @rule()
    def catch_up(self) -> None:
        for change in self.store.collection("configmaps").since(self.seen):
            if change.kind == "DELETED":
                del self.view[change.entry.key]
            else:
                assert (change.kind == "ADDED") == (change.entry.key not in self.view)
                self.view[change.entry.key] = (change.entry.labels or {})["v"]
        self.seen = self.store.rv
        assert self.view == {f"{namespace}/{name}": v for (namespace, name), v in self.model.items()}

    @invariant()
    def lists_are_the_model_in_order(self) -> None:
        for namespace in (None, "default", "kube-system", "kube-public"):
            wanted = sorted(f"{ns}/{name}" for ns, name in self.model if namespace in (None, ns))
            assert list(self.store.collection("configmaps").span(namespace)) == wanted
        for value in "12":
            found = self.store.list("configmaps", labels={"v": value})
            assert len(found) == sum(1 for one in self.model.values() if one == value)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=30, stateful_step_count=30)
