"""A DNS server's sockets: UDP and TCP on port 53, one thread each, around a function that answers.

Threads and blocking calls, because this is the whole of an otherwise empty process and starts at once.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from inroad.sandbox import dns_wire as dns

Resolve = Callable[[dns.Query], dns.Answer]
TCP_IDLE = 10.0
"""Seconds after which a silent TCP client is cut off."""


def reply(packet: bytes, resolve: Resolve, *, tcp: bool) -> bytes | None:
    """Return the answer to a request packet, or None where silence is right."""
    try:
        query = dns.parse_query(packet)
    except dns.Malformed:
        return dns.error(packet, dns.FORMERR)
    if query is None:
        return None
    if query.opcode != 0:
        return dns.error(packet, dns.NOTIMP)
    limit = 65535 if tcp else min(query.size, dns.EDNS_SIZE)
    return dns.build(query, resolve(query), limit=limit)


def serve(resolve: Resolve, *, port: int = 53) -> list[threading.Thread]:
    """Answer on all addresses of both families; return the (daemon) threads, which never end."""
    threads = []
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            udp = _bind(family, socket.SOCK_DGRAM, address, port)
        except OSError:
            continue  # a host without IPv6
        tcp = _bind(family, socket.SOCK_STREAM, address, port)
        tcp.listen(64)
        threads.append(threading.Thread(target=_udp, args=(udp, resolve), daemon=True))
        threads.append(threading.Thread(target=_tcp, args=(tcp, resolve), daemon=True))
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


def _udp(sock: socket.socket, resolve: Resolve) -> None:
    while True:
        with contextlib.suppress(OSError):  # an ICMP error of an earlier answer
            packet, client = sock.recvfrom(65535)
            answer = reply(packet, resolve, tcp=False)
            if answer is not None:
                sock.sendto(answer, client)


def _tcp(listener: socket.socket, resolve: Resolve) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_conversation, args=(connection, resolve), daemon=True).start()


def _conversation(connection: socket.socket, resolve: Resolve) -> None:
    connection.settimeout(TCP_IDLE)
    with connection, contextlib.suppress(OSError, struct.error), connection.makefile("rb") as stream:
        while True:
            (length,) = struct.unpack("!H", stream.read(2))
            packet = stream.read(length)
            if len(packet) < length:
                return
            answer = reply(packet, resolve, tcp=True)
            if answer is not None:
                connection.sendall(struct.pack("!H", len(answer)) + answer)
