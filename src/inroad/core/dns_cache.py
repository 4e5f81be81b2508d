"""The cache of what the cluster answered, and the bytes that were sent for it.

Two steps, both without parsing what was parsed before. A query that is, but for its id, byte for
byte one of the last second's finds the reply itself (`recent`). Any other finds an `Entry` by its key
(name, type, class, DO) and gets a reply composed for it. Once a second every name that is in use comes
by the second step: that keeps TTLs true, the order of use good enough, and counts for the prefetch.

Configuration changes are O(1): the policy's generation goes up, and an entry of an older one is
looked at again when it is asked for: it stays if the decision is the same as before. The same goes for
services that changed. Times are seconds of a monotonic clock, given by the caller.

Entries lie in the table as packed bytes: 100,000 objects would take twice the memory, and the garbage
collector 160 ms at a time to look through them.
"""

from __future__ import annotations

import struct
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
POPULAR = 3
"""Hits (two within a second count as one) after which an answer is looked up again ahead of its end."""

# born, expires, generation, lifetime, decision, uses, rcode, positive, TTLs, octets of services, head
_PACKED = struct.Struct("=ddIIHBHBHH8s")


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

    def pack(self, decision: int) -> bytes:
        """Write the entry down; `decision` stands for its decision."""
        answer, services = self.answer, self.services.encode()
        fixed = _PACKED.pack(
            self.born,
            self.expires,
            self.generation,
            answer.lifetime,
            decision,
            self.uses,
            answer.rcode,
            answer.positive,
            len(answer.ttls),
            len(services),
            answer.head,
        )
        return fixed + struct.pack(f"={len(answer.ttls)}H", *answer.ttls) + services + answer.body

    @classmethod
    def unpack(cls, packed: bytes, decisions: list[Decision]) -> Entry:
        """Read what `pack` wrote."""
        born, expires, generation, lifetime, decision, uses, rcode, positive, ttls, length, head = (
            _PACKED.unpack_from(packed)
        )
        start = _PACKED.size + 2 * ttls
        offsets = struct.unpack_from(f"={ttls}H", packed, _PACKED.size)
        answer = Answer(rcode, head, packed[start + length :], offsets, lifetime, bool(positive))
        services = packed[start : start + length].decode()
        return cls(answer, decisions[decision], services, born, expires, generation, uses)


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
    _packed: OrderedDict[bytes, bytes] = field(default_factory=OrderedDict)
    _changed: dict[str, float] = field(default_factory=dict)
    _decisions: list[Decision] = field(default_factory=list)
    _numbers: dict[Decision, int] = field(default_factory=dict)
    _turn: int = 0

    def __len__(self) -> int:
        return len(self._packed)

    def find(self, key: bytes, now: float, decide: Callable[[], Decision]) -> Found | None:
        """Return the live entry for `key`; `decide` is asked where the policy changed since it was stored."""
        entry = self._get(key, decide)
        if entry is None or entry.expires <= now:
            self.counters.misses += 1
            return None
        if entry.uses < POPULAR:
            entry.uses += 1
            self._put(key, entry)
        else:
            self._packed.move_to_end(key)
        ahead = max((entry.expires - entry.born) / 10, RECENT_LIFE)
        soon = entry.answer.positive and entry.expires - now < ahead
        return Found(entry, soon and entry.uses >= POPULAR)

    def find_stale(self, key: bytes, now: float, decide: Callable[[], Decision]) -> Entry | None:
        """Return an expired answer that may be served while the cluster is away, at most an hour old."""
        entry = self._get(key, decide)
        if entry is None or not entry.answer.positive or entry.expires + STALE_LIFE <= now:
            return None
        return entry

    def _get(self, key: bytes, decide: Callable[[], Decision]) -> Entry | None:
        """Return the entry unless it has become wrong, in which case it goes."""
        packed = self._packed.get(key)
        if packed is None:
            return None
        entry = Entry.unpack(packed, self._decisions)
        if entry.generation != self.generation:
            if decide() != entry.decision:
                del self._packed[key]
                return None
            entry.generation = self.generation
            self._put(key, entry)
        if self._changed and self._has_changed(entry):
            del self._packed[key]
            self.counters.invalidated += 1
            return None
        return entry

    def _has_changed(self, entry: Entry) -> bool:
        services = entry.services.split(" ")
        return any(self._changed.get(service, -1.0) >= entry.born for service in services)

    def _put(self, key: bytes, entry: Entry) -> None:
        number = self._numbers.get(entry.decision)
        if number is None:
            if len(self._decisions) > 0xFFFF:
                self.flush()
                entry.generation = self.generation
            number = self._numbers[entry.decision] = len(self._decisions)
            self._decisions.append(entry.decision)
        self._packed[key] = entry.pack(number)
        self._packed.move_to_end(key)

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
            life = min(max(answer.lifetime, self.wire_ttl), MAX_LIFE)
        elif answer.rcode in {Rcode.NOERROR, Rcode.NXDOMAIN}:
            life = min(answer.lifetime, NEGATIVE_LIFE)
        else:
            life = FAILURE_LIFE
        entry = Entry(answer, decision, " ".join(sorted(services)), asked, now + life, self.generation)
        self._put(key, entry)
        self.counters.stored += 1
        if len(self._packed) > self.capacity:
            self._packed.popitem(last=False)
            self.counters.evicted += 1
        return entry

    def reply(self, query: Query, entry: Entry, now: float, *, recursion: bool, limit: int) -> bytes:
        """Compose the reply to `query` from a live entry."""
        answer = entry.answer
        if answer.positive and query.type in {Type.A, Type.AAAA}:
            self._turn += 1
            answer = rotated(answer, query.type, self._turn)
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
        self._packed = OrderedDict()
        self._changed.clear()
        self._decisions.clear()
        self._numbers.clear()

    def invalidate(self, services: tuple[str, ...], now: float) -> None:
        """Answers that depend on these services, as `service.namespace`, and were asked for before `now`
        are no longer true."""
        self.recent.clear()
        if len(self._changed) + len(services) > MAX_CHANGED:
            self.flush()
            return
        self._changed.update(dict.fromkeys(services, now))
