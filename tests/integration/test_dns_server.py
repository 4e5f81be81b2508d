"""The DNS server between real clients and two name servers: the cluster's and the host's."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from ipaddress import ip_network

import dns.asyncquery
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from tests.integration.names_stage import CLUSTER, OUTSIDE, TableDns, dig, serving

from inroad.core.dns_policy import DnsPolicy
from inroad.core.errors import HostChangeFailed, TunnelFailed
from inroad.core.messages import Lookup, LookupReply
from inroad.daemon.dns_server import DnsServer
from inroad.origin.lookup import LookupService

POLICY = DnsPolicy(
    namespace="shop",
    mapped_namespaces=("default", "shop", "dev"),
    routed_subnets=(ip_network("10.96.0.0/16"),),
)


@dataclass
class Stage:
    server: DnsServer
    cluster: TableDns
    outside: TableDns
    tunnel: Tunnel

    @property
    def address(self) -> tuple[str, int]:
        return self.server.addresses[0]

    async def dig(self, *words: str) -> str:
        return await dig(self.address, *words)

    async def ask(self, name: str, kind: str = "A", **more) -> dns.message.Message:
        query = dns.message.make_query(name, kind, **more)
        host, port = self.address
        return await dns.asyncquery.udp(query, host, port=port, timeout=6)


class Tunnel:
    """Stands between server and cluster side as the daemon's link does; it can be cut."""

    def __init__(self, service: LookupService) -> None:
        self.service = service
        self.cut = False
        self.lookups: list[tuple[str, bool]] = []

    async def __call__(
        self, query: bytes, *, namespace: str, deadline_ms: int, absolute: bool, bare: bool = True
    ) -> LookupReply:
        self.lookups.append((namespace, absolute))
        if self.cut:
            raise TunnelFailed("the link is down")
        return await self.service.answer(Lookup(1, query, namespace, deadline_ms, absolute, bare))


@pytest.fixture
async def stage(tmp_path):
    async with serving(TableDns(CLUSTER)) as cluster, serving(TableDns(OUTSIDE)) as outside:
        conf = tmp_path / "resolv.conf"
        conf.write_text(
            f"search inroad.svc.cluster.local svc.cluster.local cluster.local\n"
            f"nameserver [127.0.0.1]:{cluster.address[1]}\noptions ndots:5\n"
        )
        service = LookupService(conf)
        tunnel = Tunnel(service)
        server = DnsServer(lookup=tunnel, fallback=(outside.address,), policy=POLICY)
        await server.start([("127.0.0.1", 0)])
        yield Stage(server, cluster, outside, tunnel)
        await server.close()
        service.close()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["web"], ["web.shop.svc.cluster.local.", "10.96.0.10"]),
        (["web.default"], ["web.default.svc.cluster.local.", "10.96.0.11"]),
        (["web.shop.svc"], ["web.shop.svc.cluster.local.", "10.96.0.10"]),
        (["web.shop.svc.cluster.local"], ["10.96.0.10"]),
        (["AAAA", "both"], ["both.shop.svc.cluster.local.", "fd00:10:96::12"]),
        (["ext"], ["ext.shop.svc.cluster.local.", "web.default.svc.cluster.local.", "10.96.0.11"]),
        (
            ["SRV", "_sql._tcp.db.shop"],
            ["_sql._tcp.db.shop.svc.cluster.local.", "0 50 5432 db-0.db.shop.svc.cluster.local."],
        ),
        (["TXT", "text"], ["text.shop.svc.cluster.local.", '"hello" "world"']),
        (["MX", "text.shop"], ["text.shop.svc.cluster.local.", "10 mail.example.com."]),
        (["-x", "10.96.0.1"], ["kubernetes.default.svc.cluster.local."]),
        (["example.com"], ["192.0.2.1"]),
        (["TXT", "example.com"], ['"outside"']),
        (["pkg.go.dev"], ["192.0.2.2"]),
        (["shopify.dev"], ["192.0.2.4"]),
        (["printer"], ["192.0.2.3"]),
        (["localhost"], ["127.0.0.1"]),
        (["AAAA", "api.localhost"], ["::1"]),
    ],
)
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
async def test_what_dig_sees(stage, words, expected, transport):
    for _ in range(2):  # the second time from the cache
        assert (await stage.dig("+short", transport, *words)).splitlines() == expected


