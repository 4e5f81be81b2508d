"""Virtual addresses at work: put into answers, and taken out of dials and reverse lookups again.

Only for sessions in which something is moved (`core/vnat`); answers of others pass untouched, as bytes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from ipaddress import ip_address

import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.reversename
import dns.rrset
import msgspec
import structlog

from inroad.core.host_config import Address, Network
from inroad.core.messages import LookupReply
from inroad.core.vnat import Moved, PoolEmpty, Target, Vnat
from inroad.daemon.dns_lookups import AskCluster

log = structlog.get_logger()

_ADDRESSES = {dns.rdatatype.A, dns.rdatatype.AAAA}


class VirtualAddresses:
    """The session's mapping, wrapped around its lookups."""

    def __init__(self, ask: AskCluster, pools: Sequence[Network], reserved: Sequence[Address]) -> None:
        self.vnat = Vnat(pools, reserved)
        self.moved: tuple[Moved, ...] = ()
        self._ask = ask
        self._flows: dict[int, Address] = {}

    def move(self, moved: tuple[Moved, ...]) -> bool:
        """Say which subnets are moved from now on; returns whether that is a change."""
        if moved == self.moved:
            return False
        self.vnat.move(moved)
        self.moved = moved
        return True

    def real(self, host: str) -> Target | None:
        """Return where a dial to `host` (an address) leads; None for a virtual one without meaning."""
        address = ip_address(host)
        return self.vnat.to_real(address) if self.vnat.is_virtual(address) else Target(address)

    def begun(self, flow: int, host: str) -> None:
        """A flow to `host` began: if that is a virtual address it keeps its meaning until `over`."""
        if not len(self.vnat):
            return
        address = ip_address(host)
        if self.vnat.is_virtual(address):
            self._flows[flow] = address
            self.vnat.opened(address, time.monotonic())

    def over(self, flow: int) -> None:
        """A flow ended; unknown ones are ignored."""
        address = self._flows.pop(flow, None)
        if address is not None:
            self.vnat.closed(address, time.monotonic())

    async def lookup(
        self, query: bytes, *, namespace: str, deadline_ms: int, absolute: bool, bare: bool = True
    ) -> LookupReply:
        """Ask the cluster; see `AskCluster`."""
        if not self.moved:
            return await self._ask(
                query, namespace=namespace, deadline_ms=deadline_ms, absolute=absolute, bare=bare
            )
        question, asked = self._real_question(query)
        reply = await self._ask(
            question, namespace=namespace, deadline_ms=deadline_ms, absolute=absolute, bare=bare
        )
        if reply.error or not reply.reply:
            return reply
        try:
            return msgspec.structs.replace(reply, reply=self._virtual_answer(reply.reply, asked))
        except (PoolEmpty, dns.exception.DNSException) as error:
            log.warning("an answer could not be given virtual addresses", problem=str(error))
            return LookupReply(reply.id, error=str(error))

    def _real_question(self, query: bytes) -> tuple[bytes, dns.name.Name | None]:
        """Ask for the real address behind a virtual one's reverse name; returns the name that was asked."""
        message = dns.message.from_wire(query, ignore_trailing=True)
        name = message.question[0].name
        try:
            address = ip_address(dns.reversename.to_address(name))
        except (dns.exception.DNSException, ValueError):
            return query, None
        target = self.vnat.to_real(address)
        if target is None:
            return query, None
        message.question[0].name = dns.reversename.from_address(str(target.address))
        return message.to_wire(), name

    def _virtual_answer(self, wire: bytes, asked: dns.name.Name | None) -> bytes:
        message = dns.message.from_wire(wire, ignore_trailing=True)
        now = time.monotonic()
        for section in (message.answer, message.additional):
            for index, rrset in enumerate(section):
                if rrset.rdtype in _ADDRESSES:
                    section[index] = self._moved_rrset(rrset, now)
        if asked is not None:
            old = message.question[0].name
            for rrset in (*message.question, *message.answer):
                if rrset.name == old:
                    rrset.name = asked
        return message.to_wire(max_size=65_535)

    def _moved_rrset(self, rrset: dns.rrset.RRset, now: float) -> dns.rrset.RRset:
        texts = [str(self.vnat.to_virtual(ip_address(rdata.to_text()), now)) for rdata in rrset]
        return dns.rrset.from_text_list(rrset.name, rrset.ttl, rrset.rdclass, rrset.rdtype, texts)
