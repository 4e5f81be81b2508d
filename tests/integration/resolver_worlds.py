"""Workstations for the resolver tests: each with its way of looking names up, one interface for all.

programs --> the workstation's own way --+--> 10.99.0.53  the name server that it had before
                                         +--> 10.99.0.1   our DNS server --> the cluster's, or 10.99.0.53
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

import dns.asyncquery
import dns.exception
import dns.message
import dns.rdatatype
from tests.integration.names_stage import CLUSTER, OUTSIDE, TableDns, run_with_files, serving, sh
from tests.integration.resolved_stage import ResolvedHost, resolved_host

from inroad.core import resolv_conf
from inroad.core.dns_policy import DnsPolicy
from inroad.core.host_config import FWMARK, ResolverConfig
from inroad.core.messages import Lookup, LookupReply
from inroad.daemon.dns_server import DnsServer
from inroad.host.journal import Journal
from inroad.host.resolver import choose, iptables, macos, windows
from inroad.host.resolver.api import Resolver
from inroad.host.resolver.choose import open_resolver
from inroad.host.resolver.iptables import IptablesRedirect
from inroad.host.resolver.macos import MacosResolver
from inroad.host.resolver.nft import NftRedirect
from inroad.host.resolver.overriding import OverridingResolver
from inroad.host.resolver.places import Places
from inroad.host.resolver.windows import WindowsResolver
from inroad.origin.lookup import LookupService

BEFORE = "10.99.0.53"
AFTER = "10.99.0.54"
OURS = "10.99.0.1"


class World(Protocol):
    """A workstation."""

    resolver: Resolver

    async def lookup(self, name: str) -> list[str]:
        """Look a name up as a program does."""

    async def settings(self) -> str:
        """Everything about names that we could have changed."""

    async def crash(self) -> None:
        """The daemon is killed, is started again, and has not cleaned up yet."""

    async def move(self, server: str, search: str) -> None:
        """Another network: the workstation has another name server and search domain of its own."""


async def ask(server: str, name: str, port: int = 53) -> list[str]:
    """Ask one server for the addresses of a name."""
    query = dns.message.make_query(name, "A")
    try:
        reply = await dns.asyncquery.udp(query, server, port=port, timeout=3)
    except dns.exception.Timeout:
        return []
    return [item.address for rrset in reply.answer if rrset.rdtype == dns.rdatatype.A for item in rrset]


class Overriding:
    """A Linux host whose C library asks the server of resolv.conf."""

    def __init__(self, here: Path, tool: str) -> None:
        self.tool = tool
        self.conf = here / "resolv.conf"
        self.conf.write_text(f"nameserver {BEFORE}\n")
        self.journal_path = here / "journal.json"
        self.resolver = self._open()

    def _open(self) -> OverridingResolver:
        self.redirect = NftRedirect() if self.tool == "nft" else IptablesRedirect(Journal(self.journal_path))
        return OverridingResolver(self.redirect, Places(self.conf), reason="test", mark=FWMARK)

    async def lookup(self, name: str) -> list[str]:
        said = await run_with_files({"/etc/resolv.conf": self.conf}, "getent", "ahostsv4", name)
        return list(dict.fromkeys(line.split()[0] for line in said.splitlines()))

    async def move(self, server: str, search: str) -> None:
        fresh = self.conf.with_suffix(".new")
        fresh.write_text(f"nameserver {server}\nsearch {search}\n")
        fresh.rename(self.conf)

    async def settings(self) -> str:
        return sh("nft list ruleset; iptables-save -t nat | grep -v '^[#:]' || true") + self.conf.read_text()

    async def crash(self) -> None:
        if isinstance(self.redirect, NftRedirect):
            child = self.redirect._child
            assert child is not None
            self.redirect.on_lost = lambda: None  # the daemon is dead too: nobody heals
            child.kill()
            await child.wait()
        self.resolver = self._open()
        for entry in Journal(self.journal_path).pending():
            assert entry.kind == iptables.KIND
            await choose.undo(entry)


class Resolved:
    """A Linux host with systemd-resolved."""

    def __init__(self, host: ResolvedHost, here: Path) -> None:
        self.host = host
        self.journal = Journal(here / "journal.json")
        self.resolver: Resolver

    async def open(self) -> None:
        self.resolver = await open_resolver(
            self.journal,
            interface="inroad0",
            places=self.host.places,
            resolve=self.host.getent,
        )

    async def lookup(self, name: str) -> list[str]:
        return await self.host.getent(name)

    async def move(self, server: str, search: str) -> None:
        await self.host.ctl("dns", "up0", server)
        await self.host.ctl("domain", "up0", search, "~only.routed")
        await self.host.ctl("default-route", "up0", "true")

    async def settings(self) -> str:
        status = await self.host.ctl("status", "inroad0")
        return re.sub(r"Link \d+", "Link", status) + sh("nft list ruleset")

    async def crash(self) -> None:
        """The VIF goes with the daemon, and everything on its link with it."""
        self.resolver._bus.close()  # type: ignore[attr-defined]
        sh("ip link del inroad0")
        make_vif()
        await self.open()


class Macos:
    """A Mac, as far as resolver(5) describes it: the file whose domain fits best says whom to ask."""

    def __init__(self, here: Path) -> None:
        self.directory = here / "resolver"
        self.directory.mkdir()
        (self.directory / "corp.example").write_text("nameserver 192.0.2.200\n")
        self.conf = here / "resolv.conf"
        self.conf.write_text(f"nameserver {BEFORE}\n")
        self.journal_path = here / "journal.json"
        self.resolver = self._open()

    def _open(self) -> MacosResolver:
        places = Places(self.conf, macos_directory=self.directory)
        return MacosResolver(Journal(self.journal_path), places, reason="test")

    def files(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in sorted(self.directory.iterdir())}

    async def lookup(self, name: str) -> list[str]:
        names = [name]
        own = resolv_conf.parse(self.conf.read_text()).servers[0]
        best, server = 0, own
        for file, text in self.files().items():
            words = dict(line.split(maxsplit=1) for line in text.splitlines() if not line.startswith("#"))
            if "." not in name:
                names = [*(f"{name}.{domain}" for domain in words.get("search", "").split()), *names]
            domain = words.get("domain", file)
            for candidate in names:
                if (candidate == domain or candidate.endswith(f".{domain}")) and len(domain) > best:
                    best, server = len(domain), (words["nameserver"], int(words.get("port", 53)))
        for candidate in names:
            if found := await ask(server[0], candidate, server[1]):
                return found
        return []

    async def move(self, server: str, search: str) -> None:
        self.conf.write_text(f"nameserver {server}\nsearch {search}\n")

    async def settings(self) -> str:
        return "".join(f"--- {name}\n{text}" for name, text in self.files().items())

    async def crash(self) -> None:
        self.resolver = self._open()
        for entry in Journal(self.journal_path).pending():
            assert entry.kind == macos.KIND
            await choose.undo(entry)
        assert self.files().keys() == {"corp.example"}


class FakeWindows:
    """The DNS settings of a Windows host; every call is written down as text."""

    def __init__(self) -> None:
        self.interfaces: dict[str, tuple[tuple[str, ...], str]] = {"Ethernet": ((BEFORE,), "lan.example")}
        self.search: tuple[str, ...] = ("corp.example", "lan.example")
        self.calls: list[str] = []

    def set_interface(self, alias: str, servers: tuple[str, ...], domain: str) -> None:
        listed = ",".join(servers)
        self.calls.append(f"SetInterfaceDnsSettings({alias!r}, NameServer={listed!r}, Domain={domain!r})")
        # The VIF's metric is the lowest: it is asked first.
        self.interfaces = {alias: (servers, domain)} | self.interfaces | {alias: (servers, domain)}

    def search_list(self) -> tuple[str, ...]:
        return self.search

    def set_search_list(self, domains: tuple[str, ...]) -> None:
        self.calls.append(f"SetDnsSettings(SearchList={','.join(domains)!r})")
        self.search = domains

    def servers(self, without: str) -> tuple[str, ...]:
        return tuple(
            s for alias, (servers, _) in self.interfaces.items() if alias != without for s in servers
        )

    def __str__(self) -> str:
        lines = [
            f"{alias}: {servers} {domain}" for alias, (servers, domain) in self.interfaces.items() if servers
        ]
        return "\n".join([*lines, f"search {self.search}"])


class Windows:
    """A Windows host: all interfaces' servers are asked, and an answer beats a denial."""

    def __init__(self, here: Path) -> None:
        self.os = FakeWindows()
        self.journal_path = here / "journal.json"
        self.resolver = self._open()

    def _open(self) -> WindowsResolver:
        return WindowsResolver(Journal(self.journal_path), self.os, reason="test", interface="inroad0")

    async def lookup(self, name: str) -> list[str]:
        names = [name] if "." in name else [f"{name}.{domain}" for domain in self.os.search]
        for candidate in names:
            for server in [s for servers, _ in self.os.interfaces.values() for s in servers]:
                if found := await ask(server, candidate):
                    return found
        return []

    async def move(self, server: str, search: str) -> None:
        self.os.interfaces["Ethernet"] = ((server,), search)
        self.os.search = (*self.os.search, search)

    async def settings(self) -> str:
        return str(self.os)

    async def crash(self) -> None:
        self.os.interfaces.pop("inroad0", None)  # it was the daemon's
        self.resolver = self._open()
        for entry in Journal(self.journal_path).pending():
            assert entry.kind == windows.KIND
            await windows.undo(entry, self.os)


