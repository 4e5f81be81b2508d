"""Lookups from inside the cluster: what a program in this pod would be told, as a raw DNS message.

The pod's own search list and `ndots` are used, with the client's connected namespace in the place of
the pod's own one; every record type works because messages are passed on as they are.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from inroad.core import dns_wire, names, resolv_conf
from inroad.core.dns_wire import HEADER, Malformed, Rcode
from inroad.core.messages import MAX_NAME, Lookup, LookupReply
from inroad.core.names import Name
from inroad.core.resolv_conf import ResolvConf
from inroad.origin.upstream import NoAnswer, Upstream

RESOLV_CONF = Path("/etc/resolv.conf")
MAX_DEADLINE = 30.0
REREAD = 5.0
"""Seconds between looks at resolv.conf: a pod's does not change, a test's or a node's may."""

log = structlog.get_logger()


class LookupService:
    """Answers lookups from this pod. Many run at once; replies come as they are ready."""

    def __init__(self, resolv_conf_path: Path = RESOLV_CONF) -> None:
        self._path = resolv_conf_path
        self._conf = ResolvConf()
        self._read_at = float("-inf")
        self._upstream = Upstream(())

    def conf(self) -> ResolvConf:
        """Return this pod's resolver configuration."""
        now = asyncio.get_running_loop().time()
        if now - self._read_at > REREAD:
            self._read_at = now
            try:
                conf = resolv_conf.parse(self._path.read_text(errors="replace"))
            except OSError as error:
                log.warning("this pod's resolv.conf can't be read", problem=str(error))
                return self._conf
            if conf.servers != self._conf.servers:
                self._upstream.close()
                self._upstream = Upstream(conf.servers)
            self._conf = conf
        return self._conf

    async def answer(self, lookup: Lookup) -> LookupReply:
        """Look up; what goes wrong is in the reply's `error`, never raised."""
        try:
            query = dns_wire.parse_query(lookup.query)
            namespace = names.parse(lookup.namespace) if lookup.namespace else ()
        except (Malformed, names.BadName) as problem:
            return LookupReply(lookup.id, error=f"the lookup makes no sense: {problem}")
        if len(lookup.namespace) > MAX_NAME:
            return LookupReply(lookup.id, error="the lookup's namespace is too long")
        conf = self.conf()
        tries: tuple[Name, ...] = (query.name,)
        if not lookup.absolute:
            search = names.search_for(conf.search, namespace)
            tries = names.candidates(query.name, search, conf.ndots, bare=lookup.bare)
        end = asyncio.get_running_loop().time() + min(lookup.deadline / 1000, MAX_DEADLINE)
        try:
            name, reply = await self._first(lookup.query, query, tries, end)
        except NoAnswer as problem:
            return LookupReply(lookup.id, error=str(problem))
        return LookupReply(lookup.id, reply, names.text(name))

    async def _first(
        self, message: bytes, query: dns_wire.Query, tries: tuple[Name, ...], end: float
    ) -> tuple[Name, bytes]:
        """Try the names in turn until one exists; with none, the last answer.

        A name without records of this type exists (RFC 2308 NODATA) and ends the search, as in musl:
        the A and the AAAA of one program's lookup then speak of the same name. A server's failure is
        remembered and outlives later denials (as in glibc): "can't say" is not "no such name".
        """
        loop = asyncio.get_running_loop()
        failed: tuple[Name, bytes] | None = None
        last: tuple[Name, bytes] | None = None
        rest = message[HEADER + len(query.question) :]
        for name in tries:
            left = end - loop.time()
            if left <= 0:
                break
            question = _expanded(query, name)
            reply = await self._upstream.ask(message[:HEADER] + question + rest, left)
            last = (name, reply)
            rcode = reply[3] & 0xF
            if rcode == Rcode.NOERROR:
                return last
            if rcode != Rcode.NXDOMAIN:
                failed = failed or last
        found = failed or last
        if found is None:
            raise NoAnswer("no time was left, or no name to try")
        return found

    async def cluster_domain(self, api_address: str = "") -> str:
        """Find the cluster domain: by the search list, by the API service's PTR, else `cluster.local`."""
        domain = names.domain_of_search(self.conf().search)
        if domain is None and api_address:
            domain = await self._domain_of_pointer(api_address)
        return names.text(domain) if domain else "cluster.local"

    async def _domain_of_pointer(self, api_address: str) -> Name | None:
        name = dns_wire.reverse_name(api_address)
        question = dns_wire.wire_of(name) + b"\0\x0c\0\1"
        try:
            reply = await self._upstream.ask(dns_wire.make_query(question), 2.0)
            for record in dns_wire.records(reply, dns_wire.question_end(reply)):
                if record.type == dns_wire.Type.PTR:
                    owner = dns_wire.labels_of(dns_wire.read_name(reply, record.data).lower())
                    return names.domain_of_service(owner)
        except (NoAnswer, Malformed):
            return None
        return None

    def close(self) -> None:
        """Close all sockets."""
        self._upstream.close()


def _expanded(query: dns_wire.Query, name: Name) -> bytes:
    """The question for `name`, an expansion of the query's, in the query's letter case."""
    asked = query.wire_name
    added = dns_wire.wire_of(name)[len(asked) - 1 :] if name != query.name else b"\0"
    return asked[:-1] + added + query.question[-4:]
