"""The name servers of this pod, asked with messages as they are: UDP first, TCP where it was too long.

Replies are believed only when they come from the server that was asked (connected sockets), with the id
and the question of a query that is on its way. Ids and source ports are random.
"""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any

from inroad.core.dns_wire import HEADER, TC, Malformed, question_end, same_question
from inroad.core.resolv_conf import Server
from inroad.polling import rearm

SOCKETS = 8
SOCKET_QUERIES = 1_024
SERVER_PATIENCE = 1.0
"""Seconds that one server gets before the next one is asked as well."""
RESEND = 0.5
"""Seconds until a query is sent again for the first time."""
CLOCK = 0.005
"""Seconds that a timer may come too early: event loops count milliseconds."""
_random = random.SystemRandom()


class NoAnswer(OSError):
    """No name server answered in time; the message says which were asked."""


def resolve_address(server: Server, kind: socket.SocketKind) -> tuple[socket.AddressFamily, Any]:
    """Turn a server into an address family and a socket address."""
    family, _, _, _, address = socket.getaddrinfo(
        server[0], server[1], type=kind, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    )[0]
    return family, address


class _Port:
    """A connected UDP socket with many queries on it."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.left = SOCKET_QUERIES
        self.waiting: dict[int, tuple[bytes, asyncio.Future[bytes]]] = {}
        self._loop = loop
        family, address = resolve_address(server, socket.SOCK_DGRAM)
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        try:
            self._sock.connect(address)
        except OSError:
            self._sock.close()
            raise
        loop.add_reader(self._sock, self._readable)

    def send(self, query: bytes, question: bytes, reply: asyncio.Future[bytes]) -> int:
        """Send under a random id, which is returned; raises OSError."""
        ident = _random.getrandbits(16)
        while ident in self.waiting:
            ident = _random.getrandbits(16)
        self.left -= 1
        self._sock.send(ident.to_bytes(2, "big") + query[2:])
        self.waiting[ident] = (question, reply)
        return ident

    def _readable(self) -> None:
        for read in range(32):
            try:
                data = self._sock.recv(65_535)
            except BlockingIOError:
                if not read:  # it was called for an error that a send has met
                    rearm(self._loop, self._sock, self._readable)
                return
            except OSError as error:  # an ICMP error: that server is not there
                rearm(self._loop, self._sock, self._readable)
                for _, reply in list(self.waiting.values()):
                    if not reply.done():
                        reply.set_exception(error)
                return
            ident = int.from_bytes(data[:2], "big")
            waiting = self.waiting.get(ident)
            if waiting is not None and not waiting[1].done() and same_question(data, waiting[0], ident):
                waiting[1].set_result(data)

    def forget(self, ident: int) -> None:
        """Nobody waits for this id any more."""
        self.waiting.pop(ident, None)
        if self.left <= 0 and not self.waiting:
            self.close()

    def close(self) -> None:
        """Close the socket."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()


class Upstream:
    """The pod's name servers, in the order of its resolv.conf."""

    def __init__(self, servers: tuple[Server, ...]) -> None:
        self.servers = servers
        self._ports: dict[Server, list[_Port]] = {}

    async def ask(self, query: bytes, timeout: float) -> bytes:
        """Return the reply to `query` from the first server that answers within `timeout` seconds.

        The reply carries the query's id. Servers that are silent or not there are passed over. Raises
        `NoAnswer`.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        problems = []
        for position, server in enumerate(self.servers):
            last = position == len(self.servers) - 1
            share = end - loop.time()
            share = share if last else min(share, SERVER_PATIENCE, share / 2)
            if share <= 0:
                break
            try:
                return await self._ask_one(server, query, share)
            except TimeoutError:
                problems.append(f"{server[0]} was silent for {share:.1f} s")
            except (OSError, Malformed, asyncio.IncompleteReadError) as error:
                problems.append(f"{server[0]}: {error}")
        raise NoAnswer("; ".join(problems) or "this pod has no name server")

    async def _ask_one(self, server: Server, query: bytes, share: float) -> bytes:
        end = asyncio.get_running_loop().time() + share
        reply = await self._ask_udp(server, query, share)
        if reply[2] & (TC >> 8):
            async with asyncio.timeout_at(end):
                reply = await ask_tcp(server, query)
        return query[:2] + reply[2:]

    async def _ask_udp(self, server: Server, query: bytes, share: float) -> bytes:
        """Ask until there is an answer, each time after twice the wait: datagrams may be lost.

        Plain timers: a lookup is too short for tasks and time-outs of its own. Raises `TimeoutError`.
        """
        loop = asyncio.get_running_loop()
        port = self._port(server)
        question = query[HEADER : question_end(query)]
        reply: asyncio.Future[bytes] = loop.create_future()
        idents: list[int] = []
        timer: asyncio.TimerHandle | None = None
        end = loop.time() + share

        def send(wait: float) -> None:
            nonlocal timer
            idents.append(port.send(query, question, reply))
            timer = loop.call_later(min(wait, end - loop.time()), again, wait * 2)

        def again(wait: float) -> None:
            if reply.done():
                return
            try:
                if end - loop.time() <= CLOCK:
                    raise TimeoutError
                send(wait)
            except OSError as error:
                reply.set_exception(error)

        try:
            send(RESEND)
            return await reply
        finally:
            if timer is not None:
                timer.cancel()
            for ident in idents:
                port.forget(ident)

    def _port(self, server: Server) -> _Port:
        ports = self._ports.setdefault(server, [])
        ports[:] = [port for port in ports if port.left > 0]
        if len(ports) < SOCKETS:
            ports.append(_Port(server, asyncio.get_running_loop()))
            return ports[-1]
        return _random.choice(ports)

    def close(self) -> None:
        """Close all sockets."""
        for ports in self._ports.values():
            for port in ports:
                port.close()
        self._ports.clear()


async def ask_tcp(server: Server, query: bytes) -> bytes:
    """Ask one server over TCP; raises OSError or `asyncio.IncompleteReadError`."""
    reader, writer = await asyncio.open_connection(server[0], server[1])
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        size = int.from_bytes(await reader.readexactly(2), "big")
        reply = await reader.readexactly(size)
    finally:
        writer.close()
    if not same_question(reply, query[HEADER : question_end(query)], int.from_bytes(query[:2], "big")):
        raise ConnectionAbortedError("the answer is to another question")
    return reply
