"""A mesh that lives inside its pod: names have loopback addresses, and a proxy listens there.

`python -m inroad.sandbox.workloads.local_mesh NAMESERVER NAME=ADDRESS:PORT=UPSTREAM:PORT ...` answers for
NAME with ADDRESS (of 127.0.0.0/8) on 127.0.0.1:53, asks NAMESERVER about all others, and passes connections
to ADDRESS:PORT on to UPSTREAM. The pod needs a `dnsPolicy` None with the name server 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from ipaddress import IPv4Address, ip_address

from inroad.sandbox import dns_server
from inroad.sandbox import dns_wire as dns
from inroad.sandbox.dns_forward import exchange
from inroad.sandbox.workloads.gateway import copy

TTL = 5


class Names:
    """Answers packets: the mesh's own names, and what another server says about the rest."""

    def __init__(self, addresses: dict[str, IPv4Address], server: str) -> None:
        self._addresses = addresses
        self._server = server

    def respond(self, packet: bytes, tcp: bool) -> bytes | None:
        """Return the answer to a packet."""
        with contextlib.suppress(dns.Malformed):
            query = dns.parse_query(packet)
            if query is not None and dns.text_of(query.name) in self._addresses:
                return dns_server.answering(self._resolve)(packet, tcp)
        return exchange(packet, (self._server, 53), tcp=tcp)

    def _resolve(self, query: dns.Query) -> dns.Answer:
        address = self._addresses[dns.text_of(query.name)]
        return dns.Answer(answer=[dns.a(query.name, TTL, address)] if query.kind == dns.A else [])


async def forward(
    upstream: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Pass one connection on."""
    with contextlib.closing(writer), contextlib.suppress(OSError):
        far_reader, far_writer = await asyncio.open_connection(*upstream)
        with contextlib.closing(far_writer):
            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))


async def main(server: str, words: list[str]) -> None:
    """Serve for ever."""
    addresses = {}
    for word in words:
        name, at, to = word.split("=")
        (address, _, port), (host, _, far_port) = at.partition(":"), to.rpartition(":")
        addresses[name] = IPv4Address(address)
        handle = functools.partial(forward, (host, int(far_port)))
        await asyncio.start_server(handle, host=str(ip_address(address)), port=int(port))
    dns_server.listen(["127.0.0.1"], dns_server.Concurrent(Names(addresses, server).respond))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
