"""Asking the name servers that the workstation had before, for names that are not the cluster's.

A query goes on as it came, with an id and a source port of our own, and the reply comes back as it is:
whatever client and server agree on (EDNS, DNSSEC, truncation) stays between them. Our packets carry
the mark that leads them past the VIF and past our own redirection.

Equal queries share one way: a forwarder on this host whose own queries are redirected to us would
otherwise send each of ours round and round.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inroad.core.dns_wire import HEADER, Rcode, question_end, same_question
from inroad.daemon.source_ports import bind_apart
from inroad.polling import rearm

Server = tuple[str, int]
OnReply = Callable[[bytes | None], None]
"""Gets the raw reply, or None when no server answered."""

PATIENCE = 1.5
"""Seconds until the next server is asked as well (the same one again where there is no other)."""
ATTEMPTS = 3
SOCKETS = 4
"""Sockets, and so source ports, per server; each is replaced after `SOCKET_QUERIES` queries."""
SOCKET_QUERIES = 512
MAX_PENDING = 4_096
SO_MARK = 36
"""Linux, asm-generic/socket.h; Python's `socket` names it on Linux only."""
_TRY_NEXT = frozenset({Rcode.SERVFAIL, Rcode.NOTIMP, Rcode.REFUSED})
_random = random.SystemRandom()


def marked_socket(server: Server, kind: socket.SocketKind, mark: int) -> tuple[socket.socket, Any]:
    """Make a non-blocking socket towards `server` with our mark; returns it and the address to use."""
    family, _, _, _, address = socket.getaddrinfo(
        server[0], server[1], type=kind, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    )[0]
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
    return sock, address


@dataclass(slots=True)
class _Pending:
    """A query on its way, and who waits for it under which id.

    `attempts`: the (channel, id) pairs under which an answer may come.
    """

    data: bytes
    question: bytes
    first: int
    waiting: list[tuple[bytes, OnReply]] = field(default_factory=list)
    tried: int = 0
    attempts: list[tuple[_Channel, int]] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None
    refused: bytes | None = None
    failed: int = 0


class _Channel:
    """A connected UDP socket: the kernel drops what does not come from its server."""

    def __init__(self, owner: Fallback, server: Server) -> None:
        self.owner = owner
        self.left = SOCKET_QUERIES
        self.waiting: dict[int, _Pending] = {}
        self.sock, address = marked_socket(server, socket.SOCK_DGRAM, owner.mark)
        if owner.mark:
            bind_apart(self.sock)
        try:
            self.sock.connect(address)
        except OSError:
            self.sock.close()
            raise
        owner.loop.add_reader(self.sock, self._readable)

    def send(self, pending: _Pending) -> None:
        """Send under a fresh random id; raises OSError."""
        ident = _random.getrandbits(16)
        while ident in self.waiting:
            ident = _random.getrandbits(16)
        self.left -= 1
        self.sock.send(ident.to_bytes(2, "big") + pending.data[2:])
        self.waiting[ident] = pending
        pending.attempts.append((self, ident))

    def _readable(self) -> None:
        for read in range(32):
            try:
                reply = self.sock.recv(65_535)
            except BlockingIOError:
                if not read:  # it was called for an error that a send has met
                    rearm(self.owner.loop, self.sock, self._readable)
                return
            except OSError:  # an ICMP error: nobody listens there, or the network is gone
                rearm(self.owner.loop, self.sock, self._readable)
                for pending in list(self.waiting.values()):
                    self.owner.attempt_failed(pending)
                return
            ident = int.from_bytes(reply[:2], "big")
            pending_reply = self.waiting.get(ident)
            if pending_reply is not None and same_question(reply, pending_reply.question, ident):
                self.owner.answered(pending_reply, reply)

    def forget(self, ident: int) -> None:
        """Nobody waits for this id any more."""
        self.waiting.pop(ident, None)
        if self.left <= 0 and not self.waiting:
            self.close()

    def close(self) -> None:
        """Close the socket; what still waits is not told."""
        if self.sock.fileno() >= 0:
            self.owner.loop.remove_reader(self.sock)
            self.sock.close()


