"""UDP associations and ICMP echo sequences: datagrams by flow number, and back into packets.

A UDP association is one 5-tuple; an echo sequence is one identifier and target. Both live while they
are used, and for an idle time after that. No I/O, no clock.
"""

from __future__ import annotations

from struct import Struct

from inroad.core.checksum import Buffer, checksum, fold, ones_sum, pseudo_sum
from inroad.core.fragments import fragments
from inroad.core.packet import (
    HOST,
    ICMP,
    ICMPV6,
    NET,
    PORT,
    PROHIBITED,
    UDP,
    Head,
    turned,
    udp_segment,
    unreachable,
)

UDP_IDLE, DNS_IDLE, ECHO_IDLE = 60.0, 5.0, 10.0
MAX_ASSOCIATIONS = 16_384
FIRST_NUMBER = 1 << 48
"""Numbers of associations begin here: those of TCP flows stay below."""
SMALLEST_MTU = {4: 552, 6: 1280}
"""A smaller one is not believed (RFC 8200; for IPv4 as Linux has it: net.ipv4.route.min_pmtu)."""
DNS_PORT = 53
NETBIOS = range(137, 140)

UNREACHABLE = {1: PORT, 2: NET, 3: HOST, 4: PROHIBITED}
"""By verdict number; see `inroad.host.vif.api.Verdict`."""

_UDP = Struct("!HHHH").unpack_from
_ECHO = Struct("!BBHHH")
_ECHO_REQUEST, _ECHO_REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}


class Association:
    """One UDP association or echo sequence, with what the answers carry.

    `quote`: the start of its newest packet, for ICMP errors. `mtu`: of the way to the application, in
    bytes, where it said so (ICMP, Packet Too Big), else 0.
    """

    __slots__ = ("addresses", "key", "last", "limit", "mtu", "number", "ports", "protocol", "quote")

    def __init__(
        self, number: int, key: bytes, protocol: int, head: Head, ports: bytes, limit: float
    ) -> None:
        self.number = number
        self.key = key
        self.protocol = protocol
        self.addresses = turned(head.addresses)
        self.ports = ports[2:] + ports[:2]
        self.limit = limit
        self.last = 0.0
        self.mtu = 0
        self.quote = b""


