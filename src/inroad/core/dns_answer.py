"""What a name server said, kept so that it fits every later query for the same name and type.

An `Answer` is everything behind the question, without the OPT record. Compression pointers in it
may point at the question's name (offset 12), which the reply gets back from each query in that
query's own letter case; so every question it answers has the same length. Lifetimes follow RFC 2308.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from inroad.core.dns_wire import (
    AA,
    COUNTS,
    HEAD,
    HEADER,
    QR,
    RA,
    RD,
    RECORD,
    TC,
    U16,
    U32,
    Malformed,
    Query,
    Rcode,
    Record,
    Type,
    labels_of,
    opt_record,
    question_end,
    read_name,
    records,
    skip_name,
)
from inroad.core.names import Name

ANY_TTL = 0x7FFFFFFF
"""A TTL that bounds nothing (RFC 2181, 8)."""


@dataclass(slots=True)
class Answer:
    """What a name server said, in a form that fits every query for the same name and type.

    `head` is flags (without RD and RA), and the counts of the three sections; `body` the records.
    `ttls` are the offsets of TTL fields in `body`. `lifetime` is the least TTL in seconds; for a
    negative answer what RFC 2308 gives (the SOA's minimum or its TTL, 0 without a SOA).
    """

    rcode: int
    head: bytes
    body: bytes
    ttls: tuple[int, ...]
    lifetime: int
    positive: bool


def negative(rcode: int, lifetime: int = 0) -> Answer:
    """Return an answer without records, to be believed for `lifetime` seconds."""
    return Answer(rcode, U16.pack(QR | AA | rcode) + bytes(6), b"", (), lifetime, positive=False)


def compose(
    query: Query, answer: Answer, *, age: int = 0, most: int, recursion: bool = False, limit: int = 65_535
) -> bytes:
    """Build the reply to `query`; `limit` octets at most, else an empty one with TC.

    TTLs are what is left of the records' own after `age` seconds, `most` at most.
    """
    flags = U16.unpack_from(answer.head)[0] | (query.flags & RD) | (RA if recursion else 0)
    edns = query.edns
    opt = opt_record(dnssec_ok=edns.dnssec_ok) if edns else b""
    answers, authorities, additionals = COUNTS.unpack_from(answer.head, 2)
    if HEADER + len(query.question) + len(answer.body) + len(opt) > limit:
        head = HEAD.pack(query.id, flags | TC, 1, 0, 0, 1 if opt else 0)
        return head + query.question + opt
    head = HEAD.pack(query.id, flags, 1, answers, authorities, additionals + (1 if opt else 0))
    return head + query.question + aged(answer, age, most) + opt


def aged(answer: Answer, age: int, most: int) -> bytes:
    """Return the body with its TTLs counted down by `age` seconds and at most `most`.

    A record that had a TTL keeps at least 1: it is served because it is still believed.
    """
    if not answer.ttls:
        return answer.body
    body = bytearray(answer.body)
    for at in answer.ttls:
        own = U32.unpack_from(body, at)[0]
        U32.pack_into(body, at, min(max(own - age, min(own, 1)), most))
    return bytes(body)


def rotated(answer: Answer, kind: int, turns: int) -> Answer:
    """Return the answer with its addresses turned by `turns`, so that each has its share of clients.

    Only where the records of type `kind` follow each other and have one size (addresses whose owner
    is compressed have); any other answer comes back as it is.
    """
    size = {Type.A: 16, Type.AAAA: 28}.get(kind)  # type: ignore[call-overload]
    ttls = answer.ttls
    count = U16.unpack_from(answer.head, 2)[0]
    if size is None or count < 2:
        return answer
    first = next((i for i in range(count) if U16.unpack_from(answer.body, ttls[i] - 4)[0] == kind), count)
    if count - first < 2 or ttls[count - 1] - ttls[first] != size * (count - 1 - first):
        return answer
    start = ttls[first] - 6
    end = start + size * (count - first)
    turn = start + size * (turns % (count - first))
    body = answer.body
    turned = body[:start] + body[turn:end] + body[start:turn] + body[end:]
    return Answer(answer.rcode, answer.head, turned, ttls, answer.lifetime, answer.positive)


def of_records(kind: int, rdata: tuple[bytes, ...], ttl: int = ANY_TTL) -> Answer:
    """Return an answer of records for the name asked for; none makes it a NODATA."""
    ttls, body = [], b""
    for data in rdata:
        ttls.append(len(body) + 6)
        body += b"\xc0\x0c" + RECORD.pack(kind, 1, ttl, len(data)) + data
    head = struct.pack("!HHHH", QR | AA, len(rdata), 0, 0)
    return Answer(0, head, body, tuple(ttls), ttl, positive=bool(rdata))


def take_apart(reply: bytes, asked: bytes) -> Answer:
    """Turn a name server's reply into an `Answer` to the question `asked`.

    The reply may be about another name, that of an alias or of the search list: then the answer
    starts with a CNAME from the name asked to it, as for any alias, and its records are written anew.
    Raises `Malformed`.
    """
    if len(reply) < HEADER:
        raise Malformed("shorter than a header")
    _, flags, questions, *_ = HEAD.unpack_from(reply)
    if questions != 1 or not flags & QR:
        raise Malformed("no response to one question")
    end = question_end(reply)
    question = reply[HEADER:end]
    if question[-4:] != asked[-4:]:
        raise Malformed("another type or class than asked")
    renamed = question[:-4].lower() != asked[:-4].lower()
    found = records(reply, end)
    rcode = flags & 0xF
    options = [record for record in found if record.type == Type.OPT]
    for record in options:
        rcode |= (record.ttl >> 24) << 4
    kept = [record for record in found if record.type != Type.OPT]
    if renamed or options[:-1] or (options and found[-1] is not options[0]) or _spelled_out(reply, kept):
        reply = reply[:HEADER] + question[:-4].lower() + question[-4:] + reply[end:]
        return _rewritten(reply, kept, rcode, asked, question[:-4].lower() if renamed else b"")
    last = found[-1].end if found else end  # octets behind the last record are nobody's
    body = reply[end : options[0].at if options else last]
    counts = [0, 0, 0]
    for record in kept:
        counts[record.section] += 1
    ttls = tuple(record.data - 6 - end for record in kept)
    head = U16.pack(QR | AA | (rcode & 0xF)) + COUNTS.pack(*counts)
    positive, lifetime = _lifetime(reply, kept, rcode, (asked[-4] << 8) | asked[-3])
    return Answer(rcode, head, body, ttls, lifetime, positive)


def _spelled_out(reply: bytes, kept: list[Record]) -> bool:
    """Names without compression would show the random letter case of our own question; SRV forbids it."""
    return any(
        record.type == Type.SRV or (record.section == 0 and 0 < reply[record.at] < 0xC0) for record in kept
    )


def _lifetime(reply: bytes, kept: list[Record], rcode: int, kind: int) -> tuple[bool, int]:
    answers = [record for record in kept if record.section == 0]
    ttls = [record.ttl for record in answers]
    if not rcode and any(kind in {record.type, Type.ANY} for record in answers):
        return True, min(ttls)
    for record in kept:
        if record.section == 1 and record.type == Type.SOA and record.end - record.data >= 20:
            ttls += [record.ttl, U32.unpack_from(reply, record.end - 4)[0]]
            return False, min(ttls)
    return False, 0


# Where names are in the RDATA of types that may compress them (RFC 1035, 3.3; RFC 3597, 4), as
# (octets before, names). SRV may not, but some servers do.
_NAMES_IN = {
    Type.NS: (0, 1),
    Type.CNAME: (0, 1),
    Type.PTR: (0, 1),
    Type.SOA: (0, 2),
    Type.MX: (2, 1),
    Type.SRV: (6, 1),
}


class _Writer:
    """Writes records behind a question and compresses their names against all that came before."""

    def __init__(self, question: bytes) -> None:
        self.base = HEADER + len(question)
        self.body = bytearray()
        self.ttls: list[int] = []
        self._offsets: dict[bytes, int] = {}
        self._remember(question[:-4].lower(), HEADER)

    def _remember(self, wire: bytes, offset: int) -> None:
        at = 0
        while wire[at] and offset + at < 0x4000:
            self._offsets.setdefault(wire[at:], offset + at)
            at += wire[at] + 1

    def name(self, wire: bytes, *, compress: bool = True) -> None:
        """Append a name; letters of a part that was there before take that part's case, or are lower."""
        lower, at = wire.lower(), 0
        start = self.base + len(self.body)
        while lower[at]:
            offset = self._offsets.get(lower[at:]) if compress else None
            if offset is not None:
                self.body += wire[:at] + U16.pack(0xC000 | offset)
                break
            if lower[at:] in self._offsets:  # CoreDNS ends SRV targets with the question's own octets
                wire = wire[:at] + lower[at:]
            at += lower[at] + 1
        else:
            self.body += wire
        self._remember(lower, start)

    def record(self, owner: bytes, kind: int, cls: int, ttl: int, rdata: list[bytes | Name]) -> None:
        """Append a record; names in `rdata` come as tuples of one wire name."""
        self.name(owner)
        self.ttls.append(len(self.body) + 4)
        self.body += RECORD.pack(kind, cls, ttl, 0)
        start = len(self.body)
        for part in rdata:
            if isinstance(part, tuple):
                self.name(part[0], compress=kind != Type.SRV)
            else:
                self.body += part
        U16.pack_into(self.body, start - 2, len(self.body) - start)


def _rewritten(reply: bytes, kept: list[Record], rcode: int, asked: bytes, alias: bytes) -> Answer:
    """Write the records anew behind the question `asked`, with a CNAME to `alias` in front if given."""
    kind = (asked[-4] << 8) | asked[-3]
    positive, lifetime = _lifetime(reply, kept, rcode, kind)
    writer = _Writer(asked)
    counts = [0, 0, 0]
    if alias and rcode == Rcode.NOERROR:
        writer.record(asked[:-4], Type.CNAME, 1, max(lifetime, 1), [(alias,)])
        counts[0] += 1
    for record in kept:
        counts[record.section] += 1
        owner = read_name(reply, record.at)
        writer.record(owner, record.type, record.cls, record.ttl, _rdata(reply, record))
    head = U16.pack(QR | AA | (rcode & 0xF)) + COUNTS.pack(*counts)
    return Answer(rcode, head, bytes(writer.body), tuple(writer.ttls), lifetime, positive)


def _rdata(reply: bytes, record: Record) -> list[bytes | Name]:
    before, count = _NAMES_IN.get(record.type, (0, 0))  # type: ignore[call-overload]
    if not count:
        return [reply[record.data : record.end]]
    parts: list[bytes | Name] = [reply[record.data : record.data + before]]
    at = record.data + before
    for _ in range(count):
        parts.append((read_name(reply, at),))
        at = skip_name(reply, at)
    if at > record.end:
        raise Malformed("a name leaves its record")
    parts.append(reply[at : record.end])
    return parts


def targets(answer: Answer, question: bytes) -> list[Name]:
    """List the names that the answer's CNAME, PTR and SRV records point at."""
    message = bytes(4) + answer.head[:0] + b"\0\1" + answer.head[2:] + question + answer.body
    base = HEADER + len(question)
    return [
        labels_of(read_name(message, record.data + _NAMES_IN[Type(record.type)][0]).lower())
        for record in records(message, base)
        if record.type in {Type.CNAME, Type.PTR, Type.SRV}
    ]


def cap_ttls(reply: bytes, most: int) -> bytes:
    """Return a whole reply with no TTL above `most` seconds; as it is where it can't be read."""
    try:
        end = question_end(reply) if HEAD.unpack_from(reply)[2] == 1 else HEADER
        found = records(reply, end)
    except (Malformed, struct.error):
        return reply
    patched = bytearray(reply)
    for record in found:
        if record.type != Type.OPT and record.ttl > most:
            U32.pack_into(patched, record.data - 6, most)
    return bytes(patched)
