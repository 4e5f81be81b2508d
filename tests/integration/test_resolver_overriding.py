"""The overriding resolver in a network namespace of its own, with real clients.

10.99.0.53, fd99::53, 127.0.0.1   the host's name servers (resolv.conf)
10.99.0.1, fd99::1                our DNS server
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import textwrap
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.integration.names_stage import (
    CLUSTER,
    OUTSIDE,
    TableDns,
    dig,
    private_network,
    run_with_files,
    serving,
    sh,
)

from inroad.core.dns_policy import DnsPolicy
from inroad.core.errors import ToolMissing, TunnelFailed
from inroad.core.host_config import FWMARK, ResolverConfig
from inroad.core.messages import Lookup, LookupReply
from inroad.daemon.dns_server import DnsServer
from inroad.host import run
from inroad.host.journal import Journal
from inroad.host.resolver.choose import open_resolver, undo
from inroad.host.resolver.iptables import IptablesRedirect
from inroad.host.resolver.nft import NftRedirect
from inroad.host.resolver.overriding import OverridingResolver
from inroad.host.resolver.places import Places
from inroad.origin.lookup import LookupService

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

CONF = "nameserver 10.99.0.53 # first\nnameserver fd99::53\nsearch lan.example\n"
QUERY = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0" + b"\3web\4shop\3svc\7cluster\5local\0" + b"\0\1\0\1"
WANTED = ResolverConfig(
    server=(ip_address("10.99.0.1"), 53),
    server6=(ip_address("fd99::1"), 53),
    interface="lo",
    routed=("shop",),
)


@dataclass
class Host:
    resolver: OverridingResolver
    journal: Journal
    outside: TableDns
    tool: str
    conf: Path

    async def run(self, *argv: str) -> str:
        return await run_with_files({"/etc/resolv.conf": self.conf}, *argv)


@pytest.fixture
def namespaces(tmp_path):
    (tmp_path / "resolv.conf").write_text(CONF)
    with private_network():
        sh("ip addr add 10.99.0.53/32 dev lo && ip addr add 10.99.0.1/32 dev lo")
        sh("ip addr add fd99::53/128 dev lo nodad && ip addr add fd99::1/128 dev lo nodad")
        yield


@pytest.fixture(params=["nft", "iptables"])
async def host(request, namespaces, tmp_path):
    outside, outside6 = TableDns(OUTSIDE), TableDns(OUTSIDE)
    async with (
        serving(TableDns(CLUSTER), "127.0.0.1", 5353) as cluster,
        serving(outside, "10.99.0.53", 53),
        serving(outside6, "fd99::53", 53),
    ):
        outside6.asked = outside.asked
        pod = tmp_path / "pod.conf"
        pod.write_text(
            f"search inroad.svc.cluster.local svc.cluster.local cluster.local\n"
            f"nameserver [127.0.0.1]:{cluster.address[1]}\noptions ndots:5\n"
        )
        service = LookupService(pod)

        async def lookup(
            query: bytes, *, namespace: str, deadline_ms: int, absolute: bool, bare: bool = True
        ) -> LookupReply:
            return await service.answer(Lookup(1, query, namespace, deadline_ms, absolute, bare))

        journal = Journal(tmp_path / "journal.json")
        redirect = NftRedirect() if request.param == "nft" else IptablesRedirect(journal)
        resolver = OverridingResolver(redirect, Places(tmp_path / "resolv.conf"), reason="test", mark=FWMARK)
        policy = DnsPolicy(namespace="shop", mapped_namespaces=("default", "shop", "dev"))
        server = DnsServer(
            lookup=lookup, fallback=(await resolver.host_names()).servers, mark=FWMARK, policy=policy
        )
        await server.start([("10.99.0.1", 53), ("fd99::1", 53)])
        try:
            yield Host(resolver, journal, outside, request.param, tmp_path / "resolv.conf")
        finally:
            await resolver.close()
            await server.close()
            service.close()


def rules() -> str:
    return sh("nft list ruleset 2>/dev/null; iptables-save; ip6tables-save")


SERVERS = ["10.99.0.53", "fd99::53"]


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize("address", SERVERS)
async def test_queries_to_each_name_server_come_to_ours(host, address, transport):
    assert await dig((address, 53), "+short", transport, "web.shop.svc.cluster.local") == ""
    await host.resolver.apply(WANTED)
    assert await dig((address, 53), "+short", transport, "web.shop.svc.cluster.local") == "10.96.0.10\n"
    assert await dig((address, 53), "+short", transport, "pkg.go.dev") == "192.0.2.2\n"
    await host.resolver.apply(ResolverConfig())
    assert await dig((address, 53), "+short", transport, "web.shop.svc.cluster.local") == ""
    assert await dig((address, 53), "+short", transport, "pkg.go.dev") == "192.0.2.2\n"


async def test_the_c_library_resolves_short_names(host):
    await host.resolver.apply(WANTED)
    assert (await host.run("getent", "ahostsv4", "web")).split()[0] == "10.96.0.10"
    assert (await host.run("getent", "hosts", "web.default")).split()[:2] == [
        "10.96.0.11",
        "web.default.svc.cluster.local",
    ]
    assert (await host.run("getent", "ahostsv4", "printer")).split()[0] == "192.0.2.3"


async def test_a_socket_that_was_in_use_follows_the_rules_both_ways(host):
    sh("nft add table ip other; nft add chain ip other c '{ type nat hook output priority -100; }'")
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("10.99.0.53", 53))

        async def rcode() -> int:
            await loop.sock_sendall(sock, QUERY)
            async with asyncio.timeout(3):
                return (await loop.sock_recv(sock, 512))[3] & 15

        assert await rcode() == 3
        await host.resolver.apply(WANTED)
        assert await rcode() == 0
        await host.resolver.apply(ResolverConfig())
        assert await rcode() == 3


async def test_applying_twice_and_removing_twice_changes_nothing_more(host):
    before = rules()
    await host.resolver.apply(WANTED)
    once = rules()
    assert once != before
    await host.resolver.apply(WANTED)
    assert rules() == once
    await host.resolver.apply(ResolverConfig())
    await host.resolver.apply(ResolverConfig())
    await host.resolver.close()
    assert without_empty_tables(rules()) == without_empty_tables(before)


def without_empty_tables(text: str) -> list[str]:
    """iptables leaves its empty tables and chains behind: they do nothing."""
    noise = ("#", "*", ":", "COMMIT", "table ", "chain ", "type nat hook", "}")
    return [line for line in map(str.strip, text.splitlines()) if not line.startswith(noise) and line]


async def test_beside_dockers_rules_for_its_own_name_server(host):
    """Docker's 127.0.0.11:53 leads to a random port by a DNAT rule; marked packets must still get there."""
    async with serving(TableDns(OUTSIDE), "127.0.0.11", 43567) as embedded:
        for protocol in ("udp", "tcp"):
            sh(
                f"iptables -t nat -A OUTPUT -d 127.0.0.11 -p {protocol} --dport 53 "
                "-j DNAT --to 127.0.0.11:43567"
            )
        host.conf.write_text("nameserver 127.0.0.11\noptions ndots:0\n")
        docker = OverridingResolver(
            NftRedirect() if host.tool == "nft" else IptablesRedirect(host.journal),
            Places(host.conf),
            reason="test",
            mark=FWMARK,
        )

        async def lookup(
            query: bytes, *, namespace: str, deadline_ms: int, absolute: bool, bare: bool = True
        ) -> LookupReply:
            raise TunnelFailed("no cluster here")

        policy = DnsPolicy(mappings=(("here", "192.0.2.77"),))
        server = DnsServer(
            lookup=lookup, fallback=(await docker.host_names()).servers, mark=FWMARK, policy=policy
        )
        await server.start([("10.99.0.1", 5300)])
        await docker.apply(ResolverConfig(server=(ip_address("10.99.0.1"), 5300)))
        for transport in ("+notcp", "+tcp"):
            assert await dig(("127.0.0.11", 53), "+short", transport, "here") == "192.0.2.77\n"
            assert await dig(("127.0.0.11", 53), "+short", transport, "pkg.go.dev") == "192.0.2.2\n"
        assert embedded.asked == [("pkg.go.dev", "A")] * 2
        await docker.close()
        assert await dig(("127.0.0.11", 53), "+short", "pkg.go.dev") == "192.0.2.2\n"
        await server.close()