def make_vif() -> None:
    sh(
        "ip link add inroad0 type veth peer name inroad1 && ip link set inroad1 up && ip link set inroad0 up"
        f" && ip addr add {OURS}/32 dev inroad0"
    )


@contextlib.asynccontextmanager
async def world(kind: str, here: Path) -> AsyncIterator[World]:
    """Make a workstation of this kind in the network namespace that the caller is in."""
    match kind:
        case "systemd-resolved":
            async with resolved_host(here, f"DNS={BEFORE}\\nLLMNR=no\\nMulticastDNS=no\\n") as host:
                resolved = Resolved(host, here)
                await resolved.open()
                yield resolved
                await resolved.resolver.close()
            return
        case "macos":
            made: World = Macos(here)
        case "windows":
            made = Windows(here)
        case tool:
            made = Overriding(here, tool)
    yield made
    await made.resolver.close()


def network() -> None:
    """Give the namespace an uplink, the VIF, and the address of the server that it had before."""
    sh(f"ip addr add {BEFORE}/32 dev lo")
    sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up")
    sh("ip addr add 10.99.1.2/24 dev up0 && ip route add default via 10.99.1.1")
    make_vif()


class Names:
    """Our DNS server with both name servers behind it."""

    def __init__(self, server: DnsServer, cluster: TableDns, outside: TableDns) -> None:
        self.server = server
        self.cluster = cluster
        self.outside = outside

    def policy(
        self, *namespaces: str, include: tuple[str, ...] = ("private",), attached: tuple[str, ...] = ()
    ) -> DnsPolicy:
        return DnsPolicy("shop", attached, mapped_namespaces=namespaces, include_suffixes=include)

    def wanted(self, policy: DnsPolicy) -> ResolverConfig:
        routed = (*policy.mapped_namespaces, *policy.include_suffixes, "svc", "cluster.local")
        return ResolverConfig(
            server=(ip_address(OURS), 53),
            interface="inroad0",
            search=(policy.namespace, *policy.attached),
            routed=routed,
        )


