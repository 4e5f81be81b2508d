"""Mutating admission webhooks: which are asked about a request, with what, and what their answers change.

kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers. No I/O: `call` is given.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from inroad.sandbox.apiserver import patches
from inroad.sandbox.apiserver.auth import User
from inroad.sandbox.apiserver.requests import Target
from inroad.sandbox.apiserver.selectors import requirements_match
from inroad.sandbox.apiserver.status import ApiError, internal
from inroad.sandbox.apiserver.store import Store

Json = dict[str, Any]
Call = Callable[[Json, Json], Awaitable[Json]]
"""(webhook as configured, AdmissionReview) to the review with its response; `CallFailed`."""

_EXEMPT = ("mutatingwebhookconfigurations",)
OPERATIONS = {"create": "CREATE", "update": "UPDATE", "patch": "UPDATE", "delete": "DELETE"}
_OPTIONS = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}


class CallFailed(Exception):
    """A webhook could not be asked, or its answer makes no sense."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a request is about to do."""

    target: Target
    user: User
    name: str
    namespace: str
    old: Json | None
    dry_run: bool

    @property
    def operation(self) -> str:
        """CREATE, UPDATE or DELETE."""
        return OPERATIONS[self.target.verb]


class Admission:
    """Asks the webhooks of a cluster."""

    def __init__(self, store: Store, call: Call) -> None:
        self._store = store
        self._call = call

    async def admit(self, attributes: Attributes, obj: Json | None) -> Json | None:
        """Return the object as all webhooks want it; `ApiError` when one denies the request or is missed."""
        if attributes.target.resource.plural in _EXEMPT or attributes.operation not in _OPTIONS:
            return obj
        again: list[Json] = []
        for hook in self._hooks():
            if not self._matches(hook, attributes, obj):
                continue
            before = obj
            obj = await self._ask(hook, attributes, obj)
            if obj != before:
                for earlier in again:
                    obj = await self._ask(earlier, attributes, obj)
                again.clear()
            if hook.get("reinvocationPolicy") == "IfNeeded":
                again.append(hook)
        return obj

    def _hooks(self) -> list[Json]:
        entries = self._store.collection("mutatingwebhookconfigurations").select(None)
        return [hook for entry in entries for hook in entry.object().get("webhooks") or ()]

    def _matches(self, hook: Json, attributes: Attributes, obj: Json | None) -> bool:
        if not any(_rule_matches(rule, attributes) for rule in hook.get("rules") or ()):
            return False
        namespace = self._store.find("namespaces", attributes.namespace) if attributes.namespace else None
        labels = (namespace or {}).get("metadata", {}).get("labels") or {}
        if attributes.namespace and not requirements_match(hook.get("namespaceSelector") or {}, labels):
            return False
        selector = hook.get("objectSelector") or {}
        return any(
            requirements_match(selector, one["metadata"].get("labels") or {})
            for one in (obj, attributes.old)
            if one is not None
        )

    async def _ask(self, hook: Json, attributes: Attributes, obj: Json | None) -> Json | None:
        review = _review(attributes, obj)
        try:
            answer = await self._call(hook, review)
            response = answer.get("response")
            if not isinstance(response, dict) or response.get("uid") != review["request"]["uid"]:
                raise CallFailed("the response's uid is not the request's")
            if response.get("allowed"):
                return _patched(response, obj)
        except (CallFailed, ApiError) as error:
            if hook.get("failurePolicy") == "Ignore":
                return obj
            raise internal(
                f'failed calling webhook "{hook["name"]}": failed to call webhook: {error}'
            ) from None
        raise _denied(hook["name"], response.get("status") or {})


def _rule_matches(rule: Json, attributes: Attributes) -> bool:
    resource, part = attributes.target.resource, attributes.target.subresource
    name = f"{resource.plural}/{part}" if part else resource.plural
    wild = ("*/*", f"*/{part}", f"{resource.plural}/*") if part else ("*", "*/*", f"{resource.plural}/*")
    scope = rule.get("scope", "*")
    return (
        _among(rule.get("operations"), attributes.operation)
        and _among(rule.get("apiGroups"), resource.group)
        and _among(rule.get("apiVersions"), resource.version)
        and any(one == name or one in wild for one in rule.get("resources") or ())
        and scope in ("*", "Namespaced" if resource.namespaced else "Cluster")
    )


def _among(values: list[str] | None, value: str) -> bool:
    return value in (values or ()) or "*" in (values or ())


def _review(attributes: Attributes, obj: Json | None) -> Json:
    resource = attributes.target.resource
    version = {"group": resource.group, "version": resource.version}
    kind, plural = version | {"kind": resource.kind}, version | {"resource": resource.plural}
    request: Json = {
        "uid": str(uuid.uuid4()),
        "kind": kind,
        "resource": plural,
        "requestKind": kind,
        "requestResource": plural,
        "operation": attributes.operation,
        "userInfo": attributes.user.info(),
        "object": obj,
        "oldObject": attributes.old,
        "dryRun": attributes.dry_run,
        "options": {"kind": _OPTIONS[attributes.operation], "apiVersion": "meta.k8s.io/v1"},
    }
    for key, value in (
        ("name", attributes.name),
        ("namespace", attributes.namespace),
        ("subResource", attributes.target.subresource),
    ):
        if value:
            request[key] = value
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}


def _patched(response: Mapping[str, Any], obj: Json | None) -> Json | None:
    text = response.get("patch")
    if not text or obj is None:
        return obj
    if response.get("patchType") != "JSONPatch":
        raise CallFailed(f"unknown patchType {response.get('patchType')}")
    try:
        operations = msgspec.json.decode(base64.b64decode(text))
    except (ValueError, msgspec.DecodeError) as error:
        raise CallFailed(f"the patch can't be read: {error}") from None
    copied = msgspec.json.decode(msgspec.json.encode(obj))
    patched = patches.apply(patches.JSON_PATCH, copied, operations)
    if not isinstance(patched, dict):
        raise CallFailed("the patch leaves no object")
    return patched


def _denied(name: str, status: Mapping[str, Any]) -> ApiError:
    text = f'admission webhook "{name}" denied the request'
    message, reason = status.get("message", ""), status.get("reason", "")
    why = f"{text}: {message or reason}" if message or reason else f"{text} without explanation"
    return ApiError(max(int(status.get("code") or 0), 400), reason, why, details=status.get("details"))
