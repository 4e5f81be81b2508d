"""Who may do what. Administrators may do everything; restrictions take single rights away by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from inroad.sandbox.apiserver.auth import User
from inroad.sandbox.apiserver.requests import Target
from inroad.sandbox.apiserver.status import ApiError, details_of


class Authorizer(Protocol):
    """Decides over requests."""

    def allows(self, user: User, target: Target) -> bool:
        """Return True when the user may do it."""


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
    """Allows what nothing takes away. `restrictions` may be changed while the server runs."""

    def __init__(self, restrictions: Iterable[Restriction] = ()) -> None:
        self.restrictions = list(restrictions)

    def allows(self, user: User, target: Target) -> bool:
        """Return True for authenticated users whom no restriction meets."""
        if "system:authenticated" not in user.groups:
            return False
        return not any(restriction.meets(user, target) for restriction in self.restrictions)


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


def path_denied(user: User, verb: str, path: str) -> ApiError:
    """403 for a path that is no resource."""
    return ApiError(
        403, "Forbidden", f'forbidden: User "{user.name}" cannot {verb} path "{path}"', details={}
    )
