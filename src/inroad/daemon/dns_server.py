"""The DNS server of the workstation: cache, rules, cluster, fallback, in that order.

Every query is answered from the cache if it can be; else the rules (`core/dns_policy`) say who knows:
the cluster (one lookup in flight for a name and type, whoever asks), the name servers that the
workstation had before, or nobody but us. A flush never disturbs lookups in flight: whoever waits for
one is answered, and what it found is not stored.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Protocol

import structlog

from inroad.core import dns_answer, dns_wire
from inroad.core.dns_answer import Answer
from inroad.core.dns_cache import DnsCache, Entry
from inroad.core.dns_policy import Action, Decision, DnsPolicy, decide, services_of
from inroad.core.dns_wire import Malformed, Query, Rcode, Type
from inroad.core.errors import HostChangeFailed, InroadError
from inroad.core.messages import LookupReply
from inroad.daemon.dns_fallback import Fallback, Server
from inroad.daemon.dns_listener import Client, Listener, TcpClient, listen_udp

MAX_ALIASES = 8
MAX_FLIGHTS = 4_096
STALE_PATIENCE = 1.8
"""Seconds that somebody waits for the cluster when an expired answer is at hand (RFC 8767, 5)."""
GRACE = 0.5
"""Seconds beyond the cluster side's deadline until its silence is a failure."""

log = structlog.get_logger()


class AskCluster(Protocol):
    """A lookup by the cluster side."""

    async def __call__(
        self, query: bytes, *, namespace: str, deadline_ms: int, absolute: bool
    ) -> LookupReply:
        """Ask; raises `InroadError`, `OSError` or `TimeoutError` when there is no answer."""


class CannotAnswer(InroadError):
    """The cluster side could not look the name up; `rcode` is what its name server said, if it did."""

    code = "no-answer"

    def __init__(self, message: str, rcode: int = Rcode.SERVFAIL) -> None:
        super().__init__(message)
        self.rcode = rcode


