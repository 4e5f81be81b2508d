"""The cache of what the cluster answered, and the bytes that were sent for it.

Two steps, both without parsing what was parsed before. A query that is, but for its id, byte for
byte one of the last second's finds the reply itself (`recent`). Any other finds an `Entry` by its key
(name, type, class, DO) and gets a reply composed for it. Once a second every name that is in use comes
by the second step: that keeps TTLs true, the order of use good enough, and counts for the prefetch.

Configuration changes are O(1): the policy's generation goes up, and an entry of an older one is
looked at again when it is asked for: it stays if the decision is the same as before. The same goes for
services that changed. Times are seconds of a monotonic clock, given by the caller.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from inroad.core.dns_answer import Answer, compose, rotated
from inroad.core.dns_policy import Decision
from inroad.core.dns_wire import Query, Rcode, Type

WIRE_TTL = 4
"""Seconds; the host's own caches are never flushed, so what they keep must be short-lived."""
MAX_LIFE = 60
NEGATIVE_LIFE = 5
FAILURE_LIFE = 1
STALE_LIFE = 3_600
RECENT_LIFE = 1.0
MAX_RECENT = 4_096
MAX_CHANGED = 20_000


@dataclass(slots=True)
class Entry:
    """An answer of the cluster. `services`: those it depends on, as `service.namespace`, with spaces."""

    answer: Answer
    decision: Decision
    services: str
    born: float
    expires: float
    generation: int
    uses: int = 0

    @property
    def denied(self) -> bool:
        """The cluster has no such name, or could not say: the fallback may have it."""
        return self.answer.rcode != Rcode.NOERROR

    def rotates(self, kind: int) -> bool:
        """Its addresses change places from reply to reply."""
        return kind in {Type.A, Type.AAAA} and len(self.answer.ttls) > 1


@dataclass(slots=True)
class Found:
    """A cache hit. `refresh`: asked for often and soon to expire, so it should be looked up again now."""

    entry: Entry
    refresh: bool


@dataclass(slots=True)
class Counters:
    """What the cache did; `recent` hits are counted in `rules` and summed up on demand."""

    misses: int = 0
    evicted: int = 0
    invalidated: int = 0
    stored: int = 0


@dataclass(slots=True)
class Recent:
    """A reply without its id, good until `until`; `count` is where a hit is counted."""

    until: float
    reply: bytes
    count: list[int]


@dataclass
class DnsCache:
    """At most `capacity` answers, the least recently used going first."""

    capacity: int = 20_000
    wire_ttl: int = WIRE_TTL
    generation: int = 0
    counters: Counters = field(default_factory=Counters)
    recent: dict[bytes, Recent] = field(default_factory=dict)
    _entries: OrderedDict[bytes, Entry] = field(default_factory=OrderedDict)
    _changed: dict[str, float] = field(default_factory=dict)
    _heads: dict[bytes, bytes] = field(default_factory=dict)
    _shapes: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: bytes, now: float, decide: Callable[[], Decision]) -> Found | None:
        """Return the live entry for `key`; `decide` is asked where the policy changed since it was stored."""
        entry = self._entries.get(key)
        if entry is None or entry.expires <= now or not self._still_true(key, entry, decide):
            self.counters.misses += 1
            return None
        self._entries.move_to_end(key)
        entry.uses += 1
        life = entry.expires - entry.born
        refresh = (
            entry.uses > 2 and entry.answer.positive and entry.expires - now < max(life / 10, RECENT_LIFE)
        )
        return Found(entry, refresh)

    def find_stale(self, key: bytes, now: float, decide: Callable[[], Decision]) -> Entry | None:
        """Return an expired answer that may be served while the cluster is away, at most an hour old."""
        entry = self._entries.get(key)
        if entry is None or not entry.answer.positive or entry.expires + STALE_LIFE <= now:
            return None
        if not self._still_true(key, entry, decide):
            return None
        return entry

    def _still_true(self, key: bytes, entry: Entry, decide: Callable[[], Decision]) -> bool:
        if entry.generation != self.generation:
            if decide() != entry.decision:
                del self._entries[key]
                return False
            entry.generation = self.generation
        if self._changed and any(
            self._changed.get(service, -1.0) >= entry.born for service in entry.services.split(" ")
        ):
            del self._entries[key]
            self.counters.invalidated += 1
            return False
        return True

    def store(
        self,
        key: bytes,
        answer: Answer,
        decision: Decision,
        services: frozenset[str],
        now: float,
        asked: float,
    ) -> Entry:
        """Keep an answer to a lookup that was sent at `asked`, for as long as its kind of answer lives."""
        if answer.positive:
            life = float(min(max(answer.lifetime, self.wire_ttl), MAX_LIFE))
        elif answer.rcode in {Rcode.NOERROR, Rcode.NXDOMAIN}:
            life = float(min(answer.lifetime, NEGATIVE_LIFE))
        else:
            life = float(FAILURE_LIFE)
        answer.head = self._heads.setdefault(answer.head, answer.head)
        answer.ttls = self._shapes.setdefault(answer.ttls, answer.ttls)
        entry = Entry(answer, decision, " ".join(sorted(services)), asked, now + life, self.generation)
        self._entries[key] = entry
        self._entries.move_to_end(key)
        self.counters.stored += 1
        if len(self._entries) > self.capacity:
            self._entries.popitem(last=False)
            self.counters.evicted += 1
        if len(self._heads) + len(self._shapes) > MAX_RECENT:
            self._heads.clear()
            self._shapes.clear()
        return entry

    def reply(self, query: Query, entry: Entry, now: float, *, recursion: bool, limit: int) -> bytes:
        """Compose the reply to `query` from a live entry."""
        answer = entry.answer
        if answer.positive and query.type in {Type.A, Type.AAAA}:
            answer = rotated(answer, query.type, entry.uses)
        age = int(now - entry.born)
        return compose(query, answer, age=age, most=self.wire_ttl, recursion=recursion, limit=limit)

    def stale_reply(self, query: Query, entry: Entry, *, recursion: bool, limit: int) -> bytes:
        """Compose the reply to `query` from an expired entry, to be believed for a second."""
        return compose(query, entry.answer, most=1, recursion=recursion, limit=limit)

    def remember(self, query: Query, entry: Entry, reply: bytes, now: float, count: list[int]) -> None:
        """Answer queries that look like this one with the same bytes, for up to a second."""
        if len(self.recent) >= MAX_RECENT:
            self.recent.clear()
        until = min(now + RECENT_LIFE, entry.expires)
        self.recent[query.data[2:]] = Recent(until, reply[2:], count)

    def policy_changed(self) -> None:
        """Look at every entry again before it is served: other rules may hold for it now."""
        self.generation += 1
        self.recent.clear()

    def flush(self) -> None:
        """Forget everything: another cluster, or another origin of the lookups."""
        self.generation += 1
        self.recent.clear()
        self._entries = OrderedDict()
        self._changed.clear()

    def invalidate(self, services: tuple[str, ...], now: float) -> None:
        """Answers that depend on these services, as `service.namespace`, and were asked for before `now`
        are no longer true."""
        self.recent.clear()
        if len(self._changed) + len(services) > MAX_CHANGED:
            self.flush()
            return
        self._changed.update(dict.fromkeys(services, now))
