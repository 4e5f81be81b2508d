"""DNS messages as bytes: as much of RFC 1035, 2782 and 6891 as the sandbox's two name servers need.

Written by hand, in the standard library, for one reason: these servers start with every sandbox, and
what they import is what `up` waits for.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, OPT, ANY = 1, 2, 5, 6, 12, 15, 16, 28, 33, 41, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
IN = 1
QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
PLAIN_SIZE = 512
"""Bytes of a UDP answer to a client that sent no OPT record."""
EDNS_SIZE = 1232
"""What we advertise, and never exceed: the size that fits every path (DNS flag day 2020)."""

Name = tuple[bytes, ...]


class Malformed(ValueError):
    """The message can't be understood."""


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record; `data` as on the wire, names in it uncompressed."""

    name: Name
    kind: int
    ttl: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Query:
    """A question with what its header and OPT record ask for. `name` keeps the case it came in.

    `version`: the OPT record's, -1 without one. `dnssec`: its DO bit.
    """

    ident: int
    flags: int
    name: Name
    kind: int
    klass: int = IN
    size: int = PLAIN_SIZE
    version: int = -1
    dnssec: bool = False

    @property
    def opcode(self) -> int:
        """The kind of request; 0 is a query."""
        return self.flags >> 11 & 15


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say: `rcode` and the sections."""

    rcode: int = NOERROR
    answer: Sequence[Record] = ()
    authority: Sequence[Record] = ()
    additional: Sequence[Record] = field(default_factory=tuple)
    authoritative: bool = True


def name_of(text: str) -> Name:
    """Return a name's labels: `"web.shop."` and `"web.shop"` are the same."""
    return tuple(label.encode() for label in text.strip(".").split(".") if label)


def text_of(name: Name) -> str:
    """Return a name in lower case without the dot at the end."""
    return b".".join(name).decode("ascii", "replace").lower()


def pack_name(name: Name) -> bytes:
    """Return a name as on the wire, uncompressed."""
    return b"".join(bytes([len(label)]) + label for label in name) + b"\0"


def a(name: Name, ttl: int, address: IPv4Address | IPv6Address) -> Record:
    """Return an A or AAAA record."""
    return Record(name, A if address.version == 4 else AAAA, ttl, address.packed)


def soa(zone: Name, ttl: int, serial: int, *, minimum: int) -> Record:
    """Return the SOA record of a zone whose names' absence may be remembered for `minimum` seconds."""
    data = pack_name((b"ns", b"dns", *zone)) + pack_name((b"hostmaster", *zone))
    return Record(zone, SOA, ttl, data + struct.pack("!5I", serial & 0xFFFFFFFF, 7200, 1800, 86400, minimum))


def srv(name: Name, ttl: int, weight: int, port: int, target: Name) -> Record:
    """Return an SRV record of priority 0."""
    return Record(name, SRV, ttl, struct.pack("!3H", 0, weight, port) + pack_name(target))


def cname(name: Name, ttl: int, target: Name) -> Record:
    """Return a CNAME record."""
    return Record(name, CNAME, ttl, pack_name(target))


def ptr(name: Name, ttl: int, target: Name) -> Record:
    """Return a PTR record."""
    return Record(name, PTR, ttl, pack_name(target))


def question(name: Name, kind: int) -> bytes:
    """Return a query packet of ours, with recursion desired and the id 0."""
    return struct.pack("!6H", 0, RD, 1, 0, 0, 0) + pack_name(name) + struct.pack("!HH", kind, IN)


def parse_query(packet: bytes) -> Query | None:
    """Read a request: None for what deserves no answer (a response, or no header); may raise `Malformed`."""
    if len(packet) < 12 or packet[2] & 0x80:
        return None
    ident, flags, questions, _answers, _authority, additional = struct.unpack_from("!6H", packet)
    if questions != 1:
        raise Malformed("not exactly one question")
    try:
        name, at = read_name(packet, 12)
        kind, klass = struct.unpack_from("!HH", packet, at)
        size, version, dnssec = _read_opt(packet, at + 4, additional)
    except (struct.error, IndexError) as error:
        raise Malformed(str(error)) from None
    return Query(ident, flags, name, kind, klass, size, version, dnssec)


