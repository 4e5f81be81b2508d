"""A cluster on the developer's own host: its name server asks the host, and the host asks us.

    program --> the host's resolver --> us --> tunnel --> the cluster's name server
                        ^                                         |
                        +--------- what it does not know ---------+

The host's resolver is a forwarder of this test (its letter case kept or folded, with a cache or
without), then the real dnsmasq, unbound and systemd-resolved.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.rcode
import pytest
from tests.integration.debian import program
from tests.integration.names_stage import CLUSTER, OUTSIDE, TableDns, private_network, serving, sh
from tests.integration.resolved_stage import resolved_host
from tests.integration.resolver_worlds import make_vif

from inroad.core.dns_policy import DnsPolicy
from inroad.core.messages import Lookup, LookupReply
from inroad.daemon.dns_server import DnsServer
from inroad.origin.lookup import LookupService

POLICY = DnsPolicy(
    namespace="shop",
    mapped_namespaces=("shop", "dev", "default", "kube-system"),
    include_suffixes=("private",),
)


class Forwarding(TableDns):
    """The cluster's name server: what it has no answer for it asks of the host."""

    def __init__(self, table, host: tuple[str, int], *, fold: bool = False, cache: bool = False) -> None:
        super().__init__(table)
        self.host = host
        self.fold = fold
        self.cache: dict[bytes, bytes] | None = {} if cache else None
        self.forwarded: list[bytes] = []

    def datagram_received(self, data, addr):
        asyncio.get_running_loop().create_task(self._serve(data, addr))

    async def _serve(self, data: bytes, addr) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name
        if name in self.table or name.is_subdomain(dns.name.from_text("svc.cluster.local")):
            self.transport.sendto(self.answer(data, tcp=False), addr)
            return
        key = query.question[0].to_text().lower().encode()
        if self.cache is not None and key in self.cache:
            self.transport.sendto(data[:2] + self.cache[key][2:], addr)
            return
        if self.fold:
            query.question[0].name = dns.name.from_text(name.to_text().lower())
        query.id = dns.entropy.random_16()
        self.forwarded.append(query.to_wire())
        with contextlib.suppress(dns.exception.Timeout):
            reply = await dns.asyncquery.udp(query, self.host[0], port=self.host[1], timeout=5)
            wire = data[:2] + reply.to_wire()[2:12] + data[12 : 12 + 0] + reply.to_wire()[12:]
            if self.cache is not None:
                self.cache[key] = wire
            self.transport.sendto(wire, addr)


@dataclass
class Stage:
    server: DnsServer
    cluster: Forwarding
    outside: TableDns
    resolver: tuple[str, int]

    async def ask(self, name: str, kind: str = "A") -> tuple[dns.message.Message, float]:
        """Ask as a program does, of the host's resolver; returns the reply and the seconds it took."""
        query = dns.message.make_query(name, kind)
        started = time.monotonic()
        reply = await dns.asyncquery.udp(query, self.resolver[0], port=self.resolver[1], timeout=10)
        return reply, time.monotonic() - started


@contextlib.asynccontextmanager
async def stage(
    here: Path, resolver: tuple[str, int] | None = None, address: str = "127.0.0.1", **options
) -> AsyncIterator[Stage]:
    """The whole circle; without a resolver in between, the cluster asks our server directly."""
    cluster = Forwarding(CLUSTER, ("", 0), **options)
    async with serving(cluster), serving(TableDns(OUTSIDE, soa=False)) as outside:
        conf = here / "pod.conf"
        conf.write_text(
            "search inroad.svc.cluster.local svc.cluster.local cluster.local\n"
            f"nameserver [127.0.0.1]:{cluster.address[1]}\noptions ndots:5\n"
        )
        service = LookupService(conf)

        async def lookup(
            query: bytes, *, namespace: str, deadline_ms: int, absolute: bool, bare: bool = True
        ) -> LookupReply:
            return await service.answer(Lookup(1, query, namespace, deadline_ms, absolute, bare))

        server = DnsServer(lookup=lookup, fallback=(outside.address,), policy=POLICY)
        await server.start([(address, 0 if resolver is None else 53)])
        cluster.host = resolver or server.addresses[0]
        try:
            yield Stage(server, cluster, outside, resolver or server.addresses[0])
        finally:
            await server.close()
            service.close()