@pytest.mark.parametrize("host", ["nft"], indirect=True)
async def test_rules_that_went_are_made_anew(host):
    """Somebody kills the process that holds the table: names come to us again by themselves."""
    await host.resolver.apply(WANTED)
    told = asyncio.Event()
    host.resolver.watch(told.set)
    host.resolver._redirect._child.kill()
    async with asyncio.timeout(5):
        await told.wait()
    assert host.resolver.kind == "overriding"
    assert await dig(("10.99.0.53", 53), "+short", "web.shop.svc.cluster.local") == "10.96.0.10\n"


@pytest.mark.parametrize("host", ["nft"], indirect=True)
async def test_rules_that_can_not_be_made_anew_are_told_of_and_names_are_the_hosts(host, monkeypatch):
    await host.resolver.apply(WANTED)
    told = asyncio.Event()
    host.resolver.watch(told.set)
    child = host.resolver._redirect._child
    monkeypatch.setattr("inroad.host.run.tool", lambda name: None)
    child.kill()
    async with asyncio.timeout(5):
        await told.wait()
    assert host.resolver.kind == "none"
    assert "nft is needed" in host.resolver.reason
    assert await dig(("10.99.0.53", 53), "+short", "pkg.go.dev") == "192.0.2.2\n"
    monkeypatch.undo()
    await host.resolver.apply(WANTED)
    assert host.resolver.kind == "overriding"
    assert await dig(("10.99.0.53", 53), "+short", "web.shop.svc.cluster.local") == "10.96.0.10\n"


