"""TCP in tun mode: every packet of a connection is rewritten between the application and our listener.

A flow of the application (S:sp -> T:tp) is shown to our listener as (P:pp -> L:lp), where P:pp is made
from the flow's number, so every flow has a tuple of its own whatever the application reuses:

    application's side            listener's side
    S:sp -> T:tp        <-->      P:pp -> L:lp

    HELD, OPENING: see `core.held`
      | the application's ACK
    OPEN     packets are rewritten, in place, with checksums patched (RFC 1624)
      | FIN both ways, or RST
    CLOSED   stragglers are still rewritten; forgotten when quiet for LINGER
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from inroad.core.checksum import Buffer, patch
from inroad.core.held import (
    CLOSED,
    FORWARD,
    HELD,
    OPEN,
    OPENING,
    SEQ_ACK,
    SLOTS,
    Flow,
    HeldSyn,
    SynTable,
    Way,
    is_syn,
    swapped,
)
from inroad.core.icmp_errors import quoted_key, translated
from inroad.core.packet import ACK, ADDRESSES_AT, FIN, RST, SYN, TCP, Head

LINGER = 10.0

POOLS = {4: "198.18.0.0/16", 6: "2001:2:0:1::/64"}
"""Where `Plan` takes the peers' addresses from: answers to them must be routed to the packet loop."""

_PORT_BITS = 15

# Version, fragment field, protocol, header checksum, addresses and ports, flags, checksum (no options).
_FAST4 = Struct("!B5xHxBH12s9xB2xH").unpack_from
# Next header, addresses and ports, flags, checksum.
_FAST6 = Struct("!6xBx36s9xB2xH").unpack_from
_PUT4 = Struct("!H12s").pack_into
_PUT2 = Struct("!H").pack_into
_SYN_FIN_RST = SYN | FIN | RST


@dataclass(frozen=True, slots=True)
class Plan:
    """Addresses on the listener's side. `pool4` and `pool6` are where P begins, as numbers.

    `one_device`: both sides share a device, so both directions are looked up in one table.
    """

    port: int
    listener4: bytes = bytes((198, 19, 0, 1))
    pool4: int = 0xC6120001  # 198.18.0.1 (RFC 2544: never on a real network)
    listener6: bytes = bytes.fromhex("20010002000000000000000000000001")
    pool6: int = 0x20010002_00000001_00000000_00000001  # 2001:2::/48 (RFC 5180)
    one_device: bool = False

    def peer(self, version: int, flow: int) -> tuple[bytes, int]:
        """Return the address and port under which the listener sees a flow."""
        slot = flow & SLOTS
        port = 1 << _PORT_BITS | slot & ((1 << _PORT_BITS) - 1)
        if version == 4:
            return (self.pool4 + (slot >> _PORT_BITS)).to_bytes(4, "big"), port
        return (self.pool6 + (slot >> _PORT_BITS)).to_bytes(16, "big"), port

    def listener(self, version: int) -> bytes:
        """Return the listener's address."""
        return self.listener4 if version == 4 else self.listener6


class ReflectedFlow(Flow):
    """`out` leads to the listener, `back` to the application. `fins`: 1 the application's, 2 ours."""

    __slots__ = ("back", "fins", "listener_isn", "out")

    def __init__(
        self, number: int, key: bytes, listener_key: bytes, syn: HeldSyn, isn: int, now: float
    ) -> None:
        super().__init__(number, key, syn, isn, now)
        self.fins = 0
        self.listener_isn = -1
        self.out = Way(number & SLOTS, key, swapped(listener_key))
        self.back = Way(number & SLOTS, listener_key, swapped(key))


