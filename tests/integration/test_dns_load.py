"""The DNS server while it is busy: flushes under load, prefetch, bounds, floods of odd TCP clients."""

from __future__ import annotations

import asyncio
import random
import struct

import dns.message
import dns.rcode
import pytest

from inroad.core import dns_answer, dns_wire
from inroad.core.dns_policy import DnsPolicy
from inroad.core.messages import LookupReply
from inroad.daemon import dns_batch
from inroad.daemon.dns_server import DnsServer

POLICY = DnsPolicy(namespace="shop", mapped_namespaces=("shop",))


class Cluster:
    """Answers from memory: every name has the address of the present generation."""

    def __init__(self) -> None:
        self.generation = 0
        self.lookups = 0
        self.ttl = 30
        self.pause = 0.0

    async def __call__(
        self, query: bytes, *, namespace: str, deadline_ms: int, absolute: bool, bare: bool = True
    ) -> LookupReply:
        self.lookups += 1
        answer = dns_answer.of_records(1, (struct.pack("!I", self.generation),), self.ttl)
        if self.pause:
            await asyncio.sleep(self.pause)
        return LookupReply(0, dns_answer.compose(dns_wire.parse_query(query), answer, most=self.ttl))


class Asker(asyncio.DatagramProtocol):
    """A client that asks many names on one socket and pairs the answers by id."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[bytes]] = {}

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        waiting = self.waiting.pop(int.from_bytes(data[:2], "big"), None)
        if waiting is not None:
            waiting.set_result(data)

    async def ask(self, ident: int, name: str) -> bytes:
        waiting = self.waiting[ident] = asyncio.get_running_loop().create_future()
        labels = tuple(part.encode() for part in name.split("."))
        self.transport.sendto(dns_wire.make_query(dns_wire.wire_of(labels) + b"\0\1\0\1", ident))
        async with asyncio.timeout(10):
            return await waiting


@pytest.fixture
async def cluster():
    return Cluster()


@pytest.fixture
async def server(cluster):
    made = DnsServer(lookup=cluster, policy=POLICY, capacity=500)
    await made.start([("127.0.0.1", 0)])
    yield made
    await made.close()


@pytest.fixture
async def asker(server):
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Asker, remote_addr=server.addresses[0])
    yield protocol
    transport.close()


def number(reply: bytes) -> int:
    return struct.unpack("!I", reply[-15:-11])[0]


async def test_10_000_flushes_lose_and_falsify_nothing(server, cluster, asker):
    """An answer is never older than the flush before its question: 64 clients ask all the time."""
    stop = asyncio.Event()
    asked = 0

    async def client(first: int) -> None:
        nonlocal asked
        rolling = random.Random(first)
        while not stop.is_set():
            before = cluster.generation
            reply = await asker.ask(first, f"s{rolling.randrange(50)}.shop.svc.cluster.local")
            assert reply[3] & 15 == 0
            assert number(reply) >= before
            asked += 1

    clients = [asyncio.create_task(client(i)) for i in range(64)]
    changes = (server.flush, lambda: server.invalidate(tuple(f"s{i}.shop" for i in range(50))))
    for flush in range(10_000):
        cluster.generation += 1
        changes[flush % 2]()
        if flush % 4 == 0:
            await asyncio.sleep(0)
    stop.set()
    await asyncio.gather(*clients)
    assert asked > 2_000
    assert server.counters()["in_flight"] == 0


async def test_a_popular_name_is_looked_up_again_before_it_expires(server, cluster, asker):
    cluster.ttl = 4
    waits = []
    for step in range(28):
        started = asyncio.get_running_loop().time()
        await asker.ask(step, "web.shop.svc.cluster.local")
        waits.append(asyncio.get_running_loop().time() - started)
        if not step:
            cluster.pause = 0.3
        await asyncio.sleep(0.25)
    counters = server.counters()
    assert counters["prefetched"] >= 1
    assert max(waits[1:]) < 0.25  # nobody waited for the slow cluster again


async def test_the_cache_is_bounded(server, cluster, asker):
    for index in range(700):
        await asker.ask(index, f"s{index}.shop.svc.cluster.local")
    counters = server.counters()
    assert counters["entries"] == 500
    assert counters["evicted"] == 200
    assert counters["rule.cluster-domain"] == 700


async def test_one_answer_for_each_query_of_a_burst(server, asker):
    """Hits and misses mixed within one batch of system calls."""
    names = [f"s{index % 37}.shop.svc.cluster.local" for index in range(1_000)]
    for start in range(0, 1_000, 100):
        replies = await asyncio.gather(*(asker.ask(i, names[i]) for i in range(start, start + 100)))
        for index, reply in enumerate(replies, start):
            message = dns.message.from_wire(reply)
            assert message.id == index
            assert message.question[0].name.to_text(omit_final_dot=True) == names[index]


@pytest.mark.parametrize("batch", [True, False])
async def test_both_ways_to_read_udp(cluster, monkeypatch, batch):
    if not batch:
        monkeypatch.setattr(dns_batch, "calls", lambda: None)
    server = DnsServer(lookup=cluster, policy=POLICY)
    await server.start([("127.0.0.1", 0), ("::1", 0)])
    for address in server.addresses:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(Asker, remote_addr=address)
        for ident in range(5):
            reply = await protocol.ask(ident, "web.shop.svc.cluster.local")
            assert int.from_bytes(reply[:2], "big") == ident
        transport.close()
    assert server.counters()["hits"] == 9
    await server.close()


async def connect(server):
    return await asyncio.open_connection(*server.addresses[0])


def framed(name="web.shop.svc.cluster.local", ident=1) -> bytes:
    wire = dns.message.make_query(name, "A", id=ident).to_wire()
    return len(wire).to_bytes(2, "big") + wire


async def test_tcp_byte_by_byte(server):
    reader, writer = await connect(server)
    for octet in framed():
        writer.write(bytes((octet,)))
        await writer.drain()
    async with asyncio.timeout(5):
        size = int.from_bytes(await reader.readexactly(2), "big")
        assert dns.message.from_wire(await reader.readexactly(size)).answer
    writer.close()


@pytest.mark.parametrize("sent", [b"\0\0", b"\0\3abc", b"\0\x0c" + b"\x12\x34\x81\x80" + bytes(8)])
async def test_tcp_clients_that_make_no_sense_are_cut_off(server, sent):
    reader, writer = await connect(server)
    writer.write(sent)
    async with asyncio.timeout(5):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    writer.close()


async def test_a_tcp_client_that_never_reads_costs_nothing_but_itself(server, asker):
    _, writer = await connect(server)
    for ident in range(20_000):
        writer.write(framed(ident=ident % 65_536))
    await asker.ask(1, "web.shop.svc.cluster.local")
    writer.close()


async def test_closing_while_lookups_are_in_flight(cluster):
    cluster.pause = 30
    server = DnsServer(lookup=cluster, policy=POLICY)
    await server.start([("127.0.0.1", 0)])
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        Asker, remote_addr=server.addresses[0]
    )
    asking = asyncio.create_task(protocol.ask(1, "web"))
    async with asyncio.timeout(5):
        while not cluster.lookups:
            await asyncio.sleep(0.01)
    await server.close()
    await server.close()
    asking.cancel()
    transport.close()


async def test_a_bug_in_the_lookup_is_a_servfail_and_not_the_end(cluster, server, asker, monkeypatch):
    def broken(*_args):
        raise IndexError("an answer that nobody thought of")

    monkeypatch.setattr(dns_answer, "take_apart", broken)
    reply = dns.message.from_wire(await asker.ask(1, "web.shop.svc.cluster.local"))
    assert reply.rcode() == dns.rcode.SERVFAIL
    monkeypatch.undo()
    await asyncio.sleep(1.1)  # the life of a failure
    assert dns.message.from_wire(await asker.ask(2, "web.shop.svc.cluster.local")).answer


async def test_a_reply_whose_target_can_not_be_read_leaves_nobody_waiting(
    cluster, server, asker, monkeypatch
):
    """Found by the fuzzer: the lookup had ended already when reading the target of the CNAME failed."""
    rdata = (b"\x3f" + b"a" * 63) * 4 + b"\0"  # 257 octets

    def odd(kind, packed, ttl):
        body = b"\xc0\x0c\0\x05\0\1\0\0\0\x1e" + len(rdata).to_bytes(2, "big") + rdata
        return dns_answer.Answer(0, b"\x84\0\0\1\0\0\0\0", body, (6,), 30, positive=True)

    monkeypatch.setattr(dns_answer, "of_records", odd)
    reply = dns.message.from_wire(await asker.ask(1, "web.shop.svc.cluster.local"))
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert server.counters()["in_flight"] == 0
