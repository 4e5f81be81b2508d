"""What a request asks for, read from its method, path and query, as kube-apiserver's RequestInfo does."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

from inroad.sandbox.apiserver.resources import BY_PATH, Resource
from inroad.sandbox.apiserver.selectors import exact_name

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "HEAD": "get"}


class Query:
    """The parameters of a request."""

    def __init__(self, text: str) -> None:
        self._values = parse_qs(text, keep_blank_values=True)

    def text(self, name: str) -> str:
        """Return one parameter, '' when it is not there."""
        return self._values.get(name, [""])[0]

    def all(self, name: str) -> list[str]:
        """Return every value of a parameter."""
        return self._values.get(name, [])

    def flag(self, name: str) -> bool:
        """Return a boolean parameter as the server reads it: present, and not false or 0."""
        return name in self._values and self.text(name).lower() not in ("false", "0")

    def number(self, name: str) -> int | None:
        """Return an integer parameter, or None when it is missing or no number."""
        try:
            return int(self.text(name))
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Target:
    """The resource, object and verb of a request, and what authorization decides over."""

    verb: str
    resource: Resource
    namespace: str | None
    """None: all namespaces, or a resource that has none."""
    name: str
    subresource: str


@dataclass(frozen=True, slots=True)
class Path:
    """A path below /api or /apis, taken apart; `plural` is '' for a group's own documents."""

    group: str
    version: str
    namespace: str | None
    plural: str
    name: str
    subresource: str
    watch: bool


def split_path(path: str) -> Path | None:
    """Take a path apart; None when it is not below a group and version."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if parts[0] == "api" and len(parts) >= 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) >= 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    watch = bool(rest) and rest[0] == "watch"  # the deprecated way to ask for one
    rest = rest[1:] if watch else rest
    namespace = None
    if len(rest) >= 3 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "", "")[:3]
    if len(rest) > 3:
        subresource = "/".join(rest[2:])
    return Path(group, version, namespace, plural, name, subresource, watch)


def target_of(method: str, path: Path, query: Query) -> Target | None:
    """Return what a request is about; None when no such resource is served."""
    resource = BY_PATH.get((path.group, path.version, path.plural))
    if resource is None or (path.namespace is not None and not resource.namespaced):
        return None
    name = path.name
    if method in ("GET", "HEAD"):
        verb = "get" if name and not path.watch else "watch" if path.watch or query.flag("watch") else "list"
        name = name or exact_name(query.text("fieldSelector"))
    else:
        verb = _VERBS.get(method, method.lower())
        if verb == "delete" and not name:
            verb = "deletecollection"
    namespace = path.namespace
    if resource.plural == "namespaces" and name:
        namespace = name  # authorization looks at a namespace from inside it
    return Target(verb, resource, namespace, name, path.subresource)