def read_name(packet: bytes, at: int) -> tuple[Name, int]:
    """Read a name at an offset, following pointers backwards only; return it and the offset behind it."""
    labels: list[bytes] = []
    end = -1
    limit = at
    while True:
        length = packet[at]
        if length & 0xC0 == 0xC0:
            target = (length & 0x3F) << 8 | packet[at + 1]
            end = at + 2 if end < 0 else end
            if target >= limit:
                raise Malformed("a name points forwards")
            at = limit = target
        elif length & 0xC0:
            raise Malformed("unknown label type")
        elif length == 0:
            return tuple(labels), (at + 1 if end < 0 else end)
        else:
            labels.append(packet[at + 1 : at + 1 + length])
            at += 1 + length
            if len(labels) > 127:
                raise Malformed("a name is too long")


def _read_opt(packet: bytes, at: int, records: int) -> tuple[int, int, bool]:
    for _ in range(records):
        _, at = read_name(packet, at)
        kind, size, flags, length = struct.unpack_from("!HHIH", packet, at)
        if kind == OPT:
            return max(PLAIN_SIZE, size), flags >> 16 & 0xFF, bool(flags & 0x8000)
        at += 10 + length
    return PLAIN_SIZE, -1, False


def addresses_in(packet: bytes) -> list[Record]:
    """Return the A, AAAA and CNAME records of an answer's first section, names in full."""
    _, at = read_name(packet, 12)
    at += 4
    found = []
    for _ in range(struct.unpack_from("!H", packet, 6)[0]):
        name, at = read_name(packet, at)
        kind, _klass, ttl, length = struct.unpack_from("!HHIH", packet, at)
        at += 10
        if kind in (A, AAAA):
            found.append(Record(name, kind, ttl, packet[at : at + length]))
        elif kind == CNAME:
            found.append(cname(name, ttl, read_name(packet, at)[0]))
        at += length
    return found


def error(packet: bytes, rcode: int) -> bytes:
    """Return the shortest answer to a request of which only the header can be trusted."""
    flags = QR | struct.unpack_from("!H", packet, 2)[0] & 0x7900 | rcode
    return packet[:2] + struct.pack("!5H", flags, 0, 0, 0, 0)


def build(query: Query, answer: Answer, *, limit: int, recursion: bool = False) -> bytes:
    """Return the reply, at most `limit` bytes long: what does not fit is left out and TC is set.

    The question's case is kept. Names equal to the question's are compressed, others are not.
    """
    flags = QR | query.flags & (RD | 0x7800) | answer.rcode & 15
    flags |= (AA if answer.authoritative else 0) | (RA if recursion else 0)
    question = pack_name(query.name) + struct.pack("!HH", query.kind, query.klass)
    opt = b""
    if query.version >= 0:
        extended = answer.rcode >> 4 << 24 | (0x8000 if query.dnssec else 0)
        opt = b"\0" + struct.pack("!HHIH", OPT, EDNS_SIZE, extended, 0)
    room = limit - 12 - len(question) - len(opt)
    body: list[bytes] = []
    counts = [0, 0, 0]
    for section, records in enumerate((answer.answer, answer.authority, answer.additional)):
        for record in records:
            wire = _pack(record, query.name)
            if len(wire) > room:
                # Additional records are an extra: leaving them out is no truncation (RFC 2181, 9).
                flags |= TC if section < 2 else 0
                break
            room -= len(wire)
            body.append(wire)
            counts[section] += 1
        else:
            continue
        break
    header = struct.pack("!6H", query.ident, flags, 1, counts[0], counts[1], counts[2] + bool(opt))
    return b"".join((header, question, *body, opt))


def _pack(record: Record, question: Name) -> bytes:
    name = b"\xc0\x0c" if record.name == question else pack_name(record.name)
    return name + struct.pack("!HHIH", record.kind, IN, record.ttl, len(record.data)) + record.data
