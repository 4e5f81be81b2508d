"""Label and field selectors, and names."""

from __future__ import annotations

import pytest

from inroad.sandbox.apiserver.collection import Entry
from inroad.sandbox.apiserver.selectors import exact_name, labels_match, predicate
from inroad.sandbox.apiserver.status import ApiError

LABELS = {"app": "web", "tier": "front", "example.com/x": ""}


@pytest.mark.parametrize(
    ("selector", "selects"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app=api", False),
        ("app!=web", False),
        ("app != api", True),
        ("missing!=x", True),
        ("app", True),
        ("!app", False),
        ("missing", False),
        ("!missing", True),
        ("app in (web, api)", True),
        ("app in (api)", False),
        ("app notin (api)", True),
        ("missing notin (a)", True),
        ("missing in (a)", False),
        ("example.com/x=", True),
        ("app=web,tier=front", True),
        ("app=web,tier=back", False),
        ("app in (web,api),tier notin (back,middle),!missing", True),
    ],
)
def test_label_selectors(selector: str, selects: bool) -> None:
    assert labels_match(selector)(LABELS) is selects


@pytest.mark.parametrize("selector", ["app in", "a=b=c", "(a)", "app in (a", "a b"])
def test_unreadable_label_selectors(selector: str) -> None:
    with pytest.raises(ApiError) as caught:
        labels_match(selector)
    assert caught.value.code == 400


POD = Entry(
    {
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"nodeName": "node-1", "hostNetwork": True},
        "status": {"phase": "Running", "podIP": "10.1.1.1"},
    },
    1,
)


@pytest.mark.parametrize(
    ("selector", "selects"),
    [
        ("metadata.name=web", True),
        ("metadata.name!=web", False),
        ("metadata.namespace=shop", True),
        ("spec.nodeName=node-1", True),
        ("spec.nodeName==node-2", False),
        ("status.phase!=Succeeded,status.phase!=Failed", True),
        ("status.phase=Running,spec.nodeName=node-2", False),
        ("spec.hostNetwork=true", True),
        ("spec.schedulerName=", True),
        ("status.podIP=10.1.1.1", True),
    ],
)
def test_field_selectors(selector: str, selects: bool) -> None:
    assert predicate("pods", "", selector)(POD) is selects


def test_fields_that_a_kind_does_not_select_by() -> None:
    with pytest.raises(ApiError, match=r"field label not supported: spec\.color"):
        predicate("pods", "", "spec.color=red")
    with pytest.raises(ApiError, match="is not a known field selector: only"):
        predicate("configmaps", "", "data.x=y")


def test_both_kinds_together() -> None:
    entry = Entry({"metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {"unschedulable": True}}, 1)
    assert predicate("nodes", "a=b", "spec.unschedulable=true")(entry)
    assert not predicate("nodes", "a=c", "spec.unschedulable=true")(entry)
    assert predicate("nodes", "", "spec.unschedulable=false")(Entry({"metadata": {"name": "n"}}, 1))


def test_a_list_by_name_is_about_that_name() -> None:
    assert exact_name("metadata.name=web") == "web"
    assert exact_name("spec.nodeName=x,metadata.name=web") == "web"
    assert exact_name("metadata.name!=web") == exact_name("") == ""
