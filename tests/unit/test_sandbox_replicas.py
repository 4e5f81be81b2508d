"""How Deployments and StatefulSets choose their next step, with pods that become ready in turn."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.sandbox import replicas, statefulsets

Json = dict[str, Any]


def deployment(wanted: int, surge: int | str = "25%", unavailable: int | str = "25%") -> Json:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    return {"spec": {"replicas": wanted, "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}}


def replica_set(name: str, size: int, ready: int, revision: int = 1) -> Json:
    return {
        "metadata": {"name": name, "annotations": {replicas.REVISION: str(revision)}},
        "spec": {"replicas": size},
        "status": {"replicas": size, "readyReplicas": ready},
    }


@pytest.mark.parametrize(
    ("wanted", "surge", "unavailable", "expected"),
    [
        (4, "25%", "25%", (1, 1)),
        (1, "25%", "25%", (1, 0)),
        (10, "25%", "25%", (3, 2)),
        (3, 0, 0, (0, 1)),
        (3, 2, 0, (2, 0)),
    ],
)
def test_limits(wanted: int, surge: int | str, unavailable: int | str, expected: tuple[int, int]) -> None:
    assert replicas.limits(deployment(wanted, surge, unavailable)) == expected


@given(
    wanted=st.integers(0, 12), surge=st.integers(0, 4), unavailable=st.integers(0, 4), old=st.integers(0, 12)
)
def test_a_rolling_update_keeps_its_limits_and_ends(
    wanted: int, surge: int, unavailable: int, old: int
) -> None:
    this = deployment(wanted, surge, unavailable)
    allowed_surge, allowed_unavailable = replicas.limits(this)
    new_set, old_set = replica_set("new", 0, 0, 2), replica_set("old", min(old, wanted), min(old, wanted))
    for _ in range(200):
        sizes = replicas.step(this, new_set, [old_set])
        ready_before = new_set["status"]["readyReplicas"] + old_set["status"]["readyReplicas"]
        for one in (new_set, old_set):
            one["spec"]["replicas"] = sizes.get(one["metadata"]["name"], one["spec"]["replicas"])
            # What is surplus goes at once; what is new becomes ready one pod at a time.
            one["status"]["readyReplicas"] = min(one["status"]["readyReplicas"], one["spec"]["replicas"])
        total = new_set["spec"]["replicas"] + old_set["spec"]["replicas"]
        ready = new_set["status"]["readyReplicas"] + old_set["status"]["readyReplicas"]
        assert total <= wanted + allowed_surge
        assert ready >= min(ready_before, wanted - allowed_unavailable)
        if new_set["status"]["readyReplicas"] == wanted and not old_set["spec"]["replicas"]:
            break
        if new_set["status"]["readyReplicas"] < new_set["spec"]["replicas"]:
            new_set["status"]["readyReplicas"] += 1
    assert new_set["spec"]["replicas"] == wanted
    assert old_set["spec"]["replicas"] == 0


def test_recreate_waits_until_the_old_pods_are_gone() -> None:
    this = {"spec": {"replicas": 2, "strategy": {"type": "Recreate"}}}
    assert replicas.step(this, replica_set("new", 0, 0, 2), [replica_set("old", 2, 2)]) == {"old": 0}
    assert replicas.step(this, replica_set("new", 0, 0, 2), [replica_set("old", 0, 0)]) == {"new": 2}


def test_a_template_names_its_set() -> None:
    first = replicas.template_hash({"a": 1, "b": [2]})
    assert first == replicas.template_hash({"b": [2], "a": 1})
    assert first != replicas.template_hash({"a": 1, "b": [3]})
    assert len(first) == 10


def stateful(wanted: int, policy: str = "OrderedReady", partition: int = 0) -> Json:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}
    return {"spec": {"replicas": wanted, "podManagementPolicy": policy, "updateStrategy": strategy}}


def pod(number: int, ready: bool = True, revision: str = "new", going: bool = False) -> Json:
    metadata: Json = {"name": f"db-{number}", "labels": {statefulsets.REVISION: revision}}
    if going:
        metadata["deletionTimestamp"] = "now"
    status = {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    return {"metadata": metadata, "status": status}


def pods(*each: Json) -> dict[int, Json]:
    return {statefulsets.number_of(one): one for one in each}


@pytest.mark.parametrize(
    ("this", "present", "create", "delete"),
    [
        (stateful(3), pods(), [0], []),
        (stateful(3), pods(pod(0, ready=False)), [], []),
        (stateful(3), pods(pod(0)), [1], []),
        (stateful(3, "Parallel"), pods(), [0, 1, 2], []),
        (stateful(1), pods(pod(0), pod(1), pod(2)), [], [2]),
        (stateful(1), pods(pod(0), pod(1), pod(2, going=True)), [], []),
        (stateful(1, "Parallel"), pods(pod(0), pod(1), pod(2)), [], [2, 1]),
        (stateful(2), pods(pod(0, revision="old"), pod(1, revision="old")), [], [1]),
        (stateful(2), pods(pod(0, revision="old"), pod(1, ready=False)), [], []),
        (stateful(2), pods(pod(0, revision="old"), pod(1)), [], [0]),
        (stateful(2, partition=1), pods(pod(0, revision="old"), pod(1, revision="old")), [], [1]),
        (stateful(2, partition=1), pods(pod(0, revision="old"), pod(1)), [], []),
    ],
)
def test_stateful_sets(this: Json, present: dict[int, Json], create: list[int], delete: list[int]) -> None:
    assert statefulsets.to_create(this, present) == create
    assert statefulsets.to_delete(this, present, "new") == delete
