"""The fallback: other names go to the name servers that the host had, as they came."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import time
from pathlib import Path

import dns.message
import dns.rcode
import pytest
from tests.integration.names_stage import OUTSIDE, TableDns, private_network, serving, sh

from inroad.daemon.dns_fallback import Fallback


def query(name="example.com", kind="A", **more) -> bytes:
    return dns.message.make_query(name, kind, **more).to_wire()


LOOPS = ("asyncio", "uvloop")


@pytest.fixture
async def server():
    async with serving(TableDns(OUTSIDE)) as made:
        yield made


async def asked(fallback: Fallback, data: bytes, *, tcp: bool = False) -> bytes | None:
    answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
    fallback.forward(data, answer.set_result, tcp=tcp)
    return await answer


def address(reply: bytes | None) -> str:
    assert reply is not None
    return dns.message.from_wire(reply).answer[0][0].address


async def test_queries_pass_through_byte_for_byte_but_for_the_id(server):
    fallback = Fallback((server.address,), mark=0)
    data = query(use_edns=0, options=[dns.edns.GenericOption(65001, b"whatever")], want_dnssec=True)
    reply = await asked(fallback, data)
    assert server.raw[0][2:] == data[2:]
    assert reply[:2] == data[:2]
    assert address(reply) == "192.0.2.1"
    fallback.close()


async def test_ids_and_ports_are_not_those_of_the_client_nor_in_a_row(server):
    fallback = Fallback((server.address,), mark=0)
    for number in range(64):
        await asked(fallback, query(id=number))
    idents = [int.from_bytes(raw[:2], "big") for raw in server.raw]
    assert len(set(idents)) > 60
    assert sum(abs(a - b) < 16 for a, b in itertools.pairwise(idents)) < 8
    fallback.close()


async def test_over_tcp(server):
    fallback = Fallback((server.address,), mark=0)
    reply = await asked(fallback, query("big.example.com", id=9), tcp=True)
    assert len(dns.message.from_wire(reply).answer[0]) == 200
    assert reply[:2] == b"\0\x09"
    fallback.close()


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_server_that_is_not_there_is_passed_over_at_once(server, tcp):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        gone = free.getsockname()
    fallback = Fallback((gone, server.address), mark=0)
    started = time.monotonic()
    assert address(await asked(fallback, query(), tcp=tcp)) == "192.0.2.1"
    assert time.monotonic() - started < 1
    fallback.close()


async def test_a_server_that_was_away_answers_again():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        where = taken.getsockname()
    fallback = Fallback((where,), mark=0)
    for _ in range(3):  # each is told by ICMP that nobody is there
        reply = await asked(fallback, query())
        assert reply is None or dns.message.from_wire(reply).rcode() == dns.rcode.SERVFAIL
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
        back.settimeout(5)
        back.bind(where)
        waiting = asyncio.ensure_future(asked(fallback, query()))
        data, source = await asyncio.to_thread(back.recvfrom, 512)
        back.sendto(dns.message.make_response(dns.message.from_wire(data)).to_wire(), source)
        assert dns.message.from_wire(await waiting).rcode() == dns.rcode.NOERROR
    fallback.close()


async def test_a_silent_server_is_passed_over_and_not_tried_first_again(server):
    async with serving(TableDns(OUTSIDE)) as silent:
        silent.silent = True
        fallback = Fallback((silent.address, server.address), mark=0)
        assert address(await asked(fallback, query())) == "192.0.2.1"
        started = time.monotonic()
        assert address(await asked(fallback, query("pkg.go.dev"))) == "192.0.2.2"
        assert time.monotonic() - started < 1
        fallback.close()


async def test_a_server_that_refuses_is_passed_over(server):
    async with serving(TableDns(OUTSIDE)) as refusing:
        refusing.rcode = dns.rcode.REFUSED
        fallback = Fallback((refusing.address, server.address), mark=0)
        assert address(await asked(fallback, query())) == "192.0.2.1"
        only = Fallback((refusing.address,), mark=0)
        assert dns.message.from_wire(await asked(only, query())).rcode() == dns.rcode.REFUSED
        fallback.close()
        only.close()


async def test_nobody_answers():
    async with serving(TableDns(OUTSIDE)) as silent:
        silent.silent = True
        fallback = Fallback((silent.address,), mark=0)
        started = time.monotonic()
        assert await asked(fallback, query()) is None
        assert 3 < time.monotonic() - started < 6
        assert fallback.failures == 1
        assert fallback.pending == 0
        fallback.close()
    assert await asked(Fallback((), mark=0), query()) is None


async def test_answers_from_others_or_to_other_questions_are_not_believed(server):
    """Whoever guesses the id still needs the port and the question; here only the question is wrong."""
    original = server.answer

    def forged(data: bytes, *, tcp: bool) -> bytes:
        other = data[:12] + data[12:].replace(b"\7example", b"\7exomple")
        server.transport.sendto(original(other, tcp=tcp), server.sender)
        return original(data, tcp=tcp)

    received = server.datagram_received

    def datagram_received(data: bytes, addr: tuple[str, int]) -> None:
        server.sender = addr
        received(data, addr)

    server.answer, server.datagram_received = forged, datagram_received
    fallback = Fallback((server.address,), mark=0)
    assert address(await asked(fallback, query())) == "192.0.2.1"
    fallback.close()


async def test_equal_queries_share_one_way_and_each_gets_its_own_id(server):
    server.hold = asyncio.Event()
    fallback = Fallback((server.address,), mark=0)
    waiting = [asyncio.create_task(asked(fallback, query(id=number))) for number in range(20)]
    async with asyncio.timeout(5):
        while fallback.joined < 19 or not server.asked:
            await asyncio.sleep(0.01)
    server.hold.set()
    replies = await asyncio.gather(*waiting)
    assert [int.from_bytes(reply[:2], "big") for reply in replies] == list(range(20))
    assert len(server.asked) == 1
    fallback.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")
async def test_the_mark_is_on_every_packet():
    with private_network():
        sh("nft add table ip t; nft add chain ip t o '{ type filter hook output priority 0; }'")
        sh("nft add rule ip t o oif lo udp dport 53 meta mark 0x1a0ad counter")
        sh("nft add rule ip t o oif lo tcp dport 53 meta mark 0x1a0ad counter")
        async with serving(TableDns(OUTSIDE), "127.0.0.1", 53) as server:
            fallback = Fallback((server.address,), mark=0x1A0AD)
            await asked(fallback, query())
            await asked(fallback, query(), tcp=True)
            fallback.close()
        counters = sh("nft list table ip t")
        assert "packets 0" not in counters


@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")
async def test_its_ports_are_never_those_of_an_application():
    """The kernel remembers that such a port is not redirected; an application's would not be either."""
    with private_network():
        given_away = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        sh("nft add table ip t; nft add chain ip t o '{ type filter hook output priority 0; }'")
        sh(f"nft add rule ip t o udp dport 53 udp sport != {'-'.join(given_away)} counter accept")
        sh("nft add rule ip t o udp dport 53 drop")
        async with serving(TableDns(OUTSIDE), "127.0.0.1", 53) as server:
            fallback = Fallback((server.address,), mark=0x1A0AD)
            for number in range(8):
                assert await asked(fallback, query(id=number)) is not None
            fallback.close()
        assert "packets 8 " in sh("nft list table ip t")