async def test_an_nft_that_can_not_own_tables_is_passed_over(namespaces, tmp_path, monkeypatch):
    """Before nft 1.0 or Linux 5.12 nobody would remove its table after a crash: iptables is journalled."""
    old = tmp_path / "nft"
    old.write_text("#!/bin/sh\necho 'Error: syntax error, unexpected owner' >&2; exit 1\n")
    old.chmod(0o755)
    places = Places(tmp_path / "resolv.conf", tmp_path / "none")
    resolver = await open_resolver(Journal(tmp_path / "journal.json"), places=places)
    assert "nft redirects" in resolver.reason
    await resolver.close()
    found = run.tool
    monkeypatch.setattr("inroad.host.run.tool", lambda name: str(old) if name == "nft" else found(name))
    resolver = await open_resolver(Journal(tmp_path / "journal.json"), places=places)
    assert "iptables redirects" in resolver.reason
    await resolver.close()
    monkeypatch.setattr("inroad.host.run.tool", lambda name: None)
    with pytest.raises(ToolMissing):
        await open_resolver(Journal(tmp_path / "journal.json"), places=places)


async def test_a_dangling_resolv_conf(namespaces, tmp_path):
    """resolv.conf is a link to nothing: programs ask 127.0.0.1, and so come to us; the user is told."""
    conf = tmp_path / "resolv.conf"
    conf.unlink()
    conf.symlink_to(tmp_path / "gone" / "resolv.conf")
    resolver = OverridingResolver(NftRedirect(), Places(conf), reason="test", mark=FWMARK)
    told = asyncio.Event()
    resolver.watch(told.set)
    found = await resolver.host_names()
    assert found.servers == (("127.0.0.1", 53),)
    assert "no name server" in found.problem
    async with serving(TableDns({"here": ["A 192.0.2.7"]}), "10.99.0.1", 53):
        await resolver.apply(WANTED)
        assert await dig(("127.0.0.1", 53), "+short", "here") == "192.0.2.7\n"
        (tmp_path / "gone").mkdir()
        (tmp_path / "gone" / "resolv.conf").write_text("nameserver 10.99.0.53\n")
        async with asyncio.timeout(5):
            while (await resolver.host_names()).problem:
                await told.wait()
                told.clear()
        await resolver.apply(WANTED)
        assert await dig(("10.99.0.53", 53), "+short", "here") == "192.0.2.7\n"
        await resolver.close()
    assert "10.99.0.53" not in rules()


CRASH = """
import asyncio, os, signal, sys
from ipaddress import ip_address
from pathlib import Path
from inroad.core.host_config import FWMARK, ResolverConfig
from inroad.host.journal import Journal
from inroad.host.resolver.iptables import IptablesRedirect
from inroad.host.resolver.nft import NftRedirect
from inroad.host.resolver.overriding import OverridingResolver
from inroad.host.resolver.places import Places

async def main(tool, journal, conf):
    redirect = NftRedirect() if tool == "nft" else IptablesRedirect(Journal(journal))
    resolver = OverridingResolver(redirect, Places(Path(conf)), reason="", mark=FWMARK)
    await resolver.apply(ResolverConfig(server=(ip_address("10.99.0.1"), 53)))
    print("applied", flush=True)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("tool", ["nft", "iptables"])
async def test_killed_with_9(namespaces, tmp_path, tool):
    journal = tmp_path / "crashed.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(CRASH),
        tool,
        str(journal),
        str(tmp_path / "resolv.conf"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"applied\n"
    assert "10.99.0.53" in rules()
    process.send_signal(signal.SIGKILL)
    await process.wait()
    if tool == "nft":
        async with asyncio.timeout(5):
            while "10.99.0.53" in rules():
                await asyncio.sleep(0.02)
    else:
        entries = Journal(journal).pending()
        assert [await undo(entry) for entry in entries] == ["removed the DNS redirection of iptables"]
        assert [await undo(entry) for entry in entries] == [""]
    assert "10.99.0.53" not in rules()