@dataclass(slots=True)
class Flight:
    """One lookup under way and everybody who waits for it."""

    query: Query
    decision: Decision
    generation: int
    asked: float
    waiters: list[tuple[Query, Client]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    impatience: asyncio.TimerHandle | None = None


class DnsServer:
    """Answers the workstation's queries. Use it from one event loop; `start` first."""

    def __init__(
        self,
        *,
        lookup: AskCluster,
        fallback: tuple[Server, ...] = (),
        mark: int = 0,
        policy: DnsPolicy,
        capacity: int = 20_000,
    ) -> None:
        policy.check()
        self.policy = policy
        self.addresses: list[Server] = []
        self._lookup = lookup
        self._mark = mark
        self._servers = fallback
        self._fallback = Fallback(fallback, mark=mark)
        self._cache = DnsCache(capacity)
        self._flights: dict[bytes, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._udp: list[Listener] = []
        self._tcp: list[asyncio.Server] = []
        self._connections: set[TcpClient] = set()
        self._hits: dict[str, list[int]] = {}
        self._counts: Counter[str] = Counter()
        self._away_until = 0.0

    # ---- life ----

    async def start(self, addresses: Sequence[Server]) -> None:
        """Listen on UDP and TCP of each (address, port); port 0 takes any, `addresses` tells which.

        Raises `HostChangeFailed` when an address can't be had; then nothing listens.
        """
        self._loop = asyncio.get_running_loop()
        try:
            for address, port in addresses:
                await self._listen(address, port)
        except OSError as error:
            await self.close()
            why = os.strerror(error.errno or errno.EIO).lower()
            raise HostChangeFailed(
                f"the DNS server can't listen on {address} port {port}: {why}",
                f"see who does: ss -lnup 'sport = :{port}'",
            ) from None
        if not self.policy.own_addresses:
            own = tuple(ip_address(address.partition("%")[0]) for address, _ in self.addresses)
            self.policy = replace(self.policy, own_addresses=own)

    async def _listen(self, address: str, port: int) -> None:
        family, _, _, _, target = socket.getaddrinfo(
            address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )[0]
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            udp.bind(target)
            port = udp.getsockname()[1]
            tcp = await self._loop.create_server(
                lambda: TcpClient(self._handle, self._connections), address, port, reuse_address=True
            )
        except BaseException:
            udp.close()
            raise
        self._tcp.append(tcp)
        self._udp.append(listen_udp(udp, self._cache.recent, self._handle))
        self.addresses.append((address, port))

    async def close(self) -> None:
        """Stop listening and forget all lookups. Idempotent."""
        for listener in self._udp:
            listener.close()
        for server in self._tcp:
            server.close()
        for connection in list(self._connections):
            connection.close()
        self._udp, self._tcp, self.addresses = [], [], []
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._fallback.close()

    # ---- changes while it runs ----

    def configure(self, policy: DnsPolicy) -> None:
        """Use another policy from the next query on; answers that it does not touch stay cached."""
        policy.check()
        if not policy.own_addresses:
            policy = replace(policy, own_addresses=self.policy.own_addresses)
        if policy == self.policy:
            return
        self.policy = policy
        self._flights = {}
        self._cache.policy_changed()

    def set_fallback(self, servers: tuple[Server, ...]) -> None:
        """Ask these name servers for all other names; queries on their way end at the old ones."""
        if servers == self._servers:
            return
        self._servers = servers
        old, self._fallback = self._fallback, Fallback(servers, mark=self._mark)
        self._loop.call_later(10, old.close)

    def invalidate(self, services: tuple[str, ...]) -> None:
        """Answers that depend on these services (`service.namespace`) are no longer true."""
        self._cache.invalidate(services, self._loop.time())
        self._flights = {}

    def flush(self) -> None:
        """Forget all answers: they came from another cluster or another origin."""
        self._cache.flush()
        self._flights = {}

    def counters(self) -> dict[str, int]:
        """Return what became of the queries since the start; `rule.<name>` counts them by rule."""
        cache = self._cache.counters
        counts: Counter[str] = Counter(self._counts)
        for rule, hits in self._hits.items():
            counts["hits"] += hits[0]
            counts[f"rule.{rule}"] += hits[0]
        counts.update(
            misses=cache.misses,
            stale=cache.stale,
            evicted=cache.evicted,
            invalidated=cache.invalidated,
            entries=len(self._cache),
            in_flight=len(self._flights),
        )
        counts["fallback_failures"] = self._fallback.failures
        return {name: counts[name] for name in sorted(counts)}

    # ---- one query ----

    def _handle(self, data: bytes, client: Client) -> None:
        try:
            query = dns_wire.parse_query(data)
        except Malformed as problem:
            self._counts["malformed"] += 1
            if problem.rcode is None:
                client.drop()
            else:
                client.reply(dns_wire.error_reply(data, problem.rcode, recursion=bool(self._servers)))
            return
        if query.edns is not None and query.edns.version:
            client.reply(dns_wire.bad_version(query))
            return
        now = self._loop.time()
        found = self._cache.find(query.key, now, lambda: self._decide(query))
        if found is not None:
            if found.refresh and query.key not in self._flights:
                self._counts["prefetched"] += 1
                self._take_off(query, found.entry.decision, now)
            self._serve(query, found.entry, client, now)
            return
        flight = self._flights.get(query.key)
        if flight is not None:
            self._counts["joined"] += 1
            self._count(flight.decision)
            flight.waiters.append((query, client))
            return
        self._decided(query, self._decide(query), client, now)

    def _decide(self, query: Query) -> Decision:
        if query.question[-2:] != b"\0\1":
            return Decision(Action.FALLBACK, "class")
        return decide(self.policy, query.name, query.type)

    def _count(self, decision: Decision) -> None:
        self._counts[f"rule.{decision.rule}"] += 1

    def _decided(self, query: Query, decision: Decision, client: Client, now: float) -> None:
        self._count(decision)
        match decision.action:
            case Action.FALLBACK:
                self._pass_on(query, client)
            case Action.ADDRESSES | Action.POINTER:
                self._reply(query, client, local_answer(query, decision))
            case Action.CLUSTER | Action.ALIAS:
                stale = self._cache.find_stale(query.key, now, lambda: decision)
                if stale is not None and now < self._away_until:
                    self._serve_stale(query, stale, client)
                    return
                if len(self._flights) >= MAX_FLIGHTS:
                    self._counts["refused_busy"] += 1
                    self._reply(query, client, dns_answer.negative(Rcode.SERVFAIL))
                    return
                flight = self._take_off(query, decision, now)
                flight.waiters.append((query, client))
                if stale is not None:
                    flight.impatience = self._loop.call_later(STALE_PATIENCE, self._impatient, flight, stale)

    # ---- replies ----

    def _limit(self, query: Query, client: Client) -> int:
        return 65_535 if client.tcp else query.udp_limit()

    def _reply(self, query: Query, client: Client, answer: Answer) -> None:
        limit = self._limit(query, client)
        most = self._cache.wire_ttl
        client.reply(dns_answer.compose(query, answer, most=most, recursion=bool(self._servers), limit=limit))

    def _serve(self, query: Query, entry: Entry, client: Client, now: float) -> None:
        """Answer from the cache."""
        decision = entry.decision
        if entry.denied and decision.fallback and self._servers:
            self._counts["denied_hits"] += 1
            self._count(decision)
            self._pass_on(query, client, most=self._cache.wire_ttl)
            return
        hits = self._hits.setdefault(decision.rule, [0])
        hits[0] += 1
        if not entry.answer.positive:
            self._counts["negative_hits"] += 1
        limit = self._limit(query, client)
        reply = self._cache.reply(query, entry, now, recursion=bool(self._servers), limit=limit)
        client.reply(reply)
        if not client.tcp and entry.answer.positive and not entry.rotates(query.type):
            self._cache.remember(query, entry, reply, now, hits)

    def _serve_stale(self, query: Query, entry: Entry, client: Client) -> None:
        self._counts["stale_replies"] += 1
        limit = self._limit(query, client)
        client.reply(self._cache.stale_reply(query, entry, recursion=bool(self._servers), limit=limit))

    def _pass_on(self, query: Query, client: Client, *, most: int = 0) -> None:
        """Ask the fallback; `most` bounds the TTLs of what it says, 0: they are its own business."""
        if not self._servers:
            self._reply(query, client, dns_answer.negative(Rcode.REFUSED))
            return
        self._counts["fallback"] += 1

        def on_reply(reply: bytes | None) -> None:
            if reply is None:
                self._reply(query, client, dns_answer.negative(Rcode.SERVFAIL))
            else:
                client.reply(dns_answer.cap_ttls(reply, most) if most else reply)

        self._fallback.forward(query.data, on_reply, tcp=client.tcp)

    # ---- lookups by the cluster ----

    def _take_off(self, query: Query, decision: Decision, now: float) -> Flight:
        flight = Flight(query, decision, self._cache.generation, now)
        self._flights[query.key] = flight
        self._counts["lookups"] += 1
        flight.task = self._loop.create_task(self._fly(flight))
        self._tasks.add(flight.task)
        flight.task.add_done_callback(self._tasks.discard)
        return flight

    async def _fly(self, flight: Flight) -> None:
        question = flight.query.question
        try:
            answer = await self._find_out(flight.query, flight.decision, MAX_ALIASES)
        except (InroadError, OSError, TimeoutError, Malformed) as problem:
            rcode = problem.rcode if isinstance(problem, CannotAnswer) else Rcode.SERVFAIL
            log.debug("lookup failed", name=dns_wire.text_of(question), problem=str(problem))
            self._landed_badly(flight, rcode)
        else:
            self._landed(flight, answer)

    async def _find_out(self, query: Query, decision: Decision, aliases: int) -> Answer:
        """Return what the rules lead to; raises what `AskCluster` raises, `CannotAnswer`, `Malformed`."""
        match decision.action:
            case Action.CLUSTER:
                return await self._ask_cluster(query, decision)
            case Action.FALLBACK:
                reply = await self._fallback.ask(query.data)
                if reply is None:
                    raise CannotAnswer("no fallback answered")
                return dns_answer.take_apart(reply, query.question)
            case Action.ALIAS:
                if not aliases:
                    raise CannotAnswer("a chain of mappings without an end")
                question = dns_wire.wire_of(decision.target) + query.question[-4:]
                target = dns_wire.parse_query(dns_wire.make_query(question))
                found = await self._find_out(target, self._decide(target), aliases - 1)
                whole = dns_answer.compose(target, found, most=dns_answer.ANY_TTL)
                return dns_answer.take_apart(whole, query.question)
            case _:
                return local_answer(query, decision)

    async def _ask_cluster(self, query: Query, decision: Decision) -> Answer:
        deadline = self.policy.lookup_timeout
        message = dns_wire.make_query(query.question, dnssec_ok=bool(query.edns and query.edns.dnssec_ok))
        async with asyncio.timeout(deadline / 1000 + GRACE):
            reply = await self._lookup(
                message, namespace=decision.namespace, deadline_ms=deadline, absolute=decision.absolute
            )
        if reply.error:
            raise CannotAnswer(reply.error)
        answer = dns_answer.take_apart(reply.reply, query.question)
        if answer.rcode not in {Rcode.NOERROR, Rcode.NXDOMAIN}:
            raise CannotAnswer(f"the cluster's name server said rcode {answer.rcode}", answer.rcode)
        return answer

    def _end_flight(self, flight: Flight) -> bool:
        """Take the flight off the board; tells whether what it found may be stored."""
        if flight.impatience is not None:
            flight.impatience.cancel()
        current = self._flights.get(flight.query.key) is flight
        if current:
            del self._flights[flight.query.key]
        return current and flight.generation == self._cache.generation

    def _landed(self, flight: Flight, answer: Answer) -> None:
        self._away_until = 0.0
        if self._end_flight(flight):
            query, now = flight.query, self._loop.time()
            services = self._services(query, flight.decision, answer)
            self._cache.store(query.key, answer, flight.decision, services, now, flight.asked)
        for query, client in flight.waiters:
            if answer.rcode and flight.decision.fallback and self._servers:
                self._pass_on(query, client, most=self._cache.wire_ttl)
            else:
                self._reply(query, client, answer)

    def _services(self, query: Query, decision: Decision, answer: Answer) -> frozenset[str]:
        policy = self.policy
        found = services_of(decision.target or query.name, decision.namespace, policy.domain)
        for target in dns_answer.targets(answer, query.question):
            found |= services_of(target, "", policy.domain)
        return found

    def _landed_badly(self, flight: Flight, rcode: int) -> None:
        """No answer: an expired one, the fallback where it may know, else the failure itself."""
        now = self._loop.time()
        store = self._end_flight(flight)
        self._counts["failures"] += 1
        stale = self._cache.find_stale(flight.query.key, now, lambda: flight.decision)
        if stale is not None:
            self._away_until = now + 1.0
            for query, client in flight.waiters:
                self._serve_stale(query, stale, client)
            return
        failure = dns_answer.negative(rcode)
        if store:
            self._cache.store(flight.query.key, failure, flight.decision, frozenset(), now, flight.asked)
        for query, client in flight.waiters:
            if flight.decision.fallback and self._servers:
                self._pass_on(query, client, most=self._cache.wire_ttl)
            else:
                self._reply(query, client, failure)

    def _impatient(self, flight: Flight, stale: Entry) -> None:
        """The cluster takes long and an expired answer is there: whoever waits gets that one."""
        waiters, flight.waiters = flight.waiters, []
        for query, client in waiters:
            self._serve_stale(query, stale, client)


def local_answer(query: Query, decision: Decision) -> Answer:
    """Answer a query that needs nobody else: addresses of its own family, a pointer, or NODATA."""
    if decision.action is Action.POINTER:
        return dns_answer.of_records(Type.PTR, (dns_wire.wire_of(decision.target),))
    version = {Type.A: 4, Type.AAAA: 6}.get(query.type)  # type: ignore[call-overload]
    packed = tuple(address.packed for address in decision.addresses if address.version == version)
    return dns_answer.of_records(query.type, packed)
