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
    TTL,
    UDP,
    Head,
    ip_header,
    parse,
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
# First byte, total length, fragment field, protocol, addresses and ports, UDP length and checksum.
_FAST4 = Struct("!BxH2xHxB2x12sHH").unpack_from
# Payload length, next header, addresses and ports, UDP length and checksum.
_FAST6 = Struct("!4xHBx36sHH").unpack_from
_OUT4 = Struct("!BBHHHBBH8s4sHH")
_OUT6 = Struct("!IHBB32s4sHH")
_ECHO_REQUEST, _ECHO_REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}


class Association:
    """One UDP association or echo sequence, with what the answers carry.

    `ip_sum`, `udp_sum`: sums of what is the same in every answer's headers. `sequence`: the newest echo
    request's. `mtu`: of the way to the application, in bytes, where it said so (Packet Too Big), else 0.
    """

    __slots__ = (
        "addresses",
        "ip_sum",
        "key",
        "last",
        "limit",
        "mtu",
        "number",
        "ports",
        "protocol",
        "sequence",
        "udp_sum",
    )

    def __init__(self, number: int, key: bytes, head: Head, ports: bytes, limit: float) -> None:
        self.number = number
        self.key = key
        self.protocol = head.protocol
        self.addresses = turned(head.addresses)
        self.ports = ports[2:] + ports[:2]
        self.limit = limit
        self.last = 0.0
        self.mtu = 0
        self.sequence = 0
        self.ip_sum = ones_sum(self.addresses) + 0x4500 + (TTL << 8 | UDP)
        self.udp_sum = pseudo_sum(self.addresses, UDP, 0) + ones_sum(ports)


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

    def fast(self, packet: memoryview, size: int, now: float) -> int:
        """Take a datagram of a known association, as `udp` does; 0: it needs a closer look."""
        if packet[0] == 0x45 and size >= 28:
            _, total, fragment, protocol, key, length, check = _FAST4(packet)
            start = 28
            if protocol != UDP or fragment & 0x3FFF or total != size:
                return 0
        elif packet[0] >> 4 == 6 and size >= 48:
            total, protocol, key, length, check = _FAST6(packet)
            start = 48
            if protocol != UDP or total + 40 != size or not check:
                return 0
        else:
            return 0
        found = self._by_key.get(key)
        if found is None or start - 8 + length != size:
            return 0
        # Addresses, ports and payload are all that is summed beside protocol and length.
        if check and fold(ones_sum(packet[start - 8 - len(key) + 4 : size]) + UDP + length) != 0xFFFF:
            return 0
        found.last = now
        self.opened = None
        self.payload_start, self.payload_end = start, size
        return found.number

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
        return self._touch(head, addresses + ports, ports, limit, now)

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
        return self._touch(head, head.addresses + b"echo" + ports, ports, ECHO_IDLE, now)

    def datagram(self, number: int, payload: Buffer, now: float) -> None:
        """Send a datagram to the application of a UDP association."""
        found = self._by_number.get(number)
        if found is None or found.protocol != UDP:
            self._odd("unknown-flow")
            return
        found.last = now
        length = 8 + len(payload)
        if length + 40 > (found.mtu or self.mtu):
            self._send(found, udp_segment(found.addresses, found.ports, payload))
            return
        value = fold(found.udp_sum + 2 * length + ones_sum(payload)) ^ 0xFFFF or 0xFFFF
        if len(found.addresses) == 32:
            header = _OUT6.pack(6 << 28, length, UDP, TTL, found.addresses, found.ports, length, value)
        else:
            ident = self._ident = self._ident + 1 & 0xFFFF
            check = fold(found.ip_sum + 20 + length + ident) ^ 0xFFFF
            fields = (0x45, 0, 20 + length, ident, 0, TTL, UDP, check)
            header = _OUT4.pack(*fields, found.addresses, found.ports, length, value)
        self.to_app.append(header + payload)

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
        if found is None or code is None:
            return
        # What the application's kernel looks for in the quote is where the packet came from.
        ports = found.ports[2:] + found.ports[:2]
        if found.protocol == UDP:
            start = ports + b"\0\x08\0\0"
        else:
            kind = _ECHO_REQUEST[4 if found.protocol == ICMP else 6]
            start = _ECHO.pack(kind, 0, 0, int.from_bytes(ports[:2], "big"), found.sequence)
        quote = ip_header(turned(found.addresses), found.protocol, len(start)) + start
        head = parse(quote, len(quote))
        if isinstance(head, Head):
            self.to_app.append(unreachable(quote, head, code))

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

    def _touch(self, head: Head, key: bytes, ports: bytes, limit: float, now: float) -> int:
        """Return the number of the association with that key, a new one where there is none."""
        found = self._by_key.get(key)
        self.opened = None
        if found is None:
            if len(self._by_number) >= MAX_ASSOCIATIONS:
                return self._odd("flows-full")
            number, self._next_number = self._next_number, self._next_number + 1
            found = Association(number, key, head, ports, limit)
            self._by_key[key] = self._by_number[number] = found
            self.opened = (head, ports)
            if self._deadline is None or now + limit < self._deadline:
                self._deadline = now + limit
        found.last = now
        found.sequence = self.sequence
        return found.number

    def _odd(self, kind: str) -> int:
        self.counters[kind] = self.counters.get(kind, 0) + 1
        return 0
