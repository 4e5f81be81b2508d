"""Lists: the whole at one version, in pages when the client wants (`limit`, `continue`)."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from inroad.sandbox.apiserver.collection import Entry
from inroad.sandbox.apiserver.requests import Query, Target
from inroad.sandbox.apiserver.selectors import everything, predicate
from inroad.sandbox.apiserver.status import ApiError, bad_request, expired
from inroad.sandbox.apiserver.store import Store

Json = dict[str, Any]
KEPT = 300.0
"""Seconds for which a list can be continued: etcd's compaction interval in a real cluster."""
_MOST = 16
_INCONSISTENT = -1
_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new "
    "list without the continue parameter, or use the continue token in this response to retrieve the "
    "remainder of the results. Continuing with the provided token results in an inconsistent list - objects "
    "that were created, modified, or deleted between the time the first chunk was returned and now may show "
    "up in the list."
)


class Token(msgspec.Struct):
    """A continue token: the version of the list and the key behind which it goes on."""

    rv: int
    start: str
    v: str = "meta.k8s.io/v1"

    def text(self) -> str:
        """Return it as clients carry it."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode()

    @classmethod
    def read(cls, text: str) -> Token:
        """Read a client's token; 400."""
        try:
            data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            return msgspec.json.decode(data, type=cls)
        except (ValueError, msgspec.DecodeError):
            raise bad_request(f"invalid continue token: continue key is not valid: {text}") from None


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a list request."""

    entries: Sequence[Entry]
    metadata: Json


class Lists:
    """Answers list requests and keeps the versions that can still be continued."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._kept: dict[tuple[str, str | None, int], tuple[float, Sequence[Entry]]] = {}

    def page(self, target: Target, query: Query) -> Page:
        """Return the objects that a list request asks for; 400, 410, 504."""
        self._check_version(query)
        plural = target.resource.plural
        select = predicate(plural, query.text("labelSelector"), query.text("fieldSelector"))
        scope = target.namespace if target.resource.namespaced else None
        limit = query.number("limit") or 0
        token = query.text("continue")
        if token:
            if query.text("resourceVersion") not in ("", "0"):
                raise bad_request("specifying resource version is not allowed when using continue")
            rv, rest = self._continued(plural, scope, Token.read(token))
        else:
            rv, rest = self._store.rv, self._present(plural, scope)
        if limit <= 0:
            return Page([entry for entry in rest if select(entry)], {"resourceVersion": str(rv)})
        found, more = _first(filter(select, rest), limit)
        metadata: Json = {"resourceVersion": str(rv)}
        if more:
            self._keep(plural, scope, rv, rest)
            metadata["continue"] = Token(rv, found[-1].key).text()
            if select is everything:
                metadata["remainingItemCount"] = len(rest) - limit
        return Page(found, metadata)

    def forget(self) -> None:
        """Drop every version that could be continued (a compaction)."""
        self._kept.clear()

    def _present(self, plural: str, scope: str | None, after: str = "") -> Sequence[Entry]:
        collection = self._store.collection(plural)
        return [collection.entries[key] for key in collection.span(scope, after)]

    def _keep(self, plural: str, scope: str | None, rv: int, entries: Sequence[Entry]) -> None:
        key = (plural, scope, rv)
        if key not in self._kept:
            self._kept[key] = (self._clock() + KEPT, entries)
            while len(self._kept) > _MOST:
                del self._kept[next(iter(self._kept))]

    def _continued(self, plural: str, scope: str | None, token: Token) -> tuple[int, Sequence[Entry]]:
        if token.rv == _INCONSISTENT:
            return self._store.rv, self._present(plural, scope, token.start)
        until, entries = self._kept.get((plural, scope, token.rv), (0.0, ()))
        if until < self._clock():
            if token.rv != self._store.rv:
                raise expired(_EXPIRED, Token(_INCONSISTENT, token.start).text())
            return token.rv, self._present(plural, scope, token.start)
        low, high = 0, len(entries)
        while low < high:
            middle = (low + high) // 2
            if entries[middle].key <= token.start:
                low = middle + 1
            else:
                high = middle
        return token.rv, entries[low:]

    def _check_version(self, query: Query) -> None:
        text = query.text("resourceVersion")
        match = query.text("resourceVersionMatch")
        if match and not text:
            raise ApiError(
                422,
                "Invalid",
                'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: '
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
                details={
                    "group": "meta.k8s.io",
                    "kind": "ListOptions",
                    "causes": [
                        {
                            "reason": "FieldValueForbidden",
                            "message": "Forbidden: resourceVersionMatch is forbidden unless resourceVersion "
                            "is provided",
                            "field": "resourceVersionMatch",
                        }
                    ],
                },
            )
        if not text:
            return
        try:
            asked = int(text)
        except ValueError:
            raise bad_request(f"invalid resource version: {not_a_version(text)}") from None
        if asked > self._store.rv:
            raise too_new(asked, self._store.rv)
        if match == "Exact" and asked != self._store.rv:
            raise expired(f"The resourceVersion for the provided list is too old: {asked}")


def not_a_version(text: str) -> str:
    """Return what is said about a resourceVersion that is no number."""
    return f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'


def too_new(asked: int, present: int) -> ApiError:
    """504: a version that is not there yet."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return ApiError(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {asked}, current: {present}",
        details={"causes": [cause], "retryAfterSeconds": 1},
        headers={"Retry-After": "1"},
    )


def _first(entries: Iterable[Entry], limit: int) -> tuple[list[Entry], bool]:
    """Return at most `limit` entries, and whether there is one more."""
    found: list[Entry] = []
    for entry in entries:
        if len(found) == limit:
            return found, True
        found.append(entry)
    return found, False
