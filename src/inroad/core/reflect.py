"""TCP through the VIF: SYNs held until the far side has answered, then addresses rewritten.

A flow of the application (S:sp -> T:tp) is shown to our listener as (P:pp -> L:lp), where P:pp is made
from the flow's number, so every flow has a tuple of its own whatever the application reuses:

    application's side            listener's side
    S:sp -> T:tp        <-->      P:pp -> L:lp

    HELD     the SYN waits for the daemon's verdict; retransmissions are swallowed
      | CONNECTED                         \\ refused, unreachable, timed out, given up: forgotten
    OPENING  the SYN went on to the listener
      | the application's ACK             \\ RST, or nothing for OPENING_LIMIT: cancelled
    OPEN     packets are rewritten, in place, with checksums patched (RFC 1624)
      | FIN both ways, or RST
    CLOSED   stragglers are still rewritten; forgotten when quiet for LINGER

No I/O, no clock: packets come in as buffers, `to_app`, `to_listener` and `events` collect what goes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from inroad.core.checksum import Buffer, difference, patch
from inroad.core.packet import (
    ACK,
    ADDRESSES_AT,
    FIN,
    HOST,
    NET,
    PROHIBITED,
    RST,
    SYN,
    TCP,
    Head,
    parse,
    tcp_reset,
    tcp_segment,
    unreachable,
)

DROP, FORWARD = 0, 1
"""What the caller does with the packet it handed in: nothing, or send it to the other side."""

CONNECTED, REFUSED, NET_UNREACHABLE, HOST_UNREACHABLE, VERDICT_PROHIBITED, TIMED_OUT = range(6)
"""Verdicts, with the numbers of `inroad.host.vif.api.Verdict`."""

UNREACHABLE = {NET_UNREACHABLE: NET, HOST_UNREACHABLE: HOST, VERDICT_PROHIBITED: PROHIBITED}

HELD, OPENING, OPEN, CLOSED = range(4)

MAX_FLOWS = 65_536
FIRST_RETRANSMIT = 1.6
"""Seconds to wait for the first retransmission: Linux, macOS and Windows 11 send it after 1 s (RFC 6298)."""
OPENING_LIMIT = 10.0
LINGER = 10.0
TICK = 0.25
"""Seconds between looks at flows that wait for something. Nothing ticks while none does."""

_POOL_BITS = 20
_SLOTS = (1 << _POOL_BITS) - 1
_PORT_BITS = 15

# Version, fragment field, protocol, header checksum, addresses and ports, flags, checksum (no options).
_FAST4 = Struct("!B5xHxBH12s9xB2xH").unpack_from
# Next header, addresses and ports, flags, checksum.
_FAST6 = Struct("!6xBx36s9xB2xH").unpack_from
_PUT4 = Struct("!H12s").pack_into
_PUT2 = Struct("!H").pack_into
_SYN_FIN_RST = SYN | FIN | RST
_SEQ_ACK = Struct("!II").unpack_from


@dataclass(frozen=True, slots=True)
class Plan:
    """Addresses on the listener's side. `pool4` and `pool6` are where P begins, as numbers."""

    port: int
    listener4: bytes = bytes((198, 19, 0, 1))
    pool4: int = 0xC6120001  # 198.18.0.1 (RFC 2544: never on a real network)
    listener6: bytes = bytes.fromhex("20010002000000000000000000000001")
    pool6: int = 0x20010002_00000001_00000000_00000001  # 2001:2::/48 (RFC 5180)

    def peer(self, version: int, flow: int) -> tuple[bytes, int]:
        """Return the address and port under which the listener sees a flow."""
        slot = flow & _SLOTS
        port = 1 << _PORT_BITS | slot & ((1 << _PORT_BITS) - 1)
        if version == 4:
            return (self.pool4 + (slot >> _PORT_BITS)).to_bytes(4, "big"), port
        return (self.pool6 + (slot >> _PORT_BITS)).to_bytes(16, "big"), port

    def listener(self, version: int) -> bytes:
        """Return the listener's address."""
        return self.listener4 if version == 4 else self.listener6


class Syn(NamedTuple):
    """A new flow wants a verdict. Listener number `listener` will see it come from `peer` and `peer_port`."""

    number: int
    head: Head
    ports: bytes
    listener: int
    peer: bytes
    peer_port: int


class Way:
    """How packets of one direction are rewritten, in place.

    `new`: addresses and ports as the other side sees them; `ip` and `tcp`: the differences of the
    header's and the segment's checksum. `open` is False while packets need a closer look. The flow is
    named by slot, not held: without cycles a forgotten flow is freed at once.
    """

    __slots__ = ("ip", "key", "new", "open", "slot", "tcp")

    def __init__(self, slot: int, key: bytes, new: bytes) -> None:
        self.slot = slot
        self.key = key
        self.new = new
        self.ip = difference(key[:-4], new[:-4])
        self.tcp = difference(key, new)
        self.open = False