VARIANTS = pytest.mark.parametrize(
    ("fold", "cache"), [(False, False), (True, False), (False, True), (True, True)], ids=str
)


@VARIANTS
async def test_found_by_the_probe_within_its_bound(tmp_path, fold, cache):
    async with stage(tmp_path, fold=fold, cache=cache) as s:
        started = time.monotonic()
        assert await s.server.check_recursion()
        assert time.monotonic() - started < 0.3
        assert s.server.recursion.folded == fold
        assert "found" in s.server.recursion.text


async def test_found_again_although_the_cluster_remembers_the_last_probe(tmp_path):
    async with stage(tmp_path, cache=True) as s:
        assert await s.server.check_recursion()
        s.server.recursion.found = False
        assert await s.server.check_recursion()


async def test_a_cluster_that_asks_others_is_not_taken_for_one_that_asks_us(tmp_path):
    async with stage(tmp_path) as s:
        s.cluster.host = s.outside.address
        started = time.monotonic()
        assert not await s.server.check_recursion()
        assert time.monotonic() - started < 0.2  # the answers came: there is nothing to wait for
        assert s.server.recursion.text == "none found"


async def test_a_silent_cluster_costs_the_bound_and_no_more(tmp_path):
    async with stage(tmp_path) as s:
        s.cluster.datagram_received = lambda data, addr: None
        started = time.monotonic()
        assert not await s.server.check_recursion()
        assert 0.15 < time.monotonic() - started < 0.4


@VARIANTS
async def test_names_after_recursion_was_found(tmp_path, fold, cache):
    async with stage(tmp_path, fold=fold, cache=cache) as s:
        await s.server.check_recursion()
        s.cluster.forwarded.clear()
        for name, expected in [
            ("web", "10.96.0.10"),
            ("web.shop.svc.cluster.local", "10.96.0.10"),
            ("web.dev", "192.0.2.66"),
            ("pkg.go.dev", "192.0.2.2"),
            ("printer", "192.0.2.3"),
            ("example.com", "192.0.2.1"),
        ]:
            reply, took = await s.ask(name)
            assert reply.answer[-1][0].address == expected, name
            assert took < 1, name
        for name in ("nothing", "nothing.dev", "nothing.shop.svc.cluster.local", "nothing.private"):
            reply, took = await s.ask(name)
            assert reply.rcode() == dns.rcode.NXDOMAIN, name
            assert took < 1, name
        sent = [
            dns.message.from_wire(wire).question[0].name.to_text().lower() for wire in s.cluster.forwarded
        ]
        # Only names that are nobody's but the cluster's name server's own are sent as they are.
        assert {name for name in sent if not name.endswith("cluster.local.")} == {"nothing.private."}


@VARIANTS
async def test_many_who_ask_at_once_are_all_answered(tmp_path, fold, cache):
    async with stage(tmp_path, fold=fold, cache=cache) as s:
        await s.server.check_recursion()
        s.cluster.table[dns.name.from_text("db.private")] = ["A 10.9.9.9"]
        for name, expected in [
            ("web", "10.96.0.10"),
            ("web.default", "10.96.0.11"),
            ("db.private", "10.9.9.9"),
        ]:
            replies = await asyncio.gather(*(s.ask(name) for _ in range(200)))
            rcodes = {reply.rcode() for reply, _ in replies}
            assert rcodes == {dns.rcode.NOERROR}, (name, rcodes)
            assert {reply.answer[-1][0].address for reply, _ in replies} == {expected}


async def test_turned_off(tmp_path):
    async with stage(tmp_path) as s:
        policy = DnsPolicy(namespace="shop", mapped_namespaces=("kube-system",), recursion_check=False)
        server = DnsServer(lookup=s.server._answering.lookups._ask, policy=policy)
        await server.start([("127.0.0.1", 0)])
        assert not await server.check_recursion()
        assert server.recursion.text == "not checked"
        await server.close()


