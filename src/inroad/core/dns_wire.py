"""DNS messages as bytes: reading a query, finding one's way in a reply, building both.

Only what the path of a query needs, and fast; odd cases of the format are refused, never guessed. Facts
are those of RFC 1035 and RFC 6891 (EDNS). What a reply says is `dns_answer`'s.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address

from inroad.core.names import MAX_WIRE, Name, text

HEADER = 12
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
OPCODE = 0x7800
UDP_PAYLOAD = 1232
"""What we advertise and send over UDP at most: no fragments on any path (DNS Flag Day 2020)."""
EDNS_DO = 0x8000

HEAD = struct.Struct("!HHHHHH")
COUNTS = struct.Struct("!HHH")
_QUESTION = struct.Struct("!HH")
RECORD = struct.Struct("!HHIH")
U16 = struct.Struct("!H")
U32 = struct.Struct("!I")


class Type(IntEnum):
    """The record types that we need to know; all others are carried as they are."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    MX = 15
    TXT = 16
    AAAA = 28
    SRV = 33
    OPT = 41
    ANY = 255


class Rcode(IntEnum):
    """How a lookup ended."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class Malformed(ValueError):
    """The octets are no DNS message that we would answer.

    `rcode` says what a client should be told; None: nothing at all.
    """

    def __init__(self, why: str, rcode: Rcode | None = None) -> None:
        super().__init__(why)
        self.rcode = rcode


@dataclass(slots=True)
class Edns:
    """The OPT record of a query."""

    payload: int
    version: int
    dnssec_ok: bool


@dataclass(slots=True)
class Query:
    """A well-formed query with one question.

    `question` is the question section as it came. `key` is what the cache knows it by: the question
    in lower case, and whether DNSSEC records are wanted. `data` is the whole message.
    """

    id: int
    flags: int
    question: bytes
    key: bytes
    type: int
    edns: Edns | None
    data: bytes

    @property
    def wire_name(self) -> bytes:
        """The name asked for, uncompressed, in the case it was asked in."""
        return self.question[:-4]

    @property
    def name(self) -> Name:
        """The name asked for, as lower-case labels."""
        return labels_of(self.question[:-4].lower())

    def udp_limit(self) -> int:
        """Octets that an answer over UDP may have."""
        return min(max(self.edns.payload, 512), UDP_PAYLOAD) if self.edns else 512


def labels_of(wire: bytes) -> Name:
    """Split an uncompressed wire name into labels."""
    labels, at = [], 0
    while length := wire[at]:
        labels.append(wire[at + 1 : at + 1 + length])
        at += length + 1
    return tuple(labels)


def wire_of(name: Name) -> bytes:
    """Write labels as an uncompressed wire name."""
    return b"".join(bytes((len(label),)) + label for label in name) + b"\0"


def reverse_name(address: str) -> Name:
    """Return the name whose PTR record names an address."""
    pointer = ip_address(address.partition("%")[0]).reverse_pointer
    return tuple(pointer.encode().split(b"."))


def question_end(data: bytes, start: int = HEADER) -> int:
    """Return the offset behind the question that starts at `start`; raises `Malformed`."""
    at, size = start, len(data)
    while at < size:
        length = data[at]
        if not length:
            if at + 5 > size or at + 1 - start > MAX_WIRE:
                break
            return at + 5
        if length > 63:
            break
        at += length + 1
    raise Malformed("no well-formed question", Rcode.FORMERR)


def parse_query(data: bytes) -> Query:
    """Read a query; raises `Malformed` for everything that is none."""
    if len(data) < HEADER:
        raise Malformed("shorter than a header")
    ident, flags, questions, answers, authorities, additionals = HEAD.unpack_from(data)
    if flags & QR:
        raise Malformed("a response")
    if flags & OPCODE:
        raise Malformed("not a QUERY", Rcode.NOTIMP)
    if questions != 1:
        raise Malformed("not one question", Rcode.FORMERR)
    end = question_end(data)
    question = data[HEADER:end]
    kind = (question[-4] << 8) | question[-3]
    edns = None
    if answers or authorities or additionals or end != len(data):
        edns = _query_edns(data, end, answers + authorities, additionals)
    # Length octets and the root are below "A", but a type such as HTTPS (65) is one: lower the name only.
    key = question[:-4].lower() + question[-4:]
    if edns and edns.dnssec_ok:
        key += b"\1"
    return Query(ident, flags, question, key, kind, edns, data)


def _query_edns(data: bytes, at: int, before: int, additionals: int) -> Edns | None:
    edns = None
    for index in range(before + additionals):
        owner = at
        at = skip_name(data, at)
        if at + 10 > len(data):
            raise Malformed("a record is cut off", Rcode.FORMERR)
        kind, payload, ttl, length = RECORD.unpack_from(data, at)
        at += 10 + length
        if at > len(data):
            raise Malformed("a record is cut off", Rcode.FORMERR)
        if kind == Type.OPT and index >= before:
            if edns or data[owner]:
                raise Malformed("OPT twice, or not at the root", Rcode.FORMERR)
            _check_options(data, at - length, at)
            edns = Edns(payload, (ttl >> 16) & 0xFF, bool(ttl & EDNS_DO))
    if at != len(data):
        raise Malformed("octets behind the last record", Rcode.FORMERR)
    return edns


def _check_options(data: bytes, at: int, end: int) -> None:
    while at < end:
        if at + 4 > end:
            raise Malformed("an EDNS option is cut off", Rcode.FORMERR)
        at += 4 + U16.unpack_from(data, at + 2)[0]
    if at != end:
        raise Malformed("an EDNS option is cut off", Rcode.FORMERR)


def text_of(question: bytes) -> str:
    """Write the name of a question section for people."""
    return text(labels_of(question[:-4]))


def skip_name(data: bytes, at: int) -> int:
    """Return the offset behind the (possibly compressed) name at `at`; raises `Malformed`."""
    size = len(data)
    while at < size:
        length = data[at]
        if not length:
            return at + 1
        if length >= 0xC0:
            return at + 2
        if length > 63:
            break
        at += length + 1
    raise Malformed("a name is cut off", Rcode.FORMERR)


def read_name(data: bytes, at: int) -> bytes:
    """Return the name at `at` uncompressed; raises `Malformed` (loops, cut off, too long)."""
    parts: list[bytes] = []
    total, ceiling = 1, at
    try:
        while length := data[at]:
            if length >= 0xC0:
                # A pointer must lead backwards, to before this run of labels: so it can't loop.
                target = ((length & 0x3F) << 8) | data[at + 1]
                if target >= ceiling or target < HEADER:
                    raise Malformed("a compression pointer that does not lead back", Rcode.FORMERR)
                at = ceiling = target
                continue
            total += length + 1
            if length > 63 or total > MAX_WIRE:
                raise Malformed("a name is too long", Rcode.FORMERR)
            parts.append(data[at : at + length + 1])
            at += length + 1
    except IndexError:
        raise Malformed("a name is cut off", Rcode.FORMERR) from None
    return b"".join(parts) + b"\0"


def make_query(question: bytes, ident: int = 0, *, dnssec_ok: bool = False) -> bytes:
    """Build a recursive query with EDNS for a question section."""
    opt = b"\0\0\x29" + U16.pack(UDP_PAYLOAD) + U32.pack(EDNS_DO if dnssec_ok else 0) + b"\0\0"
    return HEAD.pack(ident, RD, 1, 0, 0, 1) + question + opt


def opt_record(rcode: int = 0, *, dnssec_ok: bool = False) -> bytes:
    """Build our OPT record for a reply."""
    ttl = ((rcode >> 4) << 24) | (EDNS_DO if dnssec_ok else 0)
    return b"\0\0\x29" + U16.pack(UDP_PAYLOAD) + U32.pack(ttl) + b"\0\0"


def bad_version(query: Query) -> bytes:
    """Build the answer to a query with an EDNS version that we do not speak (RFC 6891, 6.1.3)."""
    flags = QR | (query.flags & RD)
    head = HEAD.pack(query.id, flags | (Rcode.BADVERS & 0xF), 1, 0, 0, 1)
    return head + query.question + opt_record(Rcode.BADVERS)


def error_reply(data: bytes, rcode: int, *, recursion: bool = False) -> bytes:
    """Build the answer to a message that `parse_query` refused, from as much of it as can be read."""
    ident, flags, questions = struct.unpack_from("!HHH", data)
    try:
        question = data[HEADER : question_end(data)] if questions == 1 else b""
    except Malformed:
        question = b""
    flags = QR | (flags & (OPCODE | RD)) | (RA if recursion else 0) | rcode
    return HEAD.pack(ident, flags, 1 if question else 0, 0, 0, 0) + question


@dataclass(slots=True)
class Record:
    """A record of a message: `at` where it starts, `data` where its RDATA starts; offsets in octets."""

    section: int
    at: int
    type: int
    cls: int
    ttl: int
    data: int
    end: int


def records(message: bytes, at: int) -> list[Record]:
    """List the records behind the question, which ends at `at`; raises `Malformed`."""
    found = []
    for section, count in enumerate(COUNTS.unpack_from(message, 6)):
        for _ in range(count):
            fixed = skip_name(message, at)
            if fixed + 10 > len(message):
                raise Malformed("a record is cut off")
            kind, cls, ttl, length = RECORD.unpack_from(message, fixed)
            end = fixed + 10 + length
            if end > len(message):
                raise Malformed("a record is cut off")
            found.append(Record(section, at, kind, cls, ttl, fixed + 10, end))
            at = end
    return found


def denies(reply: bytes) -> bool:
    """Tell whether a reply says that there is no such name."""
    return len(reply) >= HEADER and reply[3] & 0xF == Rcode.NXDOMAIN


def same_question(reply: bytes, question: bytes, ident: int) -> bool:
    """Tell whether `reply` is a response with this id to this question, its case left aside."""
    size = HEADER + len(question)
    if len(reply) < size or HEAD.unpack_from(reply)[2] != 1 or not reply[2] & 0x80:
        return False
    asked = reply[HEADER:size]
    return (
        reply[0] << 8 | reply[1] == ident
        and asked[-4:] == question[-4:]
        and asked[:-4].lower() == question[:-4].lower()
    )