class Associations:
    """The table of associations. Numbers are its own; `to_app` collects packets."""

    def __init__(self, counters: dict[str, int], mtu: int) -> None:
        self.counters = counters
        self.mtu = mtu
        self.to_app: list[bytes] = []
        self.expired: list[int] = []
        self.payload_start = self.payload_end = self.sequence = 0
        self.opened: tuple[Head, bytes] | None = None
        self._by_key: dict[bytes, Association] = {}
        self._by_number: dict[int, Association] = {}
        self._next_number = FIRST_NUMBER
        self._deadline: float | None = None
        self._ident = 0

    def __len__(self) -> int:
        return len(self._by_number)

    def udp(self, packet: Buffer, head: Head, now: float) -> int:
        """Take a UDP packet: the flow number, or 0 when it was dropped and counted.

        Its payload lies between `payload_start` and `payload_end`; `opened` is (head, ports) when the
        packet began the association, else None.
        """
        start, end = head.start, head.end
        if end - start < 8:
            return self._odd("truncated")
        _, target_port, length, check = _UDP(packet, start)
        if length < 8 or start + length > end:
            return self._odd("truncated")
        if target_port in NETBIOS:
            return self._odd("netbios")
        addresses = head.addresses
        segment = memoryview(packet)[start : start + length]
        if (check or head.version == 6) and fold(
            ones_sum(segment) + pseudo_sum(addresses, UDP, length)
        ) != 0xFFFF:
            return self._odd("bad-checksum")
        ports = bytes(segment[:4])
        limit = DNS_IDLE if target_port == DNS_PORT else UDP_IDLE
        self.payload_start, self.payload_end = start + 8, start + length
        return self._touch(packet, head, addresses + ports, UDP, ports, limit, now)

    def icmp(self, packet: Buffer, head: Head, now: float) -> int:
        """Take an ICMP(v6) packet. For an echo request: the number of its sequence, else 0.

        `sequence` is the request's own number, its payload lies as with `udp`.
        """
        start, end = head.start, head.end
        if end - start < 8:
            return self._odd("truncated")
        kind, code, _, ident, self.sequence = _ECHO.unpack_from(packet, start)
        initial = pseudo_sum(head.addresses, ICMPV6, end - start) if head.version == 6 else 0
        if fold(ones_sum(memoryview(packet)[start:end]) + initial) != 0xFFFF:
            return self._odd("bad-checksum")
        if kind != _ECHO_REQUEST[head.version] or code:
            return self._error(packet, head)
        self.payload_start, self.payload_end = start + 8, end
        ports = ident.to_bytes(2, "big") * 2
        return self._touch(
            packet, head, head.addresses + b"echo" + ports, head.protocol, ports, ECHO_IDLE, now
        )

    def datagram(self, number: int, payload: Buffer, now: float) -> None:
        """Send a datagram to the application of a UDP association."""
        found = self._by_number.get(number)
        if found is None or found.protocol != UDP:
            self._odd("unknown-flow")
            return
        found.last = now
        self._send(found, udp_segment(found.addresses, found.ports, payload))

    def reply(self, number: int, sequence: int, payload: Buffer, now: float) -> None:
        """Send an echo reply."""
        found = self._by_number.get(number)
        if found is None or found.protocol == UDP:
            self._odd("unknown-flow")
            return
        found.last = now
        version = 4 if found.protocol == ICMP else 6
        ident = int.from_bytes(found.ports[:2], "big")
        initial = 0 if version == 4 else pseudo_sum(found.addresses, ICMPV6, 8 + len(payload))
        bare = _ECHO.pack(_ECHO_REPLY[version], 0, 0, ident, sequence)
        value = checksum(bare, initial + ones_sum(payload))
        body = _ECHO.pack(_ECHO_REPLY[version], 0, value, ident, sequence) + bytes(payload)
        self._send(found, body)

    def unreachable(self, number: int, verdict: int) -> None:
        """Answer the newest packet of an association with ICMP destination unreachable."""
        found = self._by_number.get(number)
        code = UNREACHABLE.get(verdict)
        if found is None or code is None or not found.quote:
            return
        version = 4 if len(found.addresses) == 8 else 6
        addresses = turned(found.addresses)
        half = len(addresses) // 2
        head = Head(
            version, found.protocol, 0, len(found.quote), addresses[:half], addresses[half:], 0, False, None
        )
        self.to_app.append(unreachable(found.quote, head, code))

    def forget(self, number: int) -> None:
        """Forget an association of which the daemon could not be told."""
        found = self._by_number.pop(number, None)
        if found is not None:
            del self._by_key[found.key]

    def deadline(self) -> float | None:
        """Return when `tick` wants to be called, or None."""
        return self._deadline

    def tick(self, now: float) -> None:
        """Forget what was idle for too long; their numbers go to `expired`."""
        if self._deadline is None or now < self._deadline:
            return
        earliest = None
        for found in list(self._by_number.values()):
            ends = found.last + found.limit
            if ends <= now:
                self.forget(found.number)
                self.expired.append(found.number)
            elif earliest is None or ends < earliest:
                earliest = ends
        self._deadline = earliest

    def _send(self, found: Association, payload: bytes) -> None:
        self._ident = self._ident + 1 & 0xFFFFFFFF
        mtu = found.mtu or self.mtu
        self.to_app += fragments(found.addresses, found.protocol, payload, mtu, self._ident)

    def _error(self, packet: Buffer, head: Head) -> int:
        """Take what the workstation says about a datagram of ours: too big, or nobody is there."""
        start, four = head.start, head.version == 4
        kind, code = packet[start], packet[start + 1]
        found = self._quoted(bytes(packet[start + 8 : head.end]), four)
        if found is None:
            return self._odd("icmp-other")
        if ((kind, code) == (3, 4)) if four else (kind == 2):
            told = int.from_bytes(packet[start + (6 if four else 4) : start + 8], "big")
            found.mtu = min(max(told, SMALLEST_MTU[head.version]), found.mtu or self.mtu)
            return self._odd("too-big")
        if (kind, code) == ((3, 3) if four else (1, 4)):
            self.forget(found.number)
            self.expired.append(found.number)
            return self._odd("application-gone")
        return self._odd("icmp-other")

    def _quoted(self, quote: bytes, four: bool) -> Association | None:
        """Return the association whose datagram to the application an ICMP error quotes."""
        at = (quote[0] & 15) * 4 if four and quote else 40
        protocol_at, addresses_at, size = (9, 12, 8) if four else (6, 8, 32)
        if len(quote) < max(at, addresses_at + size) + 4 or quote[protocol_at] != UDP:
            return None
        ports = quote[at + 2 : at + 4] + quote[at : at + 2]
        return self._by_key.get(turned(quote[addresses_at : addresses_at + size]) + ports)

    def _touch(
        self, packet: Buffer, head: Head, key: bytes, protocol: int, ports: bytes, limit: float, now: float
    ) -> int:
        found = self._by_key.get(key)
        self.opened = None
        if found is None:
            if len(self._by_number) >= MAX_ASSOCIATIONS:
                return self._odd("flows-full")
            number, self._next_number = self._next_number, self._next_number + 1
            found = Association(number, key, protocol, head, ports, limit)
            self._by_key[key] = self._by_number[number] = found
            self.opened = (head, ports)
            if self._deadline is None or now + limit < self._deadline:
                self._deadline = now + limit
        found.last = now
        found.quote = bytes(packet[: min(head.end, head.start + 8)])
        return found.number

    def _odd(self, kind: str) -> int:
        self.counters[kind] = self.counters.get(kind, 0) + 1
        return 0
