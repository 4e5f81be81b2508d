"""The collections that the traffic-manager follows, cluster-wide where it may, else by namespace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from inroad.core.errors import Forbidden, InroadError
from inroad.kube.client import ApiClient
from inroad.kube.failures import ApiStatus
from inroad.kube.reflector import Key, Reflector

log = structlog.get_logger()

Changed = Callable[[Key, Any, Any], None]


@dataclass(frozen=True, slots=True)
class Followed:
    """A collection to follow: `group` such as `/api/v1`, its plural, and what is kept of an object."""

    group: str
    plural: str
    kind: type[Any]
    project: Callable[[Any], Any]
    on_change: Changed
    namespaced: bool = False
    params: Mapping[str, str] = field(default_factory=dict)

    def path(self, namespace: str = "") -> str:
        """Return the collection's path: of one namespace, or of all of them."""
        scope = f"/namespaces/{namespace}" if namespace else ""
        return f"{self.group}{scope}/{self.plural}"


class Collections:
    """Follows collections, and knows when all of them have been read as far as they can be.

    `namespaces`: where to look for a namespaced collection that may not be read in the whole cluster.
    """

    def __init__(self, client: ApiClient, namespaces: Sequence[str], on_settled: Callable[[], None]) -> None:
        self._client = client
        self._namespaces = namespaces
        self._on_settled = on_settled
        self._reflectors: dict[str, dict[str, Reflector[Any, Any]]] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._settled: set[tuple[str, str]] = set()

    def follow(self, followed: Followed, namespace: str = "") -> None:
        """Begin to follow a collection."""
        place = (followed.plural, namespace)
        reflector: Reflector[Any, Any] = Reflector(
            self._client,
            followed.path(namespace),
            followed.kind,
            project=followed.project,
            on_change=followed.on_change,
            on_sync=lambda: self._settle(place),
            on_error=lambda error: self._failed(followed, namespace, error),
            params=followed.params,
        )
        self._reflectors.setdefault(followed.plural, {})[namespace] = reflector
        self._tasks[place] = asyncio.create_task(reflector.run())

    @property
    def settled(self) -> bool:
        """True once each collection has been read, or is known to be unreadable."""
        return self._settled >= self._tasks.keys()

    def items(self, plural: str) -> Iterator[tuple[Key, Any]]:
        """Yield what is kept of a collection."""
        for reflector in self._reflectors[plural].values():
            yield from reflector.items.items()

    def find(self, plural: str, key: Key) -> Any:
        """Return what is kept of one object, None when there is none."""
        for reflector in self._reflectors[plural].values():
            if key in reflector.items:
                return reflector.items[key]
        return None

    async def close(self) -> None:
        """Stop following."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _settle(self, place: tuple[str, str]) -> None:
        self._settled.add(place)
        self._on_settled()

    def _failed(self, followed: Followed, namespace: str, error: InroadError) -> None:
        place = (followed.plural, namespace)
        if isinstance(error, Forbidden) and followed.namespaced and not namespace and self._namespaces:
            log.info("followed by namespace", collection=followed.plural, namespaces=len(self._namespaces))
            self._tasks.pop(place).cancel()
            del self._reflectors[followed.plural][namespace]
            for name in self._namespaces:
                self.follow(followed, name)
        elif isinstance(error, Forbidden) or (isinstance(error, ApiStatus) and error.status == 404):
            self._settle(place)
