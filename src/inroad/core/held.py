"""SYNs that wait for the far side: one table, whatever then becomes of the connection.

    HELD     the SYN waits for the daemon's verdict; retransmissions are swallowed
      | CONNECTED                         \\ refused, unreachable, timed out, given up: forgotten
    OPENING  the SYN went on to the listener
      | the handshake is complete         \\ RST, or nothing for OPENING_LIMIT: reset and cancelled
    (the mode's own states: `core.reflect`, `core.redirect`)

No I/O, no clock: packets come in as buffers, `to_app`, `to_listener` and `events` collect what goes out.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from inroad.core.checksum import Buffer, difference
from inroad.core.packet import (
    ACK,
    HOST,
    NET,
    PROHIBITED,
    RST,
    SYN,
    Head,
    parse,
    tcp_reset,
    tcp_segment,
    tcp_sum_right,
    turned,
    unreachable,
)

DROP, FORWARD = 0, 1
"""What the caller does with the packet it handed in: nothing, or send it to the other side."""

CONNECTED, REFUSED, NET_UNREACHABLE, HOST_UNREACHABLE, VERDICT_PROHIBITED, TIMED_OUT = range(6)
"""Verdicts, with the numbers of `inroad.host.vif.api.Verdict`."""

UNREACHABLE = {NET_UNREACHABLE: NET, HOST_UNREACHABLE: HOST, VERDICT_PROHIBITED: PROHIBITED}

HELD, OPENING, OPEN, CLOSED = range(4)

MAX_FLOWS = 65_536
MAX_SYN = 1_500
"""Bytes of a SYN: beyond that it carries data (TCP Fast Open) that would be held for nothing."""
FIRST_RETRANSMIT = 1.6
"""Seconds to wait for the first retransmission: Linux, macOS and Windows 11 send it after 1 s (RFC 6298)."""
OPENING_LIMIT = 10.0
TICK = 0.25
"""Seconds between looks at flows that wait for something. Nothing ticks while none does."""

SLOT_BITS = 20
SLOTS = (1 << SLOT_BITS) - 1

SEQ_ACK = Struct("!II").unpack_from


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


HeldSyn = tuple[bytes, Head]


class Flow:
    """One TCP connection. `key`: addresses and ports as the application sends them. `syn`: while it is held.

    `listener`: the number of the one where the connection will come out, where there are several.
    """

    __slots__ = ("deadline", "isn", "key", "last", "listener", "number", "state", "syn")

    def __init__(self, number: int, key: bytes, syn: HeldSyn, isn: int, now: float) -> None:
        self.number = number
        self.key = key
        self.state = HELD
        self.syn: HeldSyn | None = syn
        self.listener = 0
        self.isn = isn
        self.last = now
        self.deadline = now + FIRST_RETRANSMIT


def swapped(key: bytes) -> bytes:
    """Turn addresses and ports round: what the answers to `key` carry."""
    return turned(key[:-4]) + key[-2:] + key[-4:-2]


class SynTable:
    """Base of the two ways in which a connection goes on. Their part are the methods with `raise`."""

    def __init__(self, counters: dict[str, int]) -> None:
        self.counters = counters
        self.to_app: list[bytes] = []
        self.to_listener: list[bytes] = []
        self.events: list[Syn | int] = []  # an int is the number of a flow that was cancelled
        self.app_ways: dict[bytes, Way] = {}
        self.listener_ways: dict[bytes, Way] = {}
        self._by_slot: dict[int, Flow] = {}
        self._waiting: dict[int, Flow] = {}  # everything with a deadline
        self._next_number = 1
        self._next_tick: float | None = None

    def __len__(self) -> int:
        return len(self._by_slot)

    # What a mode does in its own way.

    def from_app(self, packet: Buffer, head: Head, now: float) -> int:
        """Take a TCP packet from the application's side; FORWARD: it is now for the listener."""
        raise NotImplementedError

    def from_listener(self, packet: Buffer, head: Head, now: float) -> int:
        """Take a TCP packet from the listener's side; FORWARD: it is now for the application."""
        return self.unknown(packet, head, self.to_listener)

    def is_listeners(self, packet: Buffer, head: Head) -> bool:
        """Tell whether a packet comes from our listener, where one device carries both sides."""
        return False

    def error(self, packet: Buffer, head: Head) -> bool:
        """Take an ICMP message if it is about a packet of ours on its way to the application.

        A mode whose connections the kernel redirects has none: errors go with their connection there.
        """
        return False

    def accepted(self, number: int, now: float) -> None:
        """The connection came out of the listener; a mode that sees packets knows it already."""

    def find(self, key: bytes) -> Flow | None:
        """Return the flow of the application's tuple `key`."""
        raise NotImplementedError

    def begin(self, number: int, key: bytes, syn: HeldSyn, isn: int, now: float) -> Flow | None:
        """Make a flow and enter it into the mode's tables; None: there is no tuple left for it."""
        raise NotImplementedError

    def arrival(self, flow: Flow) -> tuple[int, bytes, int]:
        """Return where its connection will come out: listener, peer address, peer port."""
        raise NotImplementedError

    def to_listener_form(self, flow: Flow, packet: bytearray | memoryview, head: Head) -> None:
        """Make the application's packet one for the listener, in place."""
        raise NotImplementedError

    def ended(self, flow: Flow) -> None:
        """Remove a flow from the mode's tables."""
        raise NotImplementedError

    # The daemon's side.

    def verdict(self, number: int, verdict: int, now: float) -> None:
        """End the wait of a held SYN; a flow that is gone meanwhile is ignored."""
        flow = self.by_number(number)
        if flow is None or flow.state != HELD or flow.syn is None:
            return
        syn, head = bytearray(flow.syn[0]), flow.syn[1]
        flow.syn = None
        if verdict == CONNECTED:
            flow.state = OPENING
            flow.deadline = now + OPENING_LIMIT
            self.to_listener_form(flow, syn, head)
            self.to_listener.append(bytes(syn))
            return
        if verdict == REFUSED:
            self.send(self.to_app, tcp_reset(syn, head))
        elif verdict in UNREACHABLE:
            self.to_app.append(unreachable(syn, head, UNREACHABLE[verdict]))
        self.forget(flow)

    def abort(self, number: int) -> None:
        """Reset a flow whose connection never came out of the listener."""
        flow = self.by_number(number)
        if flow is None:
            return
        if flow.state == OPENING:
            self.reset_opening(flow)
        self.forget(flow)  # an open one gets its RST with its next packet

    # Time.

    def deadline(self) -> float | None:
        """Return when `tick` wants to be called, or None."""
        if not self._waiting:
            self._next_tick = None
        return self._next_tick

    def tick(self, now: float) -> None:
        """Let flows go whose time is up."""
        if self._next_tick is None or now < self._next_tick:
            return
        for flow in [flow for flow in self._waiting.values() if flow.deadline <= now]:
            self.expire(flow)
        self._next_tick = now + TICK if self._waiting else None

    def expire(self, flow: Flow) -> None:
        """End a flow whose deadline has passed: given up while held, or stuck while opening."""
        if flow.state == OPENING:
            self.reset_opening(flow)
        self.cancel(flow)

    # Packets.

    def syn(self, packet: Buffer, head: Head, key: bytes, now: float) -> int:
        """Take a SYN of the application; FORWARD: it is now for the listener."""
        isn = SEQ_ACK(packet, head.start + 4)[0]
        flow = self.find(key)
        if flow is not None:
            if flow.state == HELD and flow.isn == isn:
                # Back-off doubles the interval at most; RFC 6298, 5.5.
                flow.deadline = now + 2 * max(now - flow.last, 1.0) + 0.6
                flow.last = now
                return self.odd("syn-retransmitted")
            if flow.isn == isn or flow.state == OPEN:
                # A retransmission that crossed the verdict, or what only the listener's TCP can judge.
                self.to_listener_form(flow, memoryview(packet)[: head.end], head)
                return FORWARD
            if flow.state == CLOSED:
                self.forget(flow)
            else:
                self.cancel(flow)  # the application closed and took the port again
        return self._ask(packet, head, key, isn, now)

    def _ask(self, packet: Buffer, head: Head, key: bytes, isn: int, now: float) -> int:
        """Hold a SYN and ask the daemon for a verdict."""
        if not tcp_sum_right(packet, head):
            return self.odd("bad-checksum")
        if len(self._by_slot) >= MAX_FLOWS:
            return self.odd("flows-full")
        if head.end > MAX_SYN:
            return self.odd("syn-too-long")  # what is sent again after silence has no data
        flow = self.begin(self._new_number(), key, (bytes(packet[: head.end]), head), isn, now)
        if flow is None:
            return self.odd("flows-full")
        self._by_slot[flow.number & SLOTS] = flow
        self.wait(flow, now)
        self.events.append(Syn(flow.number, head, key[-4:], *self.arrival(flow)))
        return DROP

    def unknown(self, packet: Buffer, head: Head, out: list[bytes]) -> int:
        """Answer a segment that belongs to no flow with RST."""
        if not tcp_sum_right(packet, head):
            return self.odd("bad-checksum")
        self.odd("unknown-flow")
        self.send(out, tcp_reset(packet, head))
        return DROP

    # Parts of the above and of the modes.

    def by_number(self, number: int) -> Flow | None:
        """Return the living flow of that number."""
        flow = self._by_slot.get(number & SLOTS)
        return flow if flow is not None and flow.number == number else None

    def odd(self, kind: str) -> int:
        """Count a packet that is not passed on."""
        self.counters[kind] = self.counters.get(kind, 0) + 1
        return DROP

    @staticmethod
    def send(out: list[bytes], packet: bytes | None) -> None:
        """Add a packet if there is one."""
        if packet is not None:
            out.append(packet)

    def wait(self, flow: Flow, now: float) -> None:
        """Watch the deadline of a flow."""
        self._waiting[flow.number] = flow
        if self._next_tick is None:
            self._next_tick = now + TICK

    def settle(self, flow: Flow) -> None:
        """Stop watching it."""
        self._waiting.pop(flow.number, None)

    def cancel(self, flow: Flow) -> None:
        """Tell the daemon that nobody wants this flow any more."""
        self.events.append(flow.number)
        self.forget(flow)

    def forget(self, flow: Flow) -> None:
        """Remove a flow from all tables."""
        del self._by_slot[flow.number & SLOTS]
        self._waiting.pop(flow.number, None)
        self.ended(flow)

    def reset_opening(self, flow: Flow) -> None:
        """Send RST to both sides of a handshake that did not end."""
        ack = (flow.isn + 1) & 0xFFFFFFFF
        back = swapped(flow.key)
        self.to_app.append(tcp_segment(back[:-4], back[-4:], self.listener_next(flow), ack, RST | ACK))
        reset = bytearray(tcp_segment(flow.key[:-4], flow.key[-4:], ack, 0, RST))
        head = parse(reset, len(reset))
        if isinstance(head, Head):
            self.to_listener_form(flow, reset, head)
            self.to_listener.append(bytes(reset))

    def listener_next(self, flow: Flow) -> int:
        """Return the sequence number that the application expects, as far as it was seen."""
        return 0

    def _new_number(self) -> int:
        number = self._next_number
        while number & SLOTS in self._by_slot:  # a living flow's slot is never given to another
            number += 1
        self._next_number = number + 1
        return number


def is_syn(flags: int) -> bool:
    """Tell whether a segment asks for a new connection."""
    return flags & (SYN | ACK | RST) == SYN