class Reflector(SynTable):
    """The TCP flows between one VIF and one listener (or, on one device, the VIF and itself)."""

    _by_slot: dict[int, ReflectedFlow]  # type: ignore[assignment]  # it holds what `begin` makes

    def __init__(self, plan: Plan, counters: dict[str, int]) -> None:
        super().__init__(counters)
        self.plan = plan
        if plan.one_device:
            self.listener_ways = self.app_ways

    # The first and last packets of a flow, and what belongs to none. The others: `fast`.

    def from_app(self, packet: Buffer, head: Head, now: float) -> int:
        """Take a TCP packet that the application's side sent; FORWARD: it is now for the listener."""
        if head.end - head.start < 20:
            return self.odd("truncated")
        flags = packet[head.start + 13]
        key = head.addresses + bytes(packet[head.start : head.start + 4])
        if is_syn(flags):
            return self.syn(packet, head, key, now)
        flow = self.find(key)
        if flow is None:
            return self.unknown(packet, head, self.to_app)
        if flow.state == HELD:
            if flags & RST:
                self.cancel(flow)
            return self.odd("early")
        if flow.state == OPENING and flags & (ACK | RST) == ACK:
            flow.state = OPEN
            flow.out.open = flow.back.open = True
            self.settle(flow)
        self._track(flow, flags, 1, now)
        rewrite(packet, head, flow.out)
        return FORWARD

    def from_listener(self, packet: Buffer, head: Head, now: float) -> int:
        """Take a TCP packet that our listener's side sent; FORWARD: it is now for the application."""
        if head.end - head.start < 20:
            return self.odd("truncated")
        flags = packet[head.start + 13]
        way = self.listener_ways.get(head.addresses + bytes(packet[head.start : head.start + 4]))
        flow = self._by_slot[way.slot] if way is not None else None
        if flow is None or flow.state == HELD:
            return self.unknown(packet, head, self.to_listener)
        if flags & SYN:
            flow.listener_isn = SEQ_ACK(packet, head.start + 4)[0]
        self._track(flow, flags, 2, now)
        rewrite(packet, head, flow.back)
        return FORWARD

    def is_listeners(self, packet: Buffer, head: Head) -> bool:
        """Tell whether a packet comes from our listener (one device carries both sides)."""
        return (
            self.plan.one_device
            and head.source == self.plan.listener(head.version)
            and packet[head.start] << 8 | packet[head.start + 1] == self.plan.port
        )

    def error(self, packet: Buffer, head: Head) -> bool:
        """Take an ICMP message about a packet that the listener sent, and pass it on to the listener."""
        quoted = quoted_key(packet, head)
        flow = self.find(swapped(quoted)) if quoted is not None else None
        if flow is None or flow.state not in (OPENING, OPEN):
            return False
        self.to_listener.append(translated(packet, head, flow.back.key))
        self.odd("tcp-error")
        return True

    # What `SynTable` asks.

    def find(self, key: bytes) -> ReflectedFlow | None:
        """Return the flow of the application's tuple `key`."""
        way = self.app_ways.get(key)
        return self._by_slot[way.slot] if way is not None else None

    def begin(self, number: int, key: bytes, syn: HeldSyn, isn: int, now: float) -> Flow:
        """Make a flow with a tuple of its own."""
        version = 4 if len(key) == 12 else 6
        peer, port = self.plan.peer(version, number)
        listener_key = (
            self.plan.listener(version) + peer + self.plan.port.to_bytes(2, "big") + port.to_bytes(2, "big")
        )
        flow = ReflectedFlow(number, key, listener_key, syn, isn, now)
        self.app_ways[key], self.listener_ways[listener_key] = flow.out, flow.back
        return flow

    def arrival(self, flow: Flow) -> tuple[int, bytes, int]:
        """Return where its connection will come out: listener (by family), peer address, peer port."""
        version = 4 if len(flow.key) == 12 else 6
        return int(version == 6), *self.plan.peer(version, flow.number)

    def to_listener_form(self, flow: Flow, packet: bytearray | memoryview, head: Head) -> None:
        """Make the application's packet one for the listener, in place."""
        rewrite(packet, head, self._by_slot[flow.number & SLOTS].out)

    def listener_next(self, flow: Flow) -> int:
        """Return the sequence number after the listener's SYN; 0 before it was seen."""
        isn = self._by_slot[flow.number & SLOTS].listener_isn
        return (isn + 1) & 0xFFFFFFFF if isn >= 0 else 0

    def ended(self, flow: Flow) -> None:
        """Remove a flow from the tables of both directions."""
        assert isinstance(flow, ReflectedFlow)  # noqa: S101  begin() makes no others
        flow.out.open = flow.back.open = False
        del self.app_ways[flow.out.key], self.listener_ways[flow.back.key]

    def expire(self, flow: Flow) -> None:
        """Forget a closed flow; end another one as `SynTable` does."""
        if flow.state == CLOSED:
            self.forget(flow)
        else:
            super().expire(flow)

    def _track(self, flow: ReflectedFlow, flags: int, side: int, now: float) -> None:
        """Note what ends a flow: RST, or FIN of both sides."""
        if flags & FIN:
            flow.fins |= side
        if flags & RST and flow.state == OPENING:
            self.events.append(flow.number)
        if flags & RST or flow.fins == 3:
            flow.state = CLOSED
            flow.out.open = flow.back.open = False
            self.wait(flow, now)
        if flow.state == CLOSED:
            flow.deadline = now + LINGER


def fast(ways: dict[bytes, Way], packet: memoryview, size: int) -> bool:
    """Rewrite a packet of an open flow in place, in about 2 µs; False: it needs a closer look."""
    if packet[0] == 0x45 and size >= 40:
        _, fragment, protocol, ip_sum, key, flags, tcp_sum = _FAST4(packet)
        way = ways.get(key)
        if way is None or not way.open or flags & _SYN_FIN_RST or protocol != TCP or fragment & 0x3FFF:
            return False
        _PUT4(packet, 10, patch(ip_sum, way.ip), way.new)
        _PUT2(packet, 36, patch(tcp_sum, way.tcp))
        return True
    if packet[0] >> 4 == 6 and size >= 60:
        protocol, key, flags, tcp_sum = _FAST6(packet)
        way = ways.get(key)
        if way is None or not way.open or flags & _SYN_FIN_RST or protocol != TCP:
            return False
        packet[8:44] = way.new
        _PUT2(packet, 56, patch(tcp_sum, way.tcp))
        return True
    return False


def rewrite(packet: Buffer, head: Head, way: Way) -> None:
    """Put addresses and ports into a packet of any header length, patching both checksums."""
    start, at, new = head.start, ADDRESSES_AT[head.version], way.new
    view = memoryview(packet)
    view[at : at + len(new) - 4] = new[:-4]
    view[start : start + 4] = new[-4:]
    _PUT2(view, start + 16, patch(view[start + 16] << 8 | view[start + 17], way.tcp))
    if head.version == 4:
        _PUT2(view, 10, patch(view[10] << 8 | view[11], way.ip))
