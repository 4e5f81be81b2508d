"""From a query to its reply: cache, rules, then the cluster, the fallback, or nobody but us.

One lookup is in flight for a name and type, whoever asks; all who wait get its result, its failure
included. A change of policy or a flush never disturbs a lookup in flight: whoever waits is answered, and
what it found is not stored.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from inroad.core import dns_answer, dns_wire
from inroad.core.dns_answer import Answer
from inroad.core.dns_cache import FAILURE_LIFE, DnsCache, Entry
from inroad.core.dns_policy import Action, Decision, DnsPolicy, decide, services_of
from inroad.core.dns_wire import Malformed, Query, Rcode
from inroad.core.errors import InroadError
from inroad.core.recursion import Verdict
from inroad.daemon.dns_fallback import Fallback, Server
from inroad.daemon.dns_listener import Client, Source
from inroad.daemon.dns_lookups import AskCluster, CannotAnswer, Lookups, local_answer

MAX_FLIGHTS = 4_096
MAX_WAITERS = 20_000
"""Queries that wait for a lookup, all together; one more is told to try again later."""
STALE_PATIENCE = 1.8
"""Seconds that somebody waits for the cluster when an expired answer is at hand (RFC 8767, 5)."""
AWAY = 1.0
"""Seconds after a failed lookup during which expired answers are served without trying."""
SUSPICION = 0.25
"""Seconds after which a repeated query that may be our own lookup is denied."""

log = structlog.get_logger()


@dataclass(slots=True)
class Flight:
    """One lookup under way and everybody who waits for it."""

    query: Query
    decision: Decision
    generation: int
    asked: float
    source: Source | None = None
    waiters: list[tuple[Query, Client]] = field(default_factory=list)
    suspects: list[tuple[Query, Client, asyncio.TimerHandle]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    impatience: asyncio.TimerHandle | None = None


class Answering:
    """Answers queries. The event loop that runs when it is made is the one it works on."""

    def __init__(
        self, lookup: AskCluster, policy: DnsPolicy, fallback: tuple[Server, ...], *, mark: int, capacity: int
    ) -> None:
        policy.check()
        self.policy = policy
        self.cache = DnsCache(capacity)
        self._loop = asyncio.get_running_loop()
        self._mark = mark
        self._servers = fallback
        self._fallback = Fallback(fallback, mark=mark)
        self.lookups = Lookups(lookup, policy, self._fallback, self._decide)
        self._flights: dict[bytes, Flight] = {}
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._hits: dict[str, list[int]] = {}
        self._counts: Counter[str] = Counter()
        self._away_until = 0.0

    async def close(self) -> None:
        """Forget all lookups; whoever waits gets no reply. Idempotent."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._fallback.close()
        self.lookups.close()

    # ---- changes while it runs ----

    def configure(self, policy: DnsPolicy) -> None:
        """Use another policy from the next query on; answers that it does not touch stay cached."""
        policy.check()
        if not policy.own_addresses:
            policy = replace(policy, own_addresses=self.policy.own_addresses)
        if policy == self.policy:
            return
        self.policy = self.lookups.policy = policy
        self.lookups.recursion.domain = policy.domain
        if policy.recursion_check != self.lookups.recursion.enabled:
            self.lookups.recursion.enable(policy.recursion_check)
            self._start(self._check_recursion())
        self._flights = {}
        self.cache.policy_changed()

    def set_fallback(self, servers: tuple[Server, ...]) -> None:
        """Ask these name servers for all other names; queries on their way end at the old ones."""
        if servers == self._servers:
            return
        self._servers = servers
        old, self._fallback = self._fallback, Fallback(servers, mark=self._mark)
        self.lookups.fallback = self._fallback
        self._loop.call_later(10, old.close)

    def invalidate(self, services: tuple[str, ...]) -> None:
        """Answers that depend on these services (`service.namespace`) are no longer true."""
        self.cache.invalidate(services, self._loop.time())
        self._flights = {}

    def flush(self) -> None:
        """Forget all answers: they came from another cluster or another origin."""
        self.cache.flush()
        self._flights = {}

    def counters(self) -> dict[str, int]:
        """Return what became of the queries since the start; `rule.<name>` counts them by rule."""
        cache = self.cache.counters
        counts: Counter[str] = Counter(self._counts)
        for rule, hits in self._hits.items():
            counts["hits"] += hits[0]
            counts[f"rule.{rule}"] += hits[0]
        counts.update(
            misses=cache.misses,
            evicted=cache.evicted,
            invalidated=cache.invalidated,
            entries=len(self.cache),
            in_flight=len(self._flights),
        )
        counts["fallback_failures"] = self._fallback.failures
        for name in ("hits", "negative", "stale", "fallback"):
            counts[name] += 0
        return {name: counts[name] for name in sorted(counts)}

    # ---- one query ----

    def handle(self, data: bytes, client: Client) -> None:
        """Answer a message, now or later; one that deserves no reply gets none."""
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
        verdict = self.lookups.recursion.judge(query, client.source)
        if verdict is not Verdict.ORDINARY:
            self._came_back(query, client, verdict)
            return
        now = self._loop.time()
        found = self.cache.find(query.key, now, lambda: self._decide(query))
        if found is not None:
            if found.refresh and query.key not in self._flights and not self.lookups.recursion.found:
                self._counts["prefetched"] += 1
                self._take_off(query, found.entry.decision, now)
            self._serve(query, found.entry, client, now)
            return
        flight = self._flights.get(query.key)
        if flight is not None:
            self._counts["joined"] += 1
            self._count(flight.decision)
            self._wait(flight, query, client)
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
                stale = self.cache.find_stale(query.key, now, lambda: decision)
                if stale is not None and now < self._away_until:
                    self._serve_stale(query, stale, client)
                    return
                if len(self._flights) >= MAX_FLIGHTS:
                    self._refuse(query, client)
                    return
                flight = self._take_off(query, decision, now, client.source)
                self._wait(flight, query, client)
                if stale is not None:
                    flight.impatience = self._loop.call_later(STALE_PATIENCE, self._impatient, flight, stale)

    def _wait(self, flight: Flight, query: Query, client: Client) -> None:
        if self._waiting >= MAX_WAITERS:
            self._refuse(query, client)
            return
        self._waiting += 1
        flight.waiters.append((query, client))

    def _refuse(self, query: Query, client: Client) -> None:
        self._counts["busy"] += 1
        self._reply(query, client, dns_answer.negative(Rcode.SERVFAIL))

    # ---- replies ----

    def _limit(self, query: Query, client: Client) -> int:
        return 65_535 if client.tcp else query.udp_limit()

    def _reply(self, query: Query, client: Client, answer: Answer) -> None:
        limit = self._limit(query, client)
        most = self.cache.wire_ttl
        client.reply(dns_answer.compose(query, answer, most=most, recursion=bool(self._servers), limit=limit))

    def _serve(self, query: Query, entry: Entry, client: Client, now: float) -> None:
        """Answer from the cache."""
        decision = entry.decision
        if entry.denied and decision.fallback and self._servers:
            self._counts["denied_hits"] += 1
            self._count(decision)
            self._pass_on(query, client, most=self.cache.wire_ttl)
            return
        hits = self._hits.setdefault(decision.rule, [0])
        hits[0] += 1
        if not entry.answer.positive:
            self._counts["negative"] += 1
        limit = self._limit(query, client)
        reply = self.cache.reply(query, entry, now, recursion=bool(self._servers), limit=limit)
        client.reply(reply)
        if not client.tcp and entry.answer.positive and not entry.rotates(query.type):
            self.cache.remember(query, entry, reply, now, hits)

    def _serve_stale(self, query: Query, entry: Entry, client: Client) -> None:
        self._counts["stale"] += 1
        limit = self._limit(query, client)
        client.reply(self.cache.stale_reply(query, entry, recursion=bool(self._servers), limit=limit))

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

    def _take_off(self, query: Query, decision: Decision, now: float, source: Source | None = None) -> Flight:
        flight = Flight(query, decision, self.cache.generation, now, source)
        self._flights[query.key] = flight
        self._counts["lookups"] += 1
        flight.task = self._start(self._fly(flight))
        return flight

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _check_recursion(self) -> None:
        await self.lookups.check_recursion(0)  # nobody waits for the probe, it may come back at any time

    async def _fly(self, flight: Flight) -> None:
        question = flight.query.question
        try:
            answer = await self.lookups.find_out(flight.query, flight.decision, flight.source)
            services = self._services(flight.query, flight.decision, answer)
        except (InroadError, OSError, TimeoutError, Malformed) as problem:
            rcode = problem.rcode if isinstance(problem, CannotAnswer) else Rcode.SERVFAIL
            log.debug("lookup failed", name=dns_wire.text_of(question), problem=str(problem))
            self._landed_badly(flight, rcode)
        except Exception:
            # A bug, or an answer so odd that reading it failed: those who wait must not wait for ever.
            self._counts["bugs"] += 1
            log.exception("lookup failed", name=dns_wire.text_of(question))
            self._landed_badly(flight, Rcode.SERVFAIL)
        else:
            self._landed(flight, answer, services)

    def _end_flight(self, flight: Flight, answer: Answer) -> bool:
        """Take the flight off the board; tells whether what it found may be stored."""
        self._waiting -= len(flight.waiters)
        if flight.impatience is not None:
            flight.impatience.cancel()
        for query, client, timer in flight.suspects:
            timer.cancel()
            self._reply(query, client, answer)
        current = self._flights.get(flight.query.key) is flight
        if current:
            del self._flights[flight.query.key]
        return current and flight.generation == self.cache.generation

    def _landed(self, flight: Flight, answer: Answer, services: frozenset[str]) -> None:
        self._away_until = 0.0
        if self._end_flight(flight, answer):
            query, now = flight.query, self._loop.time()
            self.cache.store(query.key, answer, flight.decision, services, now, flight.asked)
        for query, client in flight.waiters:
            if answer.rcode and flight.decision.fallback and self._servers:
                self._pass_on(query, client, most=self.cache.wire_ttl)
            else:
                self._reply(query, client, answer)

    def _services(self, query: Query, decision: Decision, answer: Answer) -> frozenset[str]:
        policy = self.policy
        found: frozenset[str] = frozenset()
        for namespace in (decision.namespace, *decision.also):
            found |= services_of(decision.target or query.name, namespace, policy.domain)
        for target in dns_answer.targets(answer, query.question):
            found |= services_of(target, "", policy.domain)
        return found

    def _landed_badly(self, flight: Flight, rcode: int) -> None:
        """No answer: an expired one, the fallback where it may know, else the failure itself."""
        now = self._loop.time()
        failure = dns_answer.negative(rcode, FAILURE_LIFE)
        store = self._end_flight(flight, failure)
        self._counts["failures"] += 1
        stale = self.cache.find_stale(flight.query.key, now, lambda: flight.decision)
        if stale is not None:
            self._away_until = now + AWAY
            for query, client in flight.waiters:
                self._serve_stale(query, stale, client)
            return
        if store:
            self.cache.store(flight.query.key, failure, flight.decision, frozenset(), now, flight.asked)
        for query, client in flight.waiters:
            if flight.decision.fallback and self._servers:
                self._pass_on(query, client, most=self.cache.wire_ttl)
            else:
                self._reply(query, client, failure)

    def _impatient(self, flight: Flight, stale: Entry) -> None:
        """The cluster takes long and an expired answer is there: whoever waits gets that one."""
        waiters, flight.waiters = flight.waiters, []
        self._waiting -= len(waiters)
        for query, client in waiters:
            self._serve_stale(query, stale, client)

    # ---- recursion ----

    def _came_back(self, query: Query, client: Client, verdict: Verdict) -> None:
        """A query that is, or may be, a lookup of ours: deny it; one that may not be, only if it must."""
        self._counts[f"recursion.{verdict.value}"] += 1
        if verdict is Verdict.PROBE:
            self.lookups.probe_came_back()
        flight = self._flights.get(query.key)
        if verdict is not Verdict.DUPLICATE or flight is None:
            self._reply(query, client, dns_answer.negative(Rcode.NXDOMAIN))
            return
        suspect = (query, client)
        timer = self._loop.call_later(SUSPICION, lambda: self._deny_suspect(flight, suspect))
        flight.suspects.append((query, client, timer))

    def _deny_suspect(self, flight: Flight, suspect: tuple[Query, Client]) -> None:
        flight.suspects = [held for held in flight.suspects if held[1] is not suspect[1]]
        self._reply(*suspect, dns_answer.negative(Rcode.NXDOMAIN))
