"""The loop that all controllers share: level-triggered, one object at a time, retried when it fails.

A change in the store names the keys it concerns; each key is looked at again, from the present state of the
store, some time later. Two changes in a row cost one look. So a controller never misses anything for good,
and never depends on the order of events.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import partial
from typing import ClassVar

from inroad.sandbox.apiserver.collection import Change, Entry
from inroad.sandbox.apiserver.store import Store
from inroad.sandbox.apiserver.synthetic import PREFIX

RETRY = 0.5
"""Seconds until a key whose reconciliation failed is tried again."""
log = logging.getLogger(__name__)


class Controller(ABC):
    """One control loop over some resources of a store."""

    watches: ClassVar[tuple[str, ...]]

    def __init__(self, store: Store) -> None:
        self.store = store
        self._dirty: dict[str, None] = {}
        self._wake = asyncio.Event()
        self.settled = asyncio.Event()
        """Set while everything that has happened has been looked at."""
        self._leave = [store.subscribe(plural, partial(self._changed, plural)) for plural in self.watches]
        for plural in self.watches:
            for entry in store.collection(plural).select(None):
                self._changed(plural, Change("ADDED", entry, None))

    @abstractmethod
    def keys(self, plural: str, change: Change) -> Iterable[str]:
        """Return the keys that a change of an object of that resource concerns."""

    @abstractmethod
    async def reconcile(self, key: str) -> None:
        """Bring the world to what the store wants for that key."""

    def again(self, key: str) -> None:
        """Look at a key once more."""
        self._dirty[key] = None
        self._wake.set()
        self.settled.clear()

    def _changed(self, plural: str, change: Change) -> None:
        if is_synthetic(change.entry):
            return
        for key in self.keys(plural, change):
            self.again(key)

    async def run(self) -> None:
        """Work until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                if not self._dirty:
                    self.settled.set()
                await self._wake.wait()
                self._wake.clear()
                batch, self._dirty = self._dirty, {}
                for key in batch:
                    try:
                        await self.reconcile(key)
                    except Exception:
                        log.exception("%s: %s", type(self).__name__, key)
                        loop.call_later(RETRY, self.again, key)
        finally:
            for leave in self._leave:
                leave()


def is_synthetic(entry: Entry) -> bool:
    """Tell whether an object is there for its own sake: nobody works for it, and there may be 100,000."""
    return entry.name.startswith(f"{PREFIX}-")


def split(key: str) -> tuple[str, str]:
    """Return (namespace, name) of a key."""
    namespace, _, name = key.partition("/")
    return namespace, name


def both(change: Change) -> Iterable[Entry]:
    """Return the object after the change, and before it when there was one."""
    return (change.entry,) if change.before is None else (change.entry, change.before)
