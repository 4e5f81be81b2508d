"""Telling our own lookups from the workstation's queries when the cluster sends them back.

A local cluster (kind, minikube, k3s) may forward what it does not know to the host, and so to us. A
probe at connect finds that out: a name that only we ask for, with a random letter case. From then on a
query is ours if it has exactly the letter case of a lookup in flight: every lookup has a random one,
never all lower case and never the asking program's. If the probe came back with its case folded, a
second query for a name that was sent as it is must do, as in the field's reference; a name that was
sent with a search domain behind it does not come back without.

Nothing here knows the time; random bits are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from inroad.core.dns_wire import Query, labels_of, wire_of
from inroad.core.names import Name

PROBE: Name = (b"tel2-recursion-check", b"kube-system")
PROBE_BITS = 1_024
Source = tuple[object, ...]


class Verdict(Enum):
    """What an arriving query is taken for."""

    ORDINARY = "ordinary"
    PROBE = "probe"  # our probe came back
    OURS = "ours"  # certainly a lookup of ours: deny it
    DUPLICATE = "duplicate"  # perhaps ours: deny it unless the lookup ends soon


def is_probe(name: Name) -> bool:
    """Tell whether this is the probe's name, whatever was put before or appended to it."""
    return any(name[i : i + 2] == PROBE for i in range(min(len(name) - 1, 2)))


def probe_name(bits: int) -> Name:
    """A probe that no cache has seen; 64 of the random `bits` are in it."""
    return (b"%016x" % (bits & 0xFFFF_FFFF_FFFF_FFFF), *PROBE)


def disguise(wire: bytes, bits: int) -> bytes:
    """Give a wire name a random letter case, drawn from `bits` (eight for each octet).

    Never all lower case and never the case it came in, if it has the letters for that.
    """
    lower, size = wire.lower(), len(wire)
    # Bit 5 of an ASCII letter is its case: all letters are changed in one operation on long integers.
    letters = int.from_bytes(lower.translate(_CASE_BITS), "big")
    octets = (int.from_bytes(lower, "big") ^ (bits & letters)).to_bytes(size, "big")
    if octets in (lower, wire):
        return _another_case(octets, lower, wire)
    return octets


def _another_case(octets: bytes, lower: bytes, wire: bytes) -> bytes:
    """Change letters until the name has neither forbidden pattern, which takes two at most."""
    changed = bytearray(octets)
    for at, octet in enumerate(lower):
        if changed not in (lower, wire):
            break
        if _CASE_BITS[octet]:
            changed[at] ^= 0x20
    return bytes(changed)


@dataclass(slots=True)
class Sent:
    """A lookup in flight: its name as it was sent, and who made us send it."""

    cased: bytes
    as_it_is: bool
    askers: set[tuple[Source, int]] = field(default_factory=set)


class Recursion:
    """What is known about the cluster, and which lookups are on their way."""

    def __init__(self, domain: Name = (b"cluster", b"local"), *, enabled: bool = True) -> None:
        self.domain = domain
        self.enabled = enabled
        self.found = False
        self.folded = False
        self._probes: set[bytes] = set()
        self._sent: dict[tuple[bytes, int], Sent] = {}

    def enable(self, enabled: bool) -> None:
        """Turn detection on or off; once off, what was found is forgotten."""
        self.enabled = enabled
        if not enabled:
            self.found = self.folded = False

    @property
    def text(self) -> str:
        """The state for people."""
        if not self.enabled:
            return "not checked"
        if not self.found:
            return "none found"
        return "found, told by repetition" if self.folded else "found, told by letter case"

    def probe(self, bits: int) -> tuple[bytes, ...]:
        """Return the wire names to look up as the probe: the plain one, and one that no cache knows.

        `bits` are `PROBE_BITS` random ones.
        """
        plain, fresh = wire_of(PROBE), wire_of(probe_name(bits))
        probes = disguise(plain, bits), disguise(fresh, bits >> 8 * len(plain))
        self._probes.update(probes)
        return probes

    def sent(self, query: Query, cased: bytes, source: Source | None, *, as_it_is: bool) -> None:
        """A lookup of `query` leaves as `cased`; `as_it_is`: perhaps without a search domain behind it."""
        askers = {(source, query.id)} if source is not None else set()
        self._sent[cased.lower(), query.type] = Sent(cased, as_it_is, askers)

    def ended(self, query: Query) -> None:
        """The lookup has ended."""
        self._sent.pop((query.key[: len(query.question) - 4], query.type), None)

    def judge(self, query: Query, source: Source) -> Verdict:
        """Say what a query that has just arrived from `source` is taken for."""
        if self.enabled and _MARK in query.key and is_probe(query.name):
            self._probe_came_back(query.wire_name)
            return Verdict.PROBE
        if not self.found or not self._sent:
            return Verdict.ORDINARY
        sent, name, behind = self._in_flight(query)
        if sent is None or (source, query.id) in sent.askers:
            return Verdict.ORDINARY
        verdict = self._compare(query, sent, name, behind)
        if verdict is Verdict.ORDINARY:
            sent.askers.add((source, query.id))
        return verdict

    def _compare(self, query: Query, sent: Sent, name: Name, behind: Name) -> Verdict:
        if query.wire_name.startswith(sent.cased[:-1]) and sent.cased != sent.cased.lower():
            return Verdict.OURS
        if not self.folded:
            return Verdict.ORDINARY
        if not behind:
            return Verdict.DUPLICATE if sent.as_it_is else Verdict.ORDINARY
        # The bare domain behind a name is no name that a person would ask for: only a search list makes it.
        ours = behind == self.domain and name[-1] not in _ZONES
        return Verdict.OURS if ours else Verdict.ORDINARY

    def _probe_came_back(self, wire: bytes) -> None:
        as_sent = any(wire.startswith(probe[:-1]) for probe in self._probes)
        first = not self.found
        self.found = True
        # A forwarder may ask again in lower case; once seen as sent, the case is kept on the way.
        self.folded = (self.folded or first) and not as_sent

    def _in_flight(self, query: Query) -> tuple[Sent | None, Name, Name]:
        """Find the lookup that this is, its name, and the search domain behind it in `query`, if any."""
        lower = query.key[: len(query.question) - 4]
        labels = labels_of(lower)
        sent = self._sent.get((lower, query.type))
        if sent is not None:
            return sent, labels, ()
        for end in range(len(labels) - 1, 0, -1):
            sent = self._sent.get((wire_of(labels[:end]), query.type))
            if sent is not None:
                return sent, labels[:end], labels[end:]
        return None, labels, ()


_CASE_BITS = bytes(0x20 if 97 <= octet <= 122 else 0 for octet in range(256))
_MARK = wire_of(PROBE)[:-1]
_ZONES = frozenset({b"svc", b"pod"})
