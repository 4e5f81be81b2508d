"""A DNS server's sockets: UDP and TCP on port 53, one thread each, around a function that answers.

Threads and blocking calls, because this is the whole of an otherwise empty process and starts at once.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterable

from inroad.sandbox import dns_wire as dns

Resolve = Callable[[dns.Query], dns.Answer]
Respond = Callable[[bytes, bool], bytes | None]
"""(request packet, came by TCP) to the answer packet, or None where silence is right."""
Everywhere = ("0.0.0.0", "::")
TCP_IDLE = 10.0
"""Seconds after which a silent TCP client is cut off."""
WORKERS = 32


def answering(resolve: Resolve) -> Respond:
    """Return the function from packets to packets around one from questions to answers."""

    def respond(packet: bytes, tcp: bool) -> bytes | None:
        try:
            query = dns.parse_query(packet)
        except dns.Malformed:
            return dns.error(packet, dns.FORMERR)
        if query is None:
            return None
        if query.opcode != 0:
            return dns.error(packet, dns.NOTIMP)
        limit = 65535 if tcp else min(query.size, dns.EDNS_SIZE)
        if query.version > 0:
            return dns.build(query, dns.Answer(dns.BADVERS, authoritative=False), limit=limit)
        return dns.build(query, resolve(query), limit=limit)

    return respond


class Concurrent:
    """Marks a function that may take long: UDP requests are then answered by several threads."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond


def serve(resolve: Resolve) -> list[threading.Thread]:
    """Answer questions on all addresses of both families; return the (daemon) threads, which never end."""
    return listen(Everywhere, answering(resolve))


def listen(
    addresses: Iterable[str], respond: Respond | Concurrent, *, port: int = 53
) -> list[threading.Thread]:
    """Answer packets on these addresses; return the (daemon) threads, which never end."""
    threads = []
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            udp = _bind(family, socket.SOCK_DGRAM, address, port)
        except OSError:
            if address in Everywhere:
                continue  # a host without IPv6
            raise
        tcp = _bind(family, socket.SOCK_STREAM, address, port)
        tcp.listen(64)
        plain = respond.respond if isinstance(respond, Concurrent) else respond
        threads.append(threading.Thread(target=_udp, args=(udp, respond), daemon=True))
        threads.append(threading.Thread(target=_tcp, args=(tcp, plain), daemon=True))
    for thread in threads:
        thread.start()
    return threads


def _bind(family: int, kind: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, kind)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    return sock


def _udp(sock: socket.socket, respond: Respond | Concurrent) -> None:
    if isinstance(respond, Concurrent):
        waiting: queue.SimpleQueue[tuple[bytes, tuple[str, int]]] = queue.SimpleQueue()
        for _ in range(WORKERS):
            threading.Thread(target=_work, args=(sock, waiting, respond.respond), daemon=True).start()
        while True:
            with contextlib.suppress(OSError):
                waiting.put(sock.recvfrom(65535))
    while True:
        with contextlib.suppress(OSError):  # an ICMP error of an earlier answer
            packet, client = sock.recvfrom(65535)
            answer = respond(packet, False)
            if answer is not None:
                sock.sendto(answer, client)


def _work(
    sock: socket.socket, waiting: queue.SimpleQueue[tuple[bytes, tuple[str, int]]], respond: Respond
) -> None:
    while True:
        packet, client = waiting.get()
        with contextlib.suppress(OSError, IndexError, dns.Malformed):  # of an upstream server's answer
            answer = respond(packet, False)
            if answer is not None:
                sock.sendto(answer, client)


def _tcp(listener: socket.socket, respond: Respond) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_conversation, args=(connection, respond), daemon=True).start()


def _conversation(connection: socket.socket, respond: Respond) -> None:
    connection.settimeout(TCP_IDLE)
    with connection, contextlib.suppress(OSError, struct.error), connection.makefile("rb") as stream:
        while True:
            (length,) = struct.unpack("!H", stream.read(2))
            packet = stream.read(length)
            if len(packet) < length:
                return
            answer = respond(packet, True)
            if answer is not None:
                connection.sendall(struct.pack("!H", len(answer)) + answer)