class Fallback:
    """The name servers for all other names, in order of preference."""

    def __init__(self, servers: tuple[Server, ...], *, mark: int) -> None:
        self.servers = servers
        self.mark = mark
        self.failures = 0
        self.pending = 0
        self.joined = 0
        self._equal: dict[bytes, _Pending] = {}
        self._preferred = 0
        self._channels: dict[int, list[_Channel]] = {}
        self._streams: set[asyncio.Task[None]] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that everything here runs on."""
        return asyncio.get_running_loop()

    def forward(self, data: bytes, on_reply: OnReply, *, tcp: bool = False) -> None:
        """Pass a well-formed query on; `on_reply` gets the reply under the query's own id, once."""
        if not self.servers or self.pending >= MAX_PENDING:
            on_reply(None)
            return
        if tcp:
            task = self.loop.create_task(self._forward_tcp(data, on_reply))
            self._streams.add(task)
            task.add_done_callback(self._streams.discard)
            return
        self.pending += 1
        equal = self._equal.get(data[2:])
        if equal is not None:
            self.joined += 1
            equal.waiting.append((data[:2], on_reply))
            return
        pending = _Pending(data, data[HEADER : question_end(data)], self._preferred, [(data[:2], on_reply)])
        self._equal[data[2:]] = pending
        self._attempt(pending)

    async def ask(self, data: bytes) -> bytes | None:
        """Pass a query on and wait for its reply; None when no server answered."""
        answer: asyncio.Future[bytes | None] = self.loop.create_future()

        def settle(reply: bytes | None) -> None:
            if not answer.done():
                answer.set_result(reply)

        self.forward(data, settle)
        return await answer

    def close(self) -> None:
        """Close all sockets; queries on their way get no reply."""
        for channels in self._channels.values():
            for channel in channels:
                channel.close()
        self._channels.clear()
        for task in self._streams:
            task.cancel()

    def _attempt(self, pending: _Pending) -> None:
        """Ask the next server; after the last one, wait its time and give up."""
        while pending.tried < ATTEMPTS:
            index = (pending.first + pending.tried) % len(self.servers)
            pending.tried += 1
            try:
                self._channel(index).send(pending)
            except OSError:
                pending.failed += 1
                continue
            if pending.tried > 1:
                self._preferred = index
            break
        else:
            self._settle(pending, pending.refused)
            return
        if pending.timer is not None:
            pending.timer.cancel()
        pending.timer = self.loop.call_later(PATIENCE, self._attempt, pending)

    def _channel(self, index: int) -> _Channel:
        channels = self._channels.setdefault(index, [])
        channels[:] = [channel for channel in channels if channel.left > 0]
        if len(channels) < SOCKETS:
            channels.append(_Channel(self, self.servers[index]))
            return channels[-1]
        return _random.choice(channels)

    def attempt_failed(self, pending: _Pending) -> None:
        """A server can't be reached: ask the next one now."""
        pending.failed += 1
        if pending.tried < ATTEMPTS or pending.failed >= pending.tried:
            self._attempt(pending)

    def answered(self, pending: _Pending, reply: bytes) -> None:
        """A server replied; one that refuses or fails is passed over while there are others."""
        if reply[3] & 0xF in _TRY_NEXT and pending.tried < min(ATTEMPTS, len(self.servers)):
            pending.refused = reply
            self.attempt_failed(pending)
            return
        self._settle(pending, reply)

    def _settle(self, pending: _Pending, reply: bytes | None) -> None:
        if pending.timer is not None:
            pending.timer.cancel()
        for channel, number in pending.attempts:
            channel.forget(number)
        self._equal.pop(pending.data[2:], None)
        self.pending -= len(pending.waiting)
        self.failures += len(pending.waiting) if reply is None else 0
        for ident, on_reply in pending.waiting:
            on_reply(None if reply is None else ident + reply[2:])

    async def _forward_tcp(self, data: bytes, on_reply: OnReply) -> None:
        reply = None
        for server in self.servers[:ATTEMPTS]:
            try:
                async with asyncio.timeout(PATIENCE * 2):
                    reply = await exchange_tcp(server, data, self.mark)
                break
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                continue
        if reply is None:
            self.failures += 1
        on_reply(reply)


async def exchange_tcp(server: Server, data: bytes, mark: int) -> bytes:
    """Ask one server over TCP; raises OSError or `asyncio.IncompleteReadError`."""
    sock, address = marked_socket(server, socket.SOCK_STREAM, mark)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
        reader, writer = await asyncio.open_connection(sock=sock)
    except BaseException:
        sock.close()
        raise
    try:
        writer.write(len(data).to_bytes(2, "big") + data)
        size = int.from_bytes(await reader.readexactly(2), "big")
        reply = await reader.readexactly(size)
    finally:
        writer.close()
    if not same_question(reply, data[HEADER : question_end(data)], int.from_bytes(data[:2], "big")):
        raise ConnectionAbortedError(f"{server[0]} answered another question")
    return reply
