"""Finding out what the rules lead to: lookups by the cluster, by the fallback, along mappings.

A lookup leaves with a random letter case of its own, so that it is known again should the cluster send
it back to us (`core/recursion`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Protocol

import structlog

from inroad.core import dns_answer, dns_wire
from inroad.core.dns_answer import Answer
from inroad.core.dns_policy import Action, Decision, DnsPolicy
from inroad.core.dns_wire import Query, Rcode, Type
from inroad.core.errors import InroadError
from inroad.core.messages import LookupReply
from inroad.core.recursion import PROBE_BITS, Recursion, disguise
from inroad.daemon.dns_fallback import Fallback
from inroad.daemon.dns_listener import Source

MAX_ALIASES = 8
RECURSION_DEADLINE = 500
"""ms for a name that may come back to us: a resolver on the way may wait for us while we wait for it."""
GRACE = 0.5
"""Seconds beyond the cluster side's deadline until its silence is a failure."""

log = structlog.get_logger()
_random = random.SystemRandom()


class AskCluster(Protocol):
    """A lookup by the cluster side; see `core.messages.Lookup` for the words."""

    async def __call__(
        self, query: bytes, *, namespace: str, deadline_ms: int, absolute: bool, bare: bool = True
    ) -> LookupReply:
        """Ask; raises `InroadError`, `OSError` or `TimeoutError` when there is no answer."""


class CannotAnswer(InroadError):
    """Nobody could look the name up; `rcode` is what a client is told."""

    code = "no-answer"

    def __init__(self, message: str, rcode: int = Rcode.SERVFAIL) -> None:
        super().__init__(message)
        self.rcode = rcode


class Lookups:
    """Looks names up as decided. `policy` and `fallback` may be replaced at any time."""

    def __init__(
        self, ask: AskCluster, policy: DnsPolicy, fallback: Fallback, decide: Callable[[Query], Decision]
    ) -> None:
        self.policy = policy
        self.fallback = fallback
        self.recursion = Recursion(policy.domain, enabled=policy.recursion_check)
        self._ask = ask
        self._decide = decide
        self._tasks: set[asyncio.Task[None]] = set()
        self._probe_came_back = asyncio.Event()

    async def find_out(
        self, query: Query, decision: Decision, source: Source | None = None, aliases: int = MAX_ALIASES
    ) -> Answer:
        """Return the answer to `query`, which `source` asked for.

        Raises `CannotAnswer`, `dns_wire.Malformed`, and what `AskCluster` raises.
        """
        match decision.action:
            case Action.CLUSTER:
                return await self._by_cluster(query, decision, source)
            case Action.FALLBACK:
                return await self._by_fallback(query)
            case Action.ALIAS:
                if not aliases:
                    raise CannotAnswer("a chain of mappings without an end")
                question = dns_wire.wire_of(decision.target) + query.question[-4:]
                target = dns_wire.parse_query(dns_wire.make_query(question))
                found = await self.find_out(target, self._decide(target), None, aliases - 1)
                whole = dns_answer.compose(target, found, most=dns_answer.ANY_TTL)
                return dns_answer.take_apart(whole, query.question)
            case _:
                return local_answer(query, decision)

    async def _by_fallback(self, query: Query) -> Answer:
        reply = await self.fallback.ask(query.data)
        if reply is None:
            raise CannotAnswer("no name server of the host answered")
        return dns_answer.take_apart(reply, query.question)

    async def _by_cluster(self, query: Query, decision: Decision, source: Source | None) -> Answer:
        outward = decision.external or decision.rule == "reverse"
        recursing = self.recursion.found
        deadline = self.policy.lookup_timeout
        if recursing and outward:
            deadline = min(deadline, RECURSION_DEADLINE)
        bare = outward or not recursing
        cased = disguise(query.wire_name, _random.getrandbits(8 * len(query.question)))
        message = dns_wire.make_query(
            cased + query.question[-4:], dnssec_ok=bool(query.edns and query.edns.dnssec_ok)
        )
        self.recursion.sent(query, cased, source, as_it_is=bare or decision.absolute)
        try:
            async with asyncio.timeout(deadline / 1000 + GRACE):
                reply = await self._search(message, decision, deadline, bare=bare)
        except TimeoutError:
            reply = LookupReply(0, error=f"no answer within {deadline} ms")
        finally:
            self.recursion.ended(query)
        if reply.error:
            # A resolver on the way may have joined the lookup that came back to the query behind it.
            raise CannotAnswer(reply.error, Rcode.NXDOMAIN if recursing and outward else Rcode.SERVFAIL)
        answer = dns_answer.take_apart(reply.reply, query.question)
        if answer.rcode not in {Rcode.NOERROR, Rcode.NXDOMAIN}:
            raise CannotAnswer(f"the cluster's name server said rcode {answer.rcode}", answer.rcode)
        return answer

    async def _search(self, message: bytes, decision: Decision, deadline: int, *, bare: bool) -> LookupReply:
        """Ask for the name in the decision's namespaces in turn; as it is (`bare`) only with the last one."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline / 1000
        namespaces = (decision.namespace, *decision.also)
        for namespace in namespaces:
            last = namespace == namespaces[-1]
            reply = await self._ask(
                message,
                namespace=namespace,
                deadline_ms=max(int((end - loop.time()) * 1000), 1),
                absolute=decision.absolute,
                bare=bare and last,
            )
            if reply.error or not dns_wire.denies(reply.reply):
                break
        return reply

    async def check_recursion(self, patience: float) -> bool:
        """Send the probes; wait `patience` seconds at most for one to come back."""
        if not self.recursion.enabled:
            return False
        back = self._probe_came_back = asyncio.Event()
        sending = asyncio.create_task(self._send_probes(back))
        self._tasks.add(sending)
        sending.add_done_callback(self._tasks.discard)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await back.wait()
        return self.recursion.found

    async def _send_probes(self, back: asyncio.Event) -> None:
        await asyncio.gather(*map(self._probe, self.recursion.probe(_random.getrandbits(PROBE_BITS))))
        back.set()  # or will not come any more

    def probe_came_back(self) -> None:
        """A probe has arrived at our own server."""
        self._probe_came_back.set()

    async def _probe(self, wire: bytes) -> None:
        query = dns_wire.make_query(wire + b"\0\1\0\1")
        deadline = self.policy.lookup_timeout
        try:
            async with asyncio.timeout(deadline / 1000):
                await self._ask(query, namespace=self.policy.namespace, deadline_ms=deadline, absolute=True)
        except (InroadError, OSError, TimeoutError) as problem:
            log.debug("recursion probe failed", problem=str(problem))

    def close(self) -> None:
        """Stop the probes."""
        for task in self._tasks:
            task.cancel()


def local_answer(query: Query, decision: Decision) -> Answer:
    """Answer a query that needs nobody else: addresses of its own family, a pointer, or NODATA."""
    if decision.action is Action.POINTER:
        return dns_answer.of_records(Type.PTR, (dns_wire.wire_of(decision.target),))
    version = {Type.A: 4, Type.AAAA: 6}.get(query.type)  # type: ignore[call-overload]
    packed = tuple(address.packed for address in decision.addresses if address.version == version)
    return dns_answer.of_records(query.type, packed)