@contextlib.asynccontextmanager
async def names(here: Path, fallback: tuple[tuple[str, int], ...]) -> AsyncIterator[Names]:
    """Serve names on 10.99.0.1, with the cluster's and the outside's name servers behind it."""
    table = CLUSTER | {"web.dev.svc.cluster.local": ["A 10.96.0.20"], "db.private": ["A 10.9.9.9"]}
    outside = TableDns(OUTSIDE | {"db.private": ["A 192.0.2.9"]}, soa=False)
    async with serving(TableDns(table), "127.0.0.1", 5353) as cluster, serving(outside, BEFORE, 53):
        pod = here / "pod.conf"
        pod.write_text(
            "search inroad.svc.cluster.local svc.cluster.local cluster.local\n"
            "nameserver [127.0.0.1]:5353\noptions ndots:5\n"
        )
        service = LookupService(pod)

        async def lookup(
            query: bytes, *, namespace: str, deadline_ms: int, absolute: bool, bare: bool = True
        ) -> LookupReply:
            return await service.answer(Lookup(1, query, namespace, deadline_ms, absolute, bare))

        policy = DnsPolicy(namespace="shop", mapped_namespaces=("shop",), include_suffixes=("private",))
        server = DnsServer(lookup=lookup, fallback=fallback, mark=FWMARK, policy=policy)
        await server.start([(OURS, 53)])
        try:
            yield Names(server, cluster, outside)
        finally:
            await server.close()
            service.close()
            await asyncio.sleep(0)
