"""Lookups from the pod: search list, several name servers, truncation, deadlines, forged replies."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest
from tests.integration.names_stage import CLUSTER, TableDns, serving

from inroad.core.messages import Lookup
from inroad.origin.lookup import LookupService

SEARCH = "inroad.svc.cluster.local svc.cluster.local cluster.local"


@pytest.fixture
async def cluster():
    async with serving(TableDns(CLUSTER)) as server:
        yield server


def pod(here: Path, *servers: TableDns, search: str = SEARCH, ndots: int = 5) -> LookupService:
    conf = here / "resolv.conf"
    lines = [f"nameserver [{server.address[0]}]:{server.address[1]}" for server in servers]
    conf.write_text("\n".join([f"search {search}", *lines, f"options ndots:{ndots}\n"]))
    return LookupService(conf)


async def look_up(service: LookupService, name: str, kind: str = "A", **more):
    query = dns.message.make_query(name, kind, id=7, use_edns=0, payload=1232)
    more = {"namespace": "shop", "deadline": 4_000, **more}
    reply = await service.answer(Lookup(5, query.to_wire(), **more))
    assert reply.id == 5
    return reply, dns.message.from_wire(reply.reply) if reply.reply else None


def last_asked(server: TableDns) -> list[str]:
    return [name.lower() for name, _ in server.asked]


@pytest.mark.parametrize(
    ("name", "namespace", "tried"),
    [
        ("web", "shop", ["web.shop.svc.cluster.local"]),
        ("web", "default", ["web.default.svc.cluster.local"]),
        ("web.default", "shop", ["web.default.shop.svc.cluster.local", "web.default.svc.cluster.local"]),
        (
            "web.shop.svc",
            "default",
            [
                "web.shop.svc.default.svc.cluster.local",
                "web.shop.svc.svc.cluster.local",
                "web.shop.svc.cluster.local",
            ],
        ),
        ("a.b.c.d.e.f", "shop", ["a.b.c.d.e.f", "a.b.c.d.e.f.shop.svc.cluster.local"]),
    ],
)
async def test_the_search_list_with_the_clients_namespace(cluster, tmp_path, name, namespace, tried):
    service = pod(tmp_path, cluster)
    reply, _ = await look_up(service, name, namespace=namespace)
    assert last_asked(cluster)[: len(tried)] == tried
    if reply.reply[3] & 15 == 0:
        assert reply.name == tried[-1]
    service.close()


async def test_as_it_is_and_never_as_it_is(cluster, tmp_path):
    service = pod(tmp_path, cluster)
    await look_up(service, "web", absolute=True)
    assert last_asked(cluster) == ["web"]
    cluster.asked.clear()
    await look_up(service, "nothing", bare=False)
    assert "nothing" not in last_asked(cluster)
    assert len(cluster.asked) == 3
    service.close()


async def test_the_letter_case_of_the_query_is_sent(cluster, tmp_path):
    service = pod(tmp_path, cluster)
    await look_up(service, "wEb.DefAULT")
    assert [name for name, _ in cluster.asked] == [
        "wEb.DefAULT.shop.svc.cluster.local",
        "wEb.DefAULT.svc.cluster.local",
    ]
    service.close()


async def test_a_name_without_records_of_the_type_ends_the_search(cluster, tmp_path):
    service = pod(tmp_path, cluster)
    reply, said = await look_up(service, "web", "AAAA")
    assert (said.rcode(), said.answer) == (0, [])
    assert reply.name == "web.shop.svc.cluster.local"
    service.close()


async def test_can_not_say_outlives_later_denials(cluster, tmp_path):
    service = pod(tmp_path, cluster)
    original = cluster.answer

    def answer(data: bytes, *, tcp: bool) -> bytes:
        cluster.rcode = dns.rcode.SERVFAIL if not cluster.asked else 0
        return original(data, tcp=tcp)

    cluster.answer = answer
    _, said = await look_up(service, "nothing")
    assert said.rcode() == dns.rcode.SERVFAIL
    service.close()


async def test_a_truncated_reply_is_fetched_over_tcp(cluster, tmp_path):
    service = pod(tmp_path, cluster)
    _, said = await look_up(service, "big")
    assert not said.flags & dns.flags.TC
    assert len(said.answer[0]) == 200
    service.close()


async def test_the_second_server_where_the_first_is_silent_or_gone(cluster, tmp_path):
    async with serving(TableDns(CLUSTER)) as silent:
        silent.silent = True
        service = pod(tmp_path, silent, cluster)
        started = time.monotonic()
        reply, _ = await look_up(service, "web")
        assert not reply.error
        assert time.monotonic() - started < 1.5
        service.close()
        gone = silent.address
    service = pod(tmp_path, silent, cluster)
    assert silent.address == gone
    started = time.monotonic()
    reply, _ = await look_up(service, "web")
    assert not reply.error
    assert time.monotonic() - started < 0.5
    service.close()


async def test_the_clients_deadline_is_kept(cluster, tmp_path):
    cluster.silent = True
    service = pod(tmp_path, cluster)
    started = time.monotonic()
    reply, _ = await look_up(service, "web", deadline=700)
    assert "was silent" in reply.error
    assert 0.6 < time.monotonic() - started < 1.2
    service.close()


async def test_a_lost_datagram_is_sent_again(cluster, tmp_path):
    original, seen = cluster.datagram_received, []

    def lossy(data: bytes, addr) -> None:
        seen.append(data)
        if len(seen) > 1:
            original(data, addr)

    cluster.datagram_received = lossy
    service = pod(tmp_path, cluster)
    started = time.monotonic()
    reply, _ = await look_up(service, "web")
    assert not reply.error
    assert time.monotonic() - started < 0.9
    assert seen[0][2:] == seen[1][2:]
    service.close()


async def test_many_at_once_without_order(cluster, tmp_path):
    for number in range(300):
        cluster.set(f"s{number}.shop.svc.cluster.local", f"A 10.1.{number // 256}.{number % 256}")
    service = pod(tmp_path, cluster)
    asking = (look_up(service, f"s{n % 300}", deadline=20_000) for n in range(600))
    replies = await asyncio.gather(*asking)  # many more would only measure this test's name server
    for number, (_, said) in enumerate(replies):
        n = number % 300
        assert said.answer[0][0].address == f"10.1.{n // 256}.{n % 256}"
        assert said.id == 7
    service.close()


@pytest.mark.parametrize("query", [b"", b"x" * 11, b"\0" * 12, b"\xff" * 40])
async def test_what_is_no_query_is_an_error_and_nothing_is_sent(cluster, tmp_path, query):
    service = pod(tmp_path, cluster)
    reply = await service.answer(Lookup(1, query, "shop"))
    assert "makes no sense" in reply.error
    reply = await service.answer(Lookup(1, dns.message.make_query("web", "A").to_wire(), "a..b"))
    assert "makes no sense" in reply.error
    assert cluster.asked == []
    service.close()


async def test_a_changed_resolv_conf_is_seen(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("inroad.origin.lookup.REREAD", 0.0)
    async with serving(TableDns({"web.shop.svc.cluster.local": ["A 192.0.2.1"]})) as other:
        service = pod(tmp_path, cluster)
        await look_up(service, "web")
        pod(tmp_path, other)
        _, said = await look_up(service, "web")
        assert said.answer[0][0].address == "192.0.2.1"
        service.close()


async def test_no_resolv_conf(tmp_path):
    service = LookupService(tmp_path / "none")
    reply, _ = await look_up(service, "web")
    assert "no name server" in reply.error


@pytest.mark.parametrize(
    ("search", "address", "domain"),
    [
        (SEARCH, "", "cluster.local"),
        ("shop.svc.k8s.example svc.k8s.example k8s.example", "", "k8s.example"),
        ("lan.example", "10.96.0.1", "cluster.local"),
        ("lan.example", "10.96.0.77", "cluster.local"),  # nobody says: the default
        ("lan.example", "", "cluster.local"),
    ],
)
async def test_the_cluster_domain(cluster, tmp_path, search, address, domain):
    service = pod(tmp_path, cluster, search=search)
    assert await service.cluster_domain(address) == domain
    service.close()


async def test_the_cluster_domain_by_the_api_services_pointer(tmp_path):
    async with serving(
        TableDns({"1.0.96.10.in-addr.arpa": ["PTR kubernetes.default.svc.k8s.example."]})
    ) as server:
        service = pod(tmp_path, server, search="lan.example")
        assert await service.cluster_domain("10.96.0.1") == "k8s.example"
        service.close()
