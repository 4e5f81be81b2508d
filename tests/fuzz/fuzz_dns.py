"""Throws mutated DNS messages at the server, as queries, and at the reader of replies, as answers.

    python tests/fuzz/fuzz_dns.py [--inputs 1000000] [--seed 0]

A finding is: any exception but `Malformed`; an answer to a response; a second answer; an answer that
dnspython can't read, or with another id. The seed of the input is printed: `--seed N --inputs 1`
repeats it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time

import dns.exception
import dns.flags
import dns.message
import dns.rrset
import structlog

from inroad.core import dns_answer, dns_wire
from inroad.core.dns_policy import DnsPolicy
from inroad.core.dns_wire import Malformed
from inroad.core.messages import LookupReply
from inroad.daemon.dns_answering import Answering

POLICY = DnsPolicy(
    namespace="shop", mapped_namespaces=("shop",), mappings=(("alias", "web"), ("ip", "192.0.2.1"))
)
NAMES = ("web", "web.shop", "web.shop.svc.cluster.local", "localhost", "alias", "ip", "example.com", "a" * 63)
TYPES = ("A", "AAAA", "SRV", "PTR", "TXT", "HTTPS", "ANY", "OPT")


def queries() -> list[bytes]:
    """Well-formed queries of many kinds to begin with."""
    made = []
    for name in NAMES:
        for kind in TYPES:
            made.append(dns.message.make_query(name, kind, use_edns=-1).to_wire())
            made.append(dns.message.make_query(name, kind, use_edns=0, want_dnssec=True).to_wire())
    option = [dns.edns.GenericOption(10, b"cookie!!"), dns.edns.GenericOption(65001, b"x" * 40)]
    made.append(dns.message.make_query("web", "A", use_edns=0, options=option).to_wire())
    made.append(dns.message.make_query("web", "A", use_edns=1).to_wire())
    return made


def replies() -> list[bytes]:
    """Well-formed replies of many kinds."""
    name = "web.shop.svc.cluster.local."
    made = []
    for records in (
        [(name, "A", "10.0.0.1", "10.0.0.2")],
        [(name, "CNAME", "x.example."), ("x.example.", "A", "10.0.0.1")],
        [(name, "SRV", "0 1 80 a.web.shop.svc.cluster.local.")],
        [(name, "MX", "10 mail.example.")],
        [(name, "SOA", "ns.example. host.example. 1 2 3 4 5")],
        [],
    ):
        message = dns.message.make_response(dns.message.make_query(name, "A", use_edns=0))
        message.answer += [
            dns.rrset.from_text(owner, 30, "IN", kind, *data) for owner, kind, *data in records
        ]
        made.append(message.to_wire())
    return made


def mutate(dice: random.Random, message: bytes) -> bytes:
    """Change a message in a few places as a broken or hostile peer might."""
    data = bytearray(message)
    for _ in range(dice.choice((0, 1, 1, 2, 4, 8))):
        at = dice.randrange(len(data)) if data else 0
        match dice.randrange(6):
            case 0 if data:
                data[at] = dice.randrange(256)
            case 1 if data:
                data[at] ^= 1 << dice.randrange(8)
            case 2:
                del data[at : at + dice.randrange(1, 8)]
            case 3:
                data[at:at] = dice.randbytes(dice.randrange(1, 8))
            case 4 if len(data) > 13:
                data[at : at + 2] = bytes((0xC0 | dice.randrange(64), dice.randrange(len(data))))
            case 5 if len(data) > 12:
                data[dice.randrange(2, 12)] = dice.choice((0, 1, 2, 0x80, 0xFF))
    return bytes(data)


class Client:
    """Sends one message and keeps what comes back."""

    def __init__(self, *, tcp: bool) -> None:
        self.tcp = tcp
        self.source = ("fuzz", id(self))
        self.got: list[bytes] = []

    def reply(self, data: bytes) -> None:
        self.got.append(data)

    def drop(self) -> None:
        """Nothing is owed."""


class Stage:
    """A server whose cluster answers each lookup with a mutated reply."""

    def __init__(self) -> None:
        self.dice = random.Random(0)
        self.queries, self.replies = queries(), replies()
        self.answering = Answering(self.lookup, POLICY, (), mark=0, capacity=200)

    async def lookup(self, query: bytes, **_: object) -> LookupReply:
        reply = mutate(self.dice, self.dice.choice(self.replies))
        if self.dice.random() < 0.5:  # to the question that was asked, so that more of it is read
            reply = query[:2] + reply[2:12] + query[12 : dns_wire.question_end(query)] + reply[44:]
        return LookupReply(0, reply)

    async def one(self, seed: int) -> None:
        self.dice.seed(seed)
        self.read_reply()
        message = mutate(self.dice, self.dice.choice(self.queries))
        client = Client(tcp=self.dice.random() < 0.2)
        self.answering.handle(message, client)
        while self.answering._flights:
            await asyncio.sleep(0)
        self.check(message, client)

    def read_reply(self) -> None:
        asked = self.dice.choice(self.queries[:-2])
        question = asked[12 : dns_wire.question_end(asked)]
        reply = mutate(self.dice, self.dice.choice(self.replies))
        dns_answer.cap_ttls(reply, 4)
        try:
            answer = dns_answer.take_apart(reply, question)
            dns_answer.targets(answer, question)
        except Malformed:
            return
        query = dns_wire.parse_query(asked)
        dns_answer.compose(query, dns_answer.rotated(answer, query.type, self.dice.randrange(9)), most=4)

    def check(self, message: bytes, client: Client) -> None:
        if len(message) < 12 or message[2] & 0x80:
            assert not client.got, "an answer to what is no query"
            return
        assert len(client.got) == 1, f"{len(client.got)} answers"
        reply = client.got[0]
        assert reply[:2] == message[:2], "another id"
        assert reply[2] & 0x80, "no response"
        assert client.tcp or len(reply) <= 1232, "too long for UDP"
        if not reply[2] & 0x7A and not int.from_bytes(reply[6:12], "big"):
            # Records carry the cluster's own oddities, and dnspython reads an UPDATE's question as a zone.
            dns.message.from_wire(reply)


async def fuzz(first: int, inputs: int) -> int:
    stage = Stage()
    started = time.monotonic()
    for seed in range(first, first + inputs):
        try:
            await stage.one(seed)
        except Exception:
            sys.stderr.write(f"finding: python tests/fuzz/fuzz_dns.py --seed {seed} --inputs 1\n")
            raise
    broken = stage.answering.counters().get("bugs", 0)
    took = time.monotonic() - started
    sys.stdout.write(f"{inputs} messages in {took:.0f} s, {broken} lookups that failed by a bug of ours\n")
    await stage.answering.close()
    return 1 if broken else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    return asyncio.run(fuzz(options.seed, options.inputs))


if __name__ == "__main__":
    raise SystemExit(main())
