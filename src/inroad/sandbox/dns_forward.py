"""Sending DNS queries on to another server, and what forwarders do to them: folding and remembering."""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable

from inroad.sandbox import dns_wire as dns

Server = tuple[str, int]
TIMEOUT = 2.0
"""Seconds for one try; CoreDNS's read timeout."""
TRIES = 2
LARGEST_CACHE = 10_000


def exchange(packet: bytes, server: Server, *, tcp: bool) -> bytes | None:
    """Send a query and return the answer with the query's own id; None when none comes."""
    ident = secrets.token_bytes(2)
    for _ in range(TRIES):
        with contextlib.suppress(OSError, struct.error):
            ask = _over_tcp if tcp else _over_udp
            answer = ask(ident + packet[2:], server)
            return packet[:2] + answer[2:]
    return None


def _over_udp(packet: bytes, server: Server) -> bytes:
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(server)
        deadline = time.monotonic() + TIMEOUT
        sock.send(packet)
        while True:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            answer = sock.recv(65535)
            if answer[:2] == packet[:2] and len(answer) >= 12:
                return answer


def _over_tcp(packet: bytes, server: Server) -> bytes:
    with socket.create_connection(server, TIMEOUT) as sock, sock.makefile("rb") as stream:
        sock.sendall(struct.pack("!H", len(packet)) + packet)
        (length,) = struct.unpack("!H", stream.read(2))
        answer = stream.read(length)
        if len(answer) < max(length, 12):
            raise OSError("the answer was cut short")
        return answer


def fold(packet: bytes) -> bytes:
    """Return a query with its name in lower case."""
    _, end = dns.read_name(packet, 12)
    return packet[:12] + packet[12:end].lower() + packet[end:]


def restore(packet: bytes, question: bytes) -> bytes:
    """Return an answer whose question is, letter for letter, the one of the query `question`."""
    _, end = dns.read_name(question, 12)
    return packet[:12] + question[12:end] + packet[end:]


class Forwarder:
    """Forwards to one server. `folding`: names in lower case. `keep`: seconds to remember answers."""

    def __init__(
        self, server: Server, *, folding: bool, keep: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._server = server
        self._folding = folding
        self._keep = keep
        self._now = now
        self._cache: dict[tuple[bytes, bool], tuple[float, bytes]] = {}
        self._lock = threading.Lock()

    def ask(self, packet: bytes, tcp: bool) -> bytes | None:
        """Return the answer to a query, from memory or from the server; None when none comes."""
        key = (fold(packet)[2:], tcp)
        with self._lock:
            until, answer = self._cache.get(key, (0.0, b""))
        if until > self._now():
            return packet[:2] + restore(answer, packet)[2:]
        sent = fold(packet) if self._folding else packet
        found = exchange(sent, self._server, tcp=tcp)
        if found is None:
            return None
        if self._keep and found[3] & 15 in (dns.NOERROR, dns.NXDOMAIN) and not found[2] & 2:
            with self._lock:
                if len(self._cache) >= LARGEST_CACHE:
                    self._cache.clear()
                self._cache[key] = (self._now() + self._keep, found)
        return restore(found, packet)
