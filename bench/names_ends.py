"""inroad's DNS side without Kubernetes, as processes that the benchmark starts.

`far PORT CONF` answers lookups as the traffic-manager does, with the name servers of `CONF`. `near ADDRESS
PORT OWN FALLBACK` is the workstation's DNS server on OWN, linked to it; SIGUSR1 makes it print the tunnel's
round trip in microseconds. `ask SERVER COUNT NAME` asks one query after the other, `{n}` in the name being a
number, and prints the median time in microseconds. `memory COUNT` prints the MB of as many cached answers.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import socket
import statistics
import time
from pathlib import Path

import structlog
import uvloop

from bench.link_ends import until_told
from inroad import __version__
from inroad.core import dns_answer, dns_wire, messages
from inroad.core.dns_cache import DnsCache
from inroad.core.dns_policy import DnsPolicy, decide
from inroad.core.errors import TunnelFailed
from inroad.core.messages import PROTOCOL_VERSION, Hello, Lookup, LookupReply, Ticket
from inroad.daemon.dns_server import DnsServer
from inroad.daemon.peer_link import PeerLink
from inroad.manager.access import AccessRule
from inroad.manager.agents import AgentRegistry
from inroad.manager.clients import Clients, Services
from inroad.origin.dial import Dialler
from inroad.origin.lookup import LookupService
from inroad.tunnel.api import Link
from inroad.tunnel.stream import connect_stream, serve_stream

WARM_UP = 50
ROUND_TRIPS = 550


async def far(port: int, conf: str) -> None:
    """Look up for every client that connects to the port."""

    async def nobody(*_: object) -> tuple[str, str]:
        raise TunnelFailed("there are no agents here")

    rule = AccessRule(by_namespace=False, secret=b"")
    registry = AgentRegistry(nobody, lambda agents: None, rule)
    answer = LookupService(Path(conf)).answer
    services = Services(Dialler(), answer, registry, lambda request: Ticket(request.id), rule)
    clients = Clients("bench", services)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", port))
    await serve_stream([listener], clients.attach)
    await until_told()


async def near(address: str, port: int, own: str, fallback: str) -> None:
    """Answer names, over the tunnel to the far end."""

    async def no_lane() -> Link:
        raise TunnelFailed("names need no bulk lane")

    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (address, port))
    link = await connect_stream(sock)
    peer = PeerLink(link, "bench", no_lane, on_message=lambda message: None, on_closed=lambda reason: None)
    await peer.greet(Hello(PROTOCOL_VERSION, __version__, "bench"))

    async def lookup(
        query: bytes, *, namespace: str, deadline_ms: int, absolute: bool, bare: bool = True
    ) -> LookupReply:
        return await peer.lookup(Lookup(0, query, namespace, deadline_ms, absolute, bare))

    policy = DnsPolicy("bench", mapped_namespaces=("bench",))
    server = DnsServer(lookup=lookup, fallback=((fallback, 53),), policy=policy)
    await server.start([(own, 53)])
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, asked.set)
    telling = asyncio.create_task(tell_round_trip(link, asked))
    await until_told()
    telling.cancel()


async def tell_round_trip(link: Link, asked: asyncio.Event) -> None:
    """Print the median round trip of a control message, in microseconds, each time somebody asks."""
    probe = messages.encode(LookupReply(0))  # no client says that: it is answered with an objection
    answered = asyncio.Event()
    while True:
        await asked.wait()
        asked.clear()
        times, listening = [], link.on_control
        link.on_control = lambda payload: answered.set()
        for _ in range(ROUND_TRIPS):
            begun = time.perf_counter()
            link.send_control(probe)
            await answered.wait()
            answered.clear()
            times.append(time.perf_counter() - begun)
        link.on_control = listening
        print(statistics.median(times[WARM_UP:]) * 1e6, flush=True)


def ask(server: str, count: int, name: str) -> float:
    """Ask one after the other; returns the median in microseconds."""
    times = []
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect((server, 53))
        for number in range(count + WARM_UP):
            labels = name.format(n=f"{number}{secrets.token_hex(3)}").encode().split(b".")
            query = dns_wire.make_query(dns_wire.wire_of(tuple(labels)) + b"\0\1\0\1")
            begun = time.perf_counter()
            sock.send(query)
            reply = sock.recv(4096)
            times.append(time.perf_counter() - begun)
            if reply[3] & 0xF:
                raise SystemExit(f"{server} answered rcode {reply[3] & 0xF} for {name}")
    return statistics.median(times[WARM_UP:]) * 1e6


def resident() -> float:
    """Return this process's resident memory in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory(count: int) -> float:
    """Fill a cache with answers as a cluster's are; returns the MB that it takes."""
    cache, policy = DnsCache(capacity=count), DnsPolicy("bench", mapped_namespaces=("bench",))
    before = resident()
    for number in range(count):
        name = (b"service-%d" % number, b"bench", b"svc", b"cluster", b"local")
        question = dns_wire.wire_of(name) + b"\0\1\0\1"
        query = dns_wire.parse_query(dns_wire.make_query(question))
        answer = dns_answer.of_records(dns_wire.Type.A, (number.to_bytes(4, "big"),))
        services = frozenset((f"service-{number}.bench",))
        cache.store(query.key, answer, decide(policy, query.name, query.type), services, 0.0, 0.0)
    return resident() - before


def main() -> None:
    """Run what the arguments say."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["far", "near", "ask", "memory"])
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()
    match options.what, options.arguments:
        case "far", [port, conf]:
            uvloop.run(far(int(port), conf))
        case "near", [address, port, own, fallback]:
            uvloop.run(near(address, int(port), own, fallback))
        case "ask", [server, count, name]:
            print(ask(server, int(count), name))
        case "memory", [count]:
            print(memory(int(count)))
        case _:
            parser.error("wrong arguments")
    os._exit(0) if options.what in ("far", "near") else None


if __name__ == "__main__":
    main()