class Flow:
    """One TCP connection. `out` leads to the listener, `back` to the application."""

    __slots__ = ("back", "deadline", "fins", "isn", "last", "listener_isn", "number", "out", "state", "syn")

    def __init__(self, number: int, app: bytes, listener: bytes, syn: bytes, isn: int, now: float) -> None:
        self.number = number
        self.state = HELD
        self.syn = syn
        self.isn = isn
        self.listener_isn = -1
        self.fins = 0
        self.last = now
        self.deadline = now + FIRST_RETRANSMIT
        self.out = Way(number & _SLOTS, app, _swapped(listener))
        self.back = Way(number & _SLOTS, listener, _swapped(app))


def _swapped(key: bytes) -> bytes:
    """Turn addresses and ports round: what the answers to `key` carry."""
    size = (len(key) - 4) // 2
    return key[size : 2 * size] + key[:size] + key[-2:] + key[-4:-2]


class Reflector:
    """The table of TCP flows between one VIF and one listener (or, on one device, the VIF and itself)."""

    def __init__(self, plan: Plan, counters: dict[str, int]) -> None:
        self.plan = plan
        self.counters = counters
        self.to_app: list[bytes] = []
        self.to_listener: list[bytes] = []
        self.events: list[Syn | int] = []  # an int is the number of a flow that was cancelled
        self.app_ways: dict[bytes, Way] = {}
        self.listener_ways: dict[bytes, Way] = {}
        self._by_slot: dict[int, Flow] = {}
        self._waiting: dict[int, Flow] = {}  # HELD, OPENING and CLOSED: everything with a deadline
        self._next_number = 1
        self._next_tick: float | None = None

    def __len__(self) -> int:
        return len(self._by_slot)

    def from_app(self, packet: Buffer, head: Head, now: float) -> int:
        """Take a TCP packet that the application's side sent; FORWARD: it is now for the listener."""
        if head.end - head.start < 20:
            return self._odd("truncated")
        flags = packet[head.start + 13]
        key = head.addresses + bytes(packet[head.start : head.start + 4])
        way = self.app_ways.get(key)
        flow = self._by_slot[way.slot] if way is not None else None
        if flags & SYN and not flags & ACK:
            return self._syn(packet, head, key, flow, now)
        if flow is None:
            return self._unknown(packet, head, self.to_app)
        if flow.state == HELD:
            if flags & RST:
                self._cancel(flow)
            return DROP
        if flow.state == OPENING and flags & (ACK | RST) == ACK:
            flow.state = OPEN
            flow.out.open = flow.back.open = True
            self._waiting.pop(flow.number, None)
        self._track(flow, flags, 1, now)
        rewrite(packet, head, flow.out)
        return FORWARD

    def from_listener(self, packet: Buffer, head: Head, now: float) -> int:
        """Take a TCP packet that our listener's side sent; FORWARD: it is now for the application."""
        if head.end - head.start < 20:
            return self._odd("truncated")
        flags = packet[head.start + 13]
        way = self.listener_ways.get(head.addresses + bytes(packet[head.start : head.start + 4]))
        flow = self._by_slot[way.slot] if way is not None else None
        if flow is None or flow.state == HELD:
            return self._unknown(packet, head, self.to_listener)
        if flags & SYN:
            flow.listener_isn = _SEQ_ACK(packet, head.start + 4)[0]
        self._track(flow, flags, 2, now)
        rewrite(packet, head, flow.back)
        return FORWARD

    def knows_listener_key(self, packet: Buffer, head: Head) -> bool:
        """Tell whether a packet comes from our listener (one device carries both sides)."""
        return head.source == self.plan.listener(head.version) and (
            packet[head.start] << 8 | packet[head.start + 1] == self.plan.port
        )

    # The daemon's side.

    def verdict(self, number: int, verdict: int, now: float) -> None:
        """End the wait of a held SYN; a flow that is gone meanwhile is ignored."""
        flow = self._flow(number)
        if flow is None or flow.state != HELD:
            return
        if verdict == CONNECTED:
            flow.state = OPENING
            flow.deadline = now + OPENING_LIMIT
            syn = bytearray(flow.syn)
            head = parse(syn, len(syn))
            if isinstance(head, Head):  # it was one when it came
                rewrite(syn, head, flow.out)
                self.to_listener.append(bytes(syn))
            flow.syn = b""
            return
        head = parse(flow.syn, len(flow.syn))
        if isinstance(head, Head):
            if verdict == REFUSED:
                self._send(self.to_app, tcp_reset(flow.syn, head))
            elif verdict in UNREACHABLE:
                self.to_app.append(unreachable(flow.syn, head, UNREACHABLE[verdict]))
        self._forget(flow)

    def abort(self, number: int) -> None:
        """Reset a flow whose connection never came out of the listener."""
        flow = self._flow(number)
        if flow is None:
            return
        if flow.state == OPENING:
            self._reset_opening(flow)
        self._forget(flow)  # an open one gets its RST with its next packet

    def deadline(self) -> float | None:
        """Return when `tick` wants to be called, or None."""
        if not self._waiting:
            self._next_tick = None
        return self._next_tick

    def tick(self, now: float) -> None:
        """Forget flows whose time is up: given up while held, stuck while opening, quiet after the end."""
        if self._next_tick is None or now < self._next_tick:
            return
        for flow in [flow for flow in self._waiting.values() if flow.deadline <= now]:
            if flow.state == CLOSED:
                self._forget(flow)
                continue
            if flow.state == OPENING:
                self._reset_opening(flow)
            self._cancel(flow)
        self._next_tick = now + TICK if self._waiting else None

    # Parts of the above.

    def _syn(self, packet: Buffer, head: Head, key: bytes, flow: Flow | None, now: float) -> int:
        isn = _SEQ_ACK(packet, head.start + 4)[0]
        if flow is not None:
            if flow.state == HELD and flow.isn == isn:
                # Back-off doubles the interval at most; RFC 6298, 5.5.
                flow.deadline = now + 2 * max(now - flow.last, 1.0) + 0.6
                flow.last = now
                return self._odd("syn-retransmitted")
            if flow.state in (OPENING, OPEN) and (flow.isn == isn or flow.state == OPEN):
                # A retransmission that crossed the verdict, or what only the listener's TCP can judge.
                rewrite(packet, head, flow.out)
                return FORWARD
            if flow.state == CLOSED:
                self._forget(flow)
            else:
                self._cancel(flow)  # the application closed and took the port again
        if len(self._by_slot) >= MAX_FLOWS:
            return self._odd("flows-full")
        number = self._new_number()
        peer, port = self.plan.peer(head.version, number)
        ports = self.plan.port.to_bytes(2, "big") + port.to_bytes(2, "big")
        listener_key = self.plan.listener(head.version) + peer + ports
        flow = Flow(number, key, listener_key, bytes(packet[: head.end]), isn, now)
        self.app_ways[key], self.listener_ways[listener_key] = flow.out, flow.back
        self._by_slot[number & _SLOTS] = flow
        self._wait(flow, now)
        self.events.append(Syn(number, head, key[-4:], head.version == 6, peer, port))
        return DROP

    def _flow(self, number: int) -> Flow | None:
        flow = self._by_slot.get(number & _SLOTS)
        return flow if flow is not None and flow.number == number else None

    def _new_number(self) -> int:
        number = self._next_number
        while number & _SLOTS in self._by_slot:  # a living flow's tuple is never given to another
            number += 1
        self._next_number = number + 1
        return number

    def _unknown(self, packet: Buffer, head: Head, out: list[bytes]) -> int:
        self._odd("unknown-flow")
        self._send(out, tcp_reset(packet, head))
        return DROP

    def _odd(self, kind: str) -> int:
        self.counters[kind] = self.counters.get(kind, 0) + 1
        return DROP

    @staticmethod
    def _send(out: list[bytes], packet: bytes | None) -> None:
        if packet is not None:
            out.append(packet)

    def _track(self, flow: Flow, flags: int, side: int, now: float) -> None:
        """Note what ends a flow: RST, or FIN of both sides."""
        if flags & FIN:
            flow.fins |= side
        if flags & RST and flow.state == OPENING:
            self.events.append(flow.number)
        if flags & RST or flow.fins == 3:
            flow.state = CLOSED
            flow.out.open = flow.back.open = False
            self._wait(flow, now)
        if flow.state == CLOSED:
            flow.deadline = now + LINGER

    def _wait(self, flow: Flow, now: float) -> None:
        self._waiting[flow.number] = flow
        if self._next_tick is None:
            self._next_tick = now + TICK

    def _cancel(self, flow: Flow) -> None:
        self.events.append(flow.number)
        self._forget(flow)

    def _forget(self, flow: Flow) -> None:
        flow.out.open = flow.back.open = False
        del (
            self._by_slot[flow.number & _SLOTS],
            self.app_ways[flow.out.key],
            self.listener_ways[flow.back.key],
        )
        self._waiting.pop(flow.number, None)

    def _reset_opening(self, flow: Flow) -> None:
        out, back = flow.out.new, flow.back.new
        ack = (flow.isn + 1) & 0xFFFFFFFF
        seq = (flow.listener_isn + 1) & 0xFFFFFFFF if flow.listener_isn >= 0 else 0
        self.to_app.append(tcp_segment(back[:-4], back[-4:], seq, ack, RST | ACK))
        self.to_listener.append(tcp_segment(out[:-4], out[-4:], ack, 0, RST))


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