@pytest.mark.parametrize(
    ("name", "kind", "status", "authority"),
    [
        ("web", "AAAA", "NOERROR", 1),
        ("web", "HTTPS", "NOERROR", 1),
        ("nothing.shop.svc.cluster.local", "A", "NXDOMAIN", 1),
        ("nothing", "A", "NXDOMAIN", 1),
        ("nothing.example.com", "A", "NXDOMAIN", 1),
    ],
)
async def test_denials(stage, name, kind, status, authority):
    for _ in range(2):
        said = await stage.dig(kind, name)
        assert f"status: {status}" in said
        assert f"ANSWER: {1 if name == 'web' else 0}, AUTHORITY: {authority}" in said


async def test_the_search_list_of_a_pod_in_the_connected_namespace_is_used(stage):
    await stage.ask("web.default")
    assert [name.lower() for name, _ in stage.cluster.asked] == [
        "web.default.shop.svc.cluster.local",
        "web.default.svc.cluster.local",
    ]


async def test_a_second_question_is_answered_from_the_cache_in_its_own_letter_case(stage):
    await stage.ask("web")
    reply = await stage.ask("wEb")
    assert len(stage.tunnel.lookups) == 1
    assert reply.question[0].name.to_text() == "wEb."
    assert reply.answer[0].name.to_text() == "wEb."
    assert stage.server.counters()["hits"] == 1


async def test_ttls_are_short_and_count_down(stage):
    stage.cluster.ttl = 2
    reply = await stage.ask("web.shop.svc.cluster.local")
    assert reply.answer[0].ttl == 2
    stage.cluster.ttl = 30
    reply = await stage.ask("web.default.svc.cluster.local")
    assert reply.answer[0].ttl == 4


async def test_names_of_the_cluster_never_leave_for_the_fallback(stage):
    await stage.ask("nothing.shop.svc.cluster.local")
    await stage.ask("nothing.shop.svc")
    assert stage.outside.asked == []


async def test_identical_questions_share_a_lookup_and_its_rcode(stage):
    stage.cluster.hold = asyncio.Event()
    stage.cluster.rcode = dns.rcode.SERVFAIL
    asking = [asyncio.create_task(stage.ask("web.shop.svc.cluster.local")) for _ in range(50)]
    async with asyncio.timeout(5):
        while stage.server.counters().get("joined", 0) < 49:
            await asyncio.sleep(0.01)
    stage.cluster.hold.set()
    assert {reply.rcode() for reply in await asyncio.gather(*asking)} == {dns.rcode.SERVFAIL}
    assert len(stage.tunnel.lookups) == 1


async def test_a_big_answer_is_truncated_over_udp_and_whole_over_tcp(stage):
    udp = await stage.dig("+ignore", "+notcp", "big")
    assert re.search(r"flags:.* tc", udp)
    assert "ANSWER: 0" in udp
    whole = await stage.dig("+short", "big")  # dig tries TCP by itself
    assert len(whole.splitlines()) == 201
    whole = await stage.dig("+short", "big.example.com")
    assert len(whole.splitlines()) == 200


async def test_addresses_take_turns(stage):
    first = [str((await stage.ask("db")).answer[1][0]) for _ in range(6)]
    assert set(first) == {"10.244.1.2", "10.244.1.3", "10.244.2.4"}