async def test_turned_on_and_off_while_connected(tmp_path):
    async with stage(tmp_path) as s:
        s.server.configure(replace(POLICY, recursion_check=False))
        assert s.server.recursion.text == "not checked"
        s.server.configure(POLICY)
        async with asyncio.timeout(5):
            while not s.server.recursion.found:
                await asyncio.sleep(0.01)
        s.server.configure(replace(POLICY, recursion_check=False))
        assert s.server.recursion.text == "not checked"


# ---- the host's own resolver in between ----

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")
SERVER, RESOLVER = "10.99.0.1", ("10.99.0.2", 53)


@contextlib.asynccontextmanager
async def running(*argv: str, env: dict[str, str] | None = None) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(*argv, env=env)
    try:
        async with asyncio.timeout(10):
            while f"{RESOLVER[0]}:53" not in sh("ss -lnu"):
                await asyncio.sleep(0.02)
        yield
    finally:
        process.terminate()
        await process.wait()


@pytest.fixture
def namespaces():
    with private_network():
        sh(f"ip addr add {SERVER}/32 dev lo; ip addr add {RESOLVER[0]}/32 dev lo")
        yield


@contextlib.asynccontextmanager
async def dnsmasq(here: Path, cache: bool) -> AsyncIterator[tuple[str, int]]:
    async with running(
        "dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "-p", "53",
        "-a", RESOLVER[0], "-S", SERVER, "--pid-file", "-c", "1000" if cache else "0",
    ):  # fmt: skip
        yield RESOLVER


@contextlib.asynccontextmanager
async def unbound(here: Path, cache: bool) -> AsyncIterator[tuple[str, int]]:
    binary, env = program("unbound", "usr/sbin/unbound")
    config = here / "unbound.conf"
    config.write_text(
        f"""server:
  interface: {RESOLVER[0]}
  access-control: 0.0.0.0/0 allow
  do-not-query-localhost: no
  username: ""
  chroot: ""
  directory: "{here}"
  pidfile: ""
  use-syslog: no
  module-config: "iterator"
  cache-max-ttl: {600 if cache else 0}
  cache-max-negative-ttl: {600 if cache else 0}
  local-zone: "private." nodefault
forward-zone:
  name: "."
  forward-addr: {SERVER}
remote-control:
  control-enable: no
"""
    )
    async with running(binary, "-d", "-c", str(config), env=env):
        yield RESOLVER


@contextlib.asynccontextmanager
async def resolved(here: Path, cache: bool) -> AsyncIterator[tuple[str, int]]:
    make_vif()
    sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up")
    sh("ip addr add 10.99.1.2/24 dev up0 && ip route add default via 10.99.1.1")
    async with resolved_host(
        here,
        f"DNS={SERVER}\\nDNSStubListenerExtra={RESOLVER[0]}\\nCache={'yes' if cache else 'no'}\\n"
        "Domains=~. ~cluster.local\\n",
    ):
        yield RESOLVER


@needs_root
@pytest.mark.parametrize("kind", [dnsmasq, unbound, resolved], ids=lambda kind: kind.__name__)
@VARIANTS
async def test_with_the_real_resolvers(namespaces, tmp_path, kind, fold, cache):
    """dnsmasq and systemd-resolved join the recursed query to the program's own, so nothing comes back."""
    async with (
        kind(tmp_path, cache) as resolver,
        stage(tmp_path, resolver, SERVER, fold=fold, cache=cache) as s,
    ):
        await s.server.check_recursion(2.0)
        assert s.server.recursion.found
        reply, took = await s.ask("web.shop")
        assert reply.answer[-1][0].address == "10.96.0.10"
        reply, took = await s.ask("pkg.go.dev")
        assert reply.answer[-1][0].address == "192.0.2.2"
        assert took < 1
        for name in (
            "nothing.dev",
            "nothing.shop.svc.cluster.local",
            "nothing.private",
            "nothing.example.com",
        ):
            reply, took = await s.ask(name)
            assert reply.rcode() == dns.rcode.NXDOMAIN, name
            assert took < 1, (name, took)
