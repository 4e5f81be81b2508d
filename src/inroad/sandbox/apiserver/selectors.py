"""Label and field selectors: text in, a predicate over stored objects out.

Grammar: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from inroad.sandbox.apiserver.collection import Entry
from inroad.sandbox.apiserver.status import bad_request

Predicate = Callable[[Entry], bool]
_Labels = Mapping[str, str]
_SET = re.compile(r"^\s*(\S+)\s+(in|notin)\s*\(([^()]*)\)\s*$")
_EQUAL = re.compile(r"^\s*([^\s!=]+)\s*(==|=|!=)\s*([^\s=!,]*)\s*$")
_EXISTS = re.compile(r"^\s*(!?)\s*([^\s!=,()]+)\s*$")

_COMMON = ("metadata.name", "metadata.namespace")
_FIELDS: dict[str, tuple[str, ...]] = {
    "pods": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ),
    "nodes": ("spec.unschedulable",),
    "namespaces": ("status.phase",),
    "secrets": ("type",),
    "services": ("spec.clusterIP", "spec.type"),
    "events": (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
}


def everything(_: Entry) -> bool:
    """Select all objects."""
    return True


def labels_match(selector: str) -> Callable[[_Labels], bool]:
    """Return the predicate over labels that a label selector means; 400 when it can't be read."""
    tests = [_requirement(part) for part in _split(selector)]

    def match(labels: _Labels) -> bool:
        return all(test(labels) for test in tests)

    return match


def requirements_match(selector: Mapping[str, Any], labels: _Labels) -> bool:
    """Return whether a LabelSelector object (`matchLabels`, `matchExpressions`) selects these labels."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for one in selector.get("matchExpressions") or ():
        key, values = one["key"], one.get("values") or ()
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not holds.get(one.get("operator", ""), False):
            return False
    return True


def predicate(plural: str, label_selector: str, field_selector: str) -> Predicate:
    """Return what selects by both selectors, `everything` when both are empty."""
    tests: list[Predicate] = []
    if label_selector.strip():
        match = labels_match(label_selector)
        tests.append(lambda entry: match(entry.labels or {}))
    if field_selector.strip():
        tests.append(_field_predicate(plural, field_selector))
    if not tests:
        return everything
    if len(tests) == 1:
        return tests[0]
    return lambda entry: all(test(entry) for test in tests)


def exact_name(field_selector: str) -> str:
    """Return the one name that a field selector asks for, or '' (RBAC sees a list by name as that name)."""
    for path, negated, value in _field_terms(field_selector):
        if path == "metadata.name" and not negated:
            return value
    return ""


def _split(selector: str) -> list[str]:
    """Split at the commas that are not inside parentheses."""
    parts = re.split(r",(?![^(]*\))", selector)
    return [part for part in parts if part.strip()] if selector.strip() else []


def _requirement(part: str) -> Callable[[_Labels], bool]:
    if found := _SET.match(part):
        key, operator, inside = found.groups()
        values = {value.strip() for value in inside.split(",")}
        if operator == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUAL.match(part):
        key, operator, value = found.groups()
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS.match(part):
        negated, key = found.groups()
        return (lambda labels: key not in labels) if negated else (lambda labels: key in labels)
    raise bad_request(f"unable to parse requirement: {part.strip()}")


def _field_terms(selector: str) -> list[tuple[str, bool, str]]:
    terms = []
    for part in filter(None, (piece.strip() for piece in selector.split(","))):
        found = re.match(r"^([^=!]+?)(==|!=|=)(.*)$", part)
        if not found:
            raise bad_request(f"invalid selector: '{selector}'; can't understand '{part}'")
        path, operator, value = found.groups()
        terms.append((path, operator == "!=", value))
    return terms


def _field_predicate(plural: str, selector: str) -> Predicate:
    terms = _field_terms(selector)
    known = _COMMON + _FIELDS.get(plural, ())
    for path, _, _ in terms:
        if path in known:
            continue
        if plural in _FIELDS:
            raise bad_request(f"field label not supported: {path}")
        raise bad_request(
            f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"'
        )
    inside = tuple(path for path, _, _ in terms if path not in _COMMON)
    decode = _projection(inside).decode if inside else None

    def select(entry: Entry) -> bool:
        view = decode(entry.data) if decode else None
        for path, negated, value in terms:
            if path == "metadata.name":
                actual = entry.name
            elif path == "metadata.namespace":
                actual = entry.namespace
            else:
                actual = _text(view, path)
            if (actual == value) is negated:
                return False
        return True

    return select


def _text(view: object, path: str) -> str:
    """Return the field as the server compares it: absent is '', booleans are true and false."""
    for step in path.split("."):
        view = getattr(view, step, None)
    if isinstance(view, bool):
        return "true" if view else "false"
    if path in ("spec.unschedulable", "spec.hostNetwork"):
        return str(view or "false").lower()
    return "" if view is None else str(view)


@lru_cache(maxsize=64)
def _projection(paths: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Return a decoder that reads only these fields: ten times as fast as decoding a whole pod."""
    tree: dict[str, Any] = {}
    for path in paths:
        node = tree
        *parents, last = path.split(".")
        for step in parents:
            node = node.setdefault(step, {})
        node[last] = None
    return msgspec.json.Decoder(_struct(tree, "View"))


def _struct(tree: dict[str, Any], name: str) -> Any:
    fields: list[tuple[str, Any, Any]] = [
        (step, Any if inner is None else _struct(inner, step) | None, None) for step, inner in tree.items()
    ]
    return msgspec.defstruct(name, fields)