async def test_pipelined_tcp_queries_are_all_answered_in_any_order(stage):
    stage.cluster.delay = 0.3
    reader, writer = await asyncio.open_connection(*stage.address)
    wanted = {}
    for number, name in enumerate(["web.default", "localhost", "web", "example.com"]):
        query = dns.message.make_query(name, "A", id=number + 1)
        wanted[number + 1] = name
        wire = query.to_wire()
        writer.write(len(wire).to_bytes(2, "big") + wire)
    order = []
    async with asyncio.timeout(5):
        for _ in range(4):
            size = int.from_bytes(await reader.readexactly(2), "big")
            reply = dns.message.from_wire(await reader.readexactly(size))
            order.append(wanted.pop(reply.id))
    assert order[0] == "localhost"
    writer.write_eof()
    assert await reader.read() == b""


async def test_a_changed_service_is_seen_at_once(stage):
    await stage.ask("web")
    stage.cluster.set("web.shop.svc.cluster.local", "A 10.96.0.99")
    assert (await stage.ask("web")).answer[1][0].address == "10.96.0.10"
    stage.server.invalidate(("web.shop",))
    assert (await stage.ask("web")).answer[1][0].address == "10.96.0.99"


async def test_another_namespace_changes_short_names_and_leaves_the_others_cached(stage):
    for name in ("web", "web.shop.svc.cluster.local"):
        await stage.ask(name)
    stage.server.configure(DnsPolicy(namespace="default", mapped_namespaces=("default", "shop", "dev")))
    assert (await stage.ask("web")).answer[1][0].address == "10.96.0.11"
    before = len(stage.tunnel.lookups)
    await stage.ask("web.shop.svc.cluster.local")
    assert len(stage.tunnel.lookups) == before


async def test_stale_answers_while_the_cluster_is_away(stage):
    stage.cluster.ttl = 1
    await stage.ask("web")
    stage.tunnel.cut = True
    await asyncio.sleep(4.1)  # the least life of an answer
    reply = await stage.ask("web")
    assert reply.answer[1][0].address == "10.96.0.10"
    assert reply.answer[1].ttl == 1
    assert stage.server.counters()["stale"] == 1
    assert (await stage.ask("web.default.svc.cluster.local")).rcode() == dns.rcode.SERVFAIL


async def test_the_fallback_answers_when_the_cluster_cannot(stage):
    stage.tunnel.cut = True
    assert (await stage.ask("printer")).answer[0][0].address == "192.0.2.3"
    assert (await stage.ask("web.shop.svc.cluster.local")).rcode() == dns.rcode.SERVFAIL


async def test_a_second_fallback_server_is_asked_when_the_first_is_not_there(stage):
    stage.server.set_fallback((("127.0.0.1", 1), stage.outside.address))
    assert (await stage.ask("example.com")).answer[0][0].address == "192.0.2.1"


async def test_a_port_that_is_taken_is_named(stage):
    other = DnsServer(lookup=stage.tunnel, policy=POLICY)
    with pytest.raises(HostChangeFailed, match=f"port {stage.address[1]}: address already in use"):
        await other.start([stage.address])


async def test_edns_as_on_dns_flag_day(stage):
    said = await stage.dig("+edns=0", "web.shop.svc.cluster.local")
    assert "EDNS: version: 0" in said
    assert "status: NOERROR" in said
    said = await stage.dig("+noedns", "web.shop.svc.cluster.local")
    assert "EDNS:" not in said
    said = await stage.dig("+edns=1", "+noednsnegotiation", "web.shop.svc.cluster.local")
    assert "status: BADVERS" in said
    assert "EDNS: version: 0" in said
    assert "ANSWER: 0" in said
    said = await stage.dig("+ednsopt=100", "+ednsflags=0x40", "web.shop.svc.cluster.local")
    assert "status: NOERROR" in said
    assert "OPT=100" not in said
    assert "MBZ" not in said
    said = await stage.dig("+dnssec", "web.shop.svc.cluster.local")
    assert re.search(r"EDNS: version: 0, flags: do", said)
