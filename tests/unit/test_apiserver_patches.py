"""The three patches: the tables of their RFCs, and strategic merge by its own documentation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.sandbox.apiserver import patches
from inroad.sandbox.apiserver.status import ApiError

MERGE = [  # RFC 7396, appendix A
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    ({"a": "foo"}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
]


@pytest.mark.parametrize(("target", "patch", "wanted"), MERGE)
def test_merge_patch(target: Any, patch: Any, wanted: Any) -> None:
    assert patches.apply(patches.MERGE_PATCH, copy.deepcopy(target), patch) == wanted


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=2), json_values, max_size=4)


def difference(old: Any, new: Any) -> Any:
    """The obvious merge patch from one object to another; it can't say null."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old or old[key] != value:
            both = isinstance(old.get(key), dict) and isinstance(value, dict)
            patch[key] = difference(old[key], value) if both else value
    return patch


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


@given(objects, objects)
def test_a_merge_patch_leads_from_any_object_to_any_other(old: Any, new: Any) -> None:
    old, new = without_nulls(old), without_nulls(new)
    assert patches.merge(old, difference(old, new)) == new


OPERATIONS = [  # RFC 6902, appendix A
    ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
    (
        {"foo": ["bar", "baz"]},
        [{"op": "add", "path": "/foo/1", "value": "qux"}],
        {"foo": ["bar", "qux", "baz"]},
    ),
    ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["x"]}], {"foo": ["bar", ["x"]]}),
    ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
    ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
    ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
    (
        {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
        [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
        {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
    ),
    (
        {"foo": ["all", "grass", "cows", "eat"]},
        [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
        {"foo": ["all", "cows", "eat", "grass"]},
    ),
    ({"baz": "qux"}, [{"op": "test", "path": "/baz", "value": "qux"}], {"baz": "qux"}),
    ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
    ({"a/b": 1}, [{"op": "copy", "from": "/a~1b", "path": "/c"}], {"a/b": 1, "c": 1}),
]


@pytest.mark.parametrize(("target", "operations", "wanted"), OPERATIONS)
def test_json_patch(target: Any, operations: Any, wanted: Any) -> None:
    assert patches.apply(patches.JSON_PATCH, copy.deepcopy(target), operations) == wanted


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/baz", "value": "bar"},
        {"op": "remove", "path": "/nowhere"},
        {"op": "add", "path": "/no/parent", "value": 1},
        {"op": "replace", "path": "/nowhere", "value": 1},
        {"op": "add", "path": "list/7", "value": 1},
        {"op": "add", "path": "/list/7", "value": 1},
        {"path": "/baz"},
        "nonsense",
    ],
)
def test_a_json_patch_that_does_not_fit(operation: Any) -> None:
    with pytest.raises(ApiError) as caught:
        patches.apply(patches.JSON_PATCH, {"baz": "qux", "list": [1]}, [operation])
    assert caught.value.code in (400, 422)


def containers(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"containers": [{"name": name, "image": image} for name, image in pairs]}


STRATEGIC = [
    # Lists with a merge key are merged by it ...
    (containers(("a", "1"), ("b", "1")), containers(("b", "2")), containers(("a", "1"), ("b", "2"))),
    # ... new items before those that are known ...
    (containers(("a", "1")), containers(("b", "1")), containers(("b", "1"), ("a", "1"))),
    (
        containers(("a", "1"), ("b", "1")),
        containers(("c", "1"), ("b", "2")),
        containers(("c", "1"), ("a", "1"), ("b", "2")),
    ),
    # ... other lists are replaced.
    ({"args": ["x", "y"]}, {"args": ["z"]}, {"args": ["z"]}),
    (
        {"containers": [{"name": "a"}, {"name": "b"}]},
        {"containers": [{"name": "a", "$patch": "delete"}]},
        {"containers": [{"name": "b"}]},
    ),
    (
        {"containers": [{"name": "a"}]},
        {"containers": [{"$patch": "replace"}, {"name": "b"}]},
        {"containers": [{"name": "b"}]},
    ),
    ({"spec": {"a": 1, "b": 2}}, {"spec": {"$patch": "replace", "c": 3}}, {"spec": {"c": 3}}),
    (
        {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}},
        {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}},
        {"strategy": {"type": "Recreate"}},
    ),
    (
        {"finalizers": ["a", "b"]},
        {"$deleteFromPrimitiveList/finalizers": ["a"]},
        {"finalizers": ["b"]},
    ),
    ({"finalizers": ["a"]}, {"finalizers": ["b"]}, {"finalizers": ["b", "a"]}),
    (
        containers(("a", "1"), ("b", "1"), ("x", "1")),
        {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], **containers(("a", "2"))},
        containers(("b", "1"), ("a", "2"), ("x", "1")),
    ),
    (
        {"ports": [{"port": 80, "name": "http"}]},
        {"ports": [{"port": 80, "targetPort": 8080}]},
        {"ports": [{"port": 80, "name": "http", "targetPort": 8080}]},
    ),
    (
        {"ports": [{"containerPort": 80}]},
        {"ports": [{"containerPort": 81}]},
        {"ports": [{"containerPort": 81}, {"containerPort": 80}]},
    ),
    ({"metadata": {"labels": {"a": "1", "b": "2"}}}, {"metadata": {"labels": {"a": None}}},
     {"metadata": {"labels": {"b": "2"}}}),
]  # fmt: skip


@pytest.mark.parametrize(("target", "patch", "wanted"), STRATEGIC)
def test_strategic_merge(target: Any, patch: Any, wanted: Any) -> None:
    assert patches.apply(patches.STRATEGIC_PATCH, copy.deepcopy(target), patch) == wanted


def test_an_item_without_its_merge_key_is_refused() -> None:
    with pytest.raises(ApiError, match="does not contain declared merge key: name"):
        patches.strategic({"containers": []}, {"containers": [{"image": "x"}]})
