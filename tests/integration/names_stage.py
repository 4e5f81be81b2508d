"""The stage of the name tests: name servers that say what a table says, and network namespaces.

client (dig, getent, ...) --> DnsServer --> LookupService --> ClusterDns   the cluster's name server
                                  |
                                  +-----------------------> OutsideDns    the host's name server
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset

from inroad.daemon.dns_server import bind

SOA = "ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"
CLUSTER = {
    "web.shop.svc.cluster.local": ["A 10.96.0.10"],
    "web.default.svc.cluster.local": ["A 10.96.0.11"],
    "kubernetes.default.svc.cluster.local": ["A 10.96.0.1"],
    "both.shop.svc.cluster.local": ["A 10.96.0.12", "AAAA fd00:10:96::12"],
    "db.shop.svc.cluster.local": ["A 10.244.1.2", "A 10.244.1.3", "A 10.244.2.4"],
    "db-0.db.shop.svc.cluster.local": ["A 10.244.1.2"],
    "_sql._tcp.db.shop.svc.cluster.local": ["SRV 0 50 5432 db-0.db.shop.svc.cluster.local."],
    "ext.shop.svc.cluster.local": ["CNAME web.default.svc.cluster.local."],
    "text.shop.svc.cluster.local": ['TXT "hello" "world"', "MX 10 mail.example.com."],
    "big.shop.svc.cluster.local": [f"A 10.244.9.{i}" for i in range(1, 201)],
    "1.0.96.10.in-addr.arpa": ["PTR kubernetes.default.svc.cluster.local."],
}
OUTSIDE = {
    "example.com": ["A 192.0.2.1", "AAAA 2001:db8::1", 'TXT "outside"'],
    "pkg.go.dev": ["A 192.0.2.2"],
    "printer": ["A 192.0.2.3"],
    "shopify.dev": ["A 192.0.2.4"],
    "big.example.com": [f"A 198.51.100.{i}" for i in range(1, 201)],
    "web.dev": ["A 192.0.2.66"],
}


class TableDns(asyncio.DatagramProtocol):
    """A name server on UDP and TCP that answers from a table; authoritative for all the names there are."""

    def __init__(self, table: dict[str, list[str]], *, ttl: int = 30, soa: bool = True) -> None:
        self.table = {dns.name.from_text(name): records for name, records in table.items()}
        self.ttl = ttl
        self.soa = soa
        self.address = ("", 0)
        self.asked: list[tuple[str, str]] = []
        self.raw: list[bytes] = []
        self.delay = 0.0
        self.silent = False
        self.rcode = 0
        self.hold: asyncio.Event | None = None
        self.on_query: Callable[[dns.message.Message], None] = lambda query: None

    def set(self, name: str, *records: str) -> None:
        """Change the table; without records the name is gone."""
        if records:
            self.table[dns.name.from_text(name)] = list(records)
        else:
            self.table.pop(dns.name.from_text(name), None)

    def answer(self, data: bytes, *, tcp: bool) -> bytes:
        query = dns.message.from_wire(data)
        question = query.question[0]
        self.asked.append(
            (question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype))
        )
        self.raw.append(data)
        self.on_query(query)
        reply = dns.message.make_response(query, recursion_available=True)
        reply.set_rcode(self.rcode or self._fill(reply, question.name, question.rdtype))
        limit = 65_535 if tcp else max(512, query.payload if query.edns >= 0 else 512)
        wire = reply.to_wire(max_size=65_535)
        if len(wire) > limit:
            reply.answer, reply.authority, reply.additional = [], [], []
            reply.flags |= dns.flags.TC
            wire = reply.to_wire()
        return wire

    def _fill(self, reply: dns.message.Message, name: dns.name.Name, kind: int) -> int:
        for _ in range(8):
            records = self.table.get(name)
            if records is None:
                below = any(known.is_subdomain(name) for known in self.table)
                self._deny(reply)
                return dns.rcode.NOERROR if below and name != dns.name.root else dns.rcode.NXDOMAIN
            alias = next((r.split()[1] for r in records if r.startswith("CNAME ")), None)
            if alias is not None and kind != dns.rdatatype.CNAME:
                reply.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "CNAME", alias))
                name = dns.name.from_text(alias)
                continue
            wanted = [r.partition(" ")[2] for r in records if r.startswith(dns.rdatatype.to_text(kind) + " ")]
            if wanted:
                reply.answer.append(dns.rrset.from_text(name, self.ttl, "IN", kind, *wanted))
            else:
                self._deny(reply)
            break
        return dns.rcode.NOERROR

    def _deny(self, reply: dns.message.Message) -> None:
        if self.soa:
            reply.authority.append(dns.rrset.from_text("cluster.local.", self.ttl, "IN", "SOA", SOA))

    # ---- sockets ----

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        loop = asyncio.get_running_loop()
        udp, tcp = bind(socket.AF_INET6 if ":" in host else socket.AF_INET, (host, port))
        self.address = (host, udp.getsockname()[1])
        self._udp, _ = await loop.create_datagram_endpoint(lambda: self, sock=udp)
        self._tcp = await asyncio.start_server(self._serve_tcp, sock=tcp)
        return self.address

    def close(self) -> None:
        self._udp.close()
        self._tcp.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self.answer(data, tcp=False)
        if not self.silent:
            asyncio.get_running_loop().create_task(self._send_later(reply, addr))

    async def _send_later(self, reply: bytes, addr: tuple[str, int]) -> None:
        await self._wait()
        self.transport.sendto(reply, addr)

    async def _wait(self) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.delay:
            await asyncio.sleep(self.delay)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                reply = self.answer(await reader.readexactly(size), tcp=True)
                await self._wait()
                if not self.silent:
                    writer.write(len(reply).to_bytes(2, "big") + reply)
        writer.close()


@contextlib.asynccontextmanager
async def serving(server: TableDns, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[TableDns]:
    await server.start(host, port)
    try:
        yield server
    finally:
        server.close()
        await asyncio.sleep(0)  # the loop closes the socket in its next turn: only then is the port refused


async def run(*argv: str, timeout: float = 20) -> str:
    """Run a client to its end without blocking the servers in this process; returns its stdout."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(timeout):
        out, err = await process.communicate()
    return (out + err).decode()


async def dig(server: tuple[str, int], *words: str) -> str:
    return await run("dig", f"@{server[0]}", "-p", str(server[1]), "+tries=1", "+time=6", *words)


# ---- namespaces ----

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def sh(command: str) -> str:
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def private_network() -> Iterator[None]:
    """Put this thread, and whatever it starts, into a network namespace of its own.

    Leaving takes the thread back; the namespace vanishes with the last process and socket in it.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _check(_libc.unshare(_CLONE_NEWNET))
        sh("ip link set lo up")
        yield
    finally:
        _check(_libc.setns(home, _CLONE_NEWNET))
        os.close(home)


async def run_with_files(files: dict[str, Path], *argv: str) -> str:
    """Run a client that sees other files in the place of the host's, in a mount namespace of its own."""
    binds = " && ".join(f"mount --bind {source} $(realpath {target})" for target, source in files.items())
    return await run("unshare", "-m", "sh", "-c", f'{binds} && exec "$@"', "sh", *argv)
