"""Who may do what: RBAC objects decide (`rbac.authorization.k8s.io`), administrators may do everything,
and restrictions take single rights away from anybody, for tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

from inroad.sandbox.apiserver.auth import ADMINISTRATORS, AUTHENTICATED, User
from inroad.sandbox.apiserver.collection import Change
from inroad.sandbox.apiserver.requests import Target
from inroad.sandbox.apiserver.status import ApiError, details_of
from inroad.sandbox.apiserver.store import Store

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PathTarget:
    """A request for a path that is no resource, such as `/metrics`."""

    verb: str
    path: str


class Authorizer(Protocol):
    """Decides over requests."""

    def allows(self, user: User, target: Target) -> bool:
        """Return True when the user may do it."""

    def allows_path(self, user: User, target: PathTarget) -> bool:
        """Return True when the user may read that document."""


@dataclass(frozen=True, slots=True)
class Restriction:
    """Takes verbs on resources away: shell patterns, `*` for all; `user` limits whom it meets."""

    verbs: tuple[str, ...]
    resources: tuple[str, ...]
    """`pods`, `pods/portforward`, `deployments.apps`."""
    namespace: str = "*"
    """`*`: everywhere; a name: requests inside that namespace."""
    user: str = "*"

    @classmethod
    def parse(cls, text: str) -> Restriction:
        """Read `VERB[,VERB]:RESOURCE[,RESOURCE][:NAMESPACE][@USER]`: `create:pods/portforward:inroad`."""
        rule, _, user = text.partition("@")
        parts = rule.split(":")
        if not 2 <= len(parts) <= 3 or not all(parts):
            raise ValueError(f"{text!r} is not VERBS:RESOURCES[:NAMESPACE][@USER]")
        namespace = parts[2] if len(parts) == 3 else "*"
        return cls(tuple(parts[0].split(",")), tuple(parts[1].split(",")), namespace, user or "*")

    def meets(self, user: User, target: Target) -> bool:
        """Return True when it takes this right away."""
        name = target.resource.qualified
        if target.subresource:
            name = f"{target.resource.plural}/{target.subresource}"
        return (
            any(fnmatchcase(target.verb, verb) for verb in self.verbs)
            and any(fnmatchcase(name, resource) for resource in self.resources)
            and fnmatchcase(target.namespace or "", self.namespace)
            and fnmatchcase(user.name, self.user)
        )


class Restricted:
    """Allows authenticated users what nothing takes away. `restrictions` may be changed at run time."""

    def __init__(self, restrictions: Iterable[Restriction] = ()) -> None:
        self.restrictions = list(restrictions)

    def allows(self, user: User, target: Target) -> bool:
        """Return True for authenticated users whom no restriction meets."""
        if AUTHENTICATED not in user.groups:
            return False
        return not any(restriction.meets(user, target) for restriction in self.restrictions)

    def allows_path(self, user: User, target: PathTarget) -> bool:
        """Return True for authenticated users."""
        return AUTHENTICATED in user.groups


_DISCOVERY = ("/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", "/healthz", "/livez", "/readyz")
_PUBLIC = ("/healthz", "/livez", "/readyz", "/version", "/.well-known/*", "/openid/v1/jwks")
_ANYBODY = (("create", "selfsubjectaccessreviews"), ("create", "selfsubjectrulesreviews"))
"""`system:basic-user`: everybody may ask what they may do."""


class Rbac:
    """Decides by the Role, ClusterRole and binding objects in the store, after `restrictions`."""

    def __init__(self, store: Store, restrictions: Iterable[Restriction] = ()) -> None:
        self._store = store
        self._restricted = Restricted(restrictions)
        self._rules: dict[str, list[tuple[str | None, list[Json]]]] = {}
        """What each subject has: (namespace or None for everywhere, rules). Empty: to be read again."""
        for plural in ("roles", "clusterroles", "rolebindings", "clusterrolebindings"):
            store.subscribe(plural, self._changed)

    @property
    def restrictions(self) -> list[Restriction]:
        """The restrictions; may be changed at run time."""
        return self._restricted.restrictions

    def allows(self, user: User, target: Target) -> bool:
        """Return True when a rule allows it and no restriction takes it away."""
        if any(restriction.meets(user, target) for restriction in self.restrictions):
            return False
        if ADMINISTRATORS in user.groups:
            return True
        asks = (target.verb, target.resource.plural)
        if AUTHENTICATED in user.groups and (asks in _ANYBODY or asks == ("create", "selfsubjectreviews")):
            return True
        return any(_rule_allows(rule, target) for rule in self._rules_of(user, target.namespace))

    def allows_path(self, user: User, target: PathTarget) -> bool:
        """Return True for discovery, and for what rules with nonResourceURLs allow."""
        known = _DISCOVERY + _PUBLIC if AUTHENTICATED in user.groups else _PUBLIC
        if ADMINISTRATORS in user.groups or any(fnmatchcase(target.path, pattern) for pattern in known):
            return True
        return any(
            _verb_in(rule, target.verb)
            and any(fnmatchcase(target.path, url) for url in rule.get("nonResourceURLs") or ())
            for rule in self._rules_of(user, None)
        )

    def _changed(self, _: Change) -> None:
        self._rules.clear()

    def _rules_of(self, user: User, namespace: str | None) -> Iterator[Json]:
        if not self._rules:
            self._read()
        for subject in (f"User:{user.name}", *(f"Group:{group}" for group in user.groups)):
            for where, rules in self._rules.get(subject, ()):
                if where is None or where == namespace:
                    yield from rules

    def _read(self) -> None:
        self._rules = {"": []}
        for plural in ("clusterrolebindings", "rolebindings"):
            for entry in self._store.collection(plural).select(None):
                binding = entry.object()
                rules = self._role(binding["roleRef"], entry.namespace)
                for subject in binding.get("subjects") or ():
                    key = f"{subject['kind']}:{subject['name']}"
                    if subject["kind"] == "ServiceAccount":
                        inside = subject.get("namespace") or entry.namespace
                        key = f"User:system:serviceaccount:{inside}:{subject['name']}"
                    self._rules.setdefault(key, []).append((entry.namespace or None, rules))

    def _role(self, reference: Json, namespace: str) -> list[Json]:
        cluster = reference["kind"] == "ClusterRole"
        plural, inside = ("clusterroles", "") if cluster else ("roles", namespace)
        role = self._store.find(plural, reference["name"], inside)
        return list((role or {}).get("rules") or ())


def _verb_in(rule: Json, verb: str) -> bool:
    return "*" in rule["verbs"] or verb in rule["verbs"]


def _rule_allows(rule: Json, target: Target) -> bool:
    groups, resources = rule.get("apiGroups") or (), rule.get("resources") or ()
    names = rule.get("resourceNames") or ()
    plural = target.resource.plural
    asked = f"{plural}/{target.subresource}" if target.subresource else plural
    wild = ("*", f"*/{target.subresource}") if target.subresource else ("*",)
    return (
        _verb_in(rule, target.verb)
        and ("*" in groups or target.resource.group in groups)
        and (asked in resources or any(one in resources for one in wild))
        and (not names or target.name in names)
    )


def denied(user: User, target: Target) -> ApiError:
    """403 in RBAC's words."""
    resource = target.resource
    what = f"{resource.plural}/{target.subresource}" if target.subresource else resource.plural
    where = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
    subject = f'{resource.qualified} "{target.name}"' if target.name else resource.qualified
    return ApiError(
        403,
        "Forbidden",
        f'{subject} is forbidden: User "{user.name}" cannot {target.verb} resource "{what}" '
        f'in API group "{resource.group}" {where}',
        details=details_of(resource, target.name),
    )


def path_denied(user: User, target: PathTarget) -> ApiError:
    """403 for a path that is no resource."""
    return ApiError(
        403,
        "Forbidden",
        f'forbidden: User "{user.name}" cannot {target.verb} path "{target.path}"',
        details={},
    )
