"""One carrier of a mux: what waits to go out on it, in which order, and how much at a time.

The order: the rest of what was begun, then the urgent bytes (control, credit, short writes of quiet
flows), then one frame of each flow in turn, as far as the pace allows. A link has one lane, or two:
the second carries bulk over a connection of its own (docs/protocol.md, "Two lanes").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from inroad.core import frames
from inroad.core.frames import ProtocolError, pack_header
from inroad.core.mux_flow import HIGH_WATER, Buffer, MuxFlow
from inroad.core.mux_input import Input
from inroad.core.pace import Pace

if TYPE_CHECKING:
    from inroad.core.mux import Mux

ROOM = 256 * 1024
"""Bytes handed to `send` in one go."""
URGENT_LIMIT = 16 * 1024 * 1024
"""Answers that the peer asked for but does not read end the link."""
MAX_PINGS = 64
PING_SIZE = 16
PING_PAUSE = 0.1
"""Seconds between two PINGs of a side that only receives."""

_DATA = frames.DATA << 24


class Lane:
    """`send` takes a list of buffers and returns how many bytes it took; `wake` asks for a `flush`."""

    def __init__(self, mux: Mux, send: Callable[[list[Buffer]], int], wake: Callable[[], object]) -> None:
        self.mux = mux
        self.send = send
        self.wake = wake
        self.urgent = bytearray()
        self.awake = False
        self.pace = Pace()
        self.round = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.last_receive = mux.now
        self.receive = Input(self).receive
        self._ring: deque[MuxFlow] = deque()
        self._head: list[Buffer] = []
        self._states: dict[str, bytes] = {}
        self._stalled = False
        self._held_up = False  # since the last PING there was more to send than could go
        self._writable: list[MuxFlow] = []
        self._ping_count = 0
        self._pinged_at = 0
        self._ping_time = mux.now

    # What waits

    def put(self, flow_id: int, kind: int, payload: bytes) -> None:
        """Queue a short frame; it overtakes bulk."""
        self.put_data(pack_header(flow_id, kind << 24 | len(payload)), payload)

    def put_data(self, header: bytes, payload: Buffer) -> None:
        """Queue the two parts of an urgent frame."""
        self.urgent += header
        self.urgent += payload
        if not self.awake:
            self.awake = True
            self.wake()

    def send_control(self, payload: bytes, state: str = "") -> None:
        """Send a control message; raises ValueError when it is too large to be one.

        One with a `state` takes the place of an older one of that name which has not begun to go out: a
        peer that reads slowly gets the newest, never a queue of old ones.
        """
        if len(payload) > frames.MAX_CONTROL:
            raise ValueError(f"a control message of {len(payload)} bytes, at most {frames.MAX_CONTROL}")
        if not state:
            self.put(0, frames.CONTROL, payload)
            return
        self._states[state] = payload
        if not self.awake:
            self.awake = True
            self.wake()

    def queue(self, flow: MuxFlow) -> None:
        """Give the flow its place in the ring of those that have something to send."""
        if not flow.queued and flow.sendable():
            flow.queued = True
            self._ring.append(flow)
            if not self.awake:
                self.awake = True
                self.wake()

    def tell_writable(self, flow: MuxFlow) -> None:
        """Call the flow's `flow_writable` after the next flush."""
        self._writable.append(flow)
        if not self.awake:
            self.awake = True
            self.wake()

    def check_writable(self, flow: MuxFlow) -> None:
        """Tell a waiting owner when there is room again."""
        if flow.waiting and flow.credit and flow.pending_size <= HIGH_WATER // 2:
            flow.waiting = False
            self.tell_writable(flow)

    def is_free(self) -> bool:
        """Whether nobody waits and the pace allows more, so that a short write overtakes nothing."""
        pace = self.pace
        return not (self._ring or self._head) and self.bytes_out + len(self.urgent) < pace.acked + pace.cap

    def drained(self) -> bool:
        """Whether everything has gone to `send`."""
        return not (self.urgent or self._head or self._ring or self._states)

    def settle(self, now: float) -> bool:
        """Whether the peer has confirmed everything; asks it to if nothing else does."""
        if not self.drained() or self.pace.outstanding:
            return False
        if self.bytes_out == self._pinged_at + PING_SIZE:
            return True
        self.ping(now)
        return False

    # Bytes out

    def flush(self, now: float) -> None:
        """Hand to `send` what may go; when it took less, call `writable` once it can take more.

        To be called after `wake` and after `receive`. Calls `flow_writable` of flows that have room again.
        Raises `ProtocolError` when the peer makes us answer and does not read.
        """
        self.mux.now = now
        if len(self.urgent) > URGENT_LIMIT:
            raise ProtocolError("the peer does not read what it asks for")
        self.awake = True  # whatever is put meanwhile goes out in this loop
        while True:
            while not (self._stalled or self.drained()):
                parts = self._head or self._gather(now)
                if not parts:
                    break
                self._transmit(parts)
            if not self._writable:
                break
            flows, self._writable = self._writable, []
            for flow in flows:
                if not flow.gone:
                    self.mux.call(flow, flow.handler.flow_writable)
        self.awake = False

    def writable(self, now: float) -> None:
        """Do as `flush`: `send` has room again."""
        self._stalled = False
        self.flush(now)

    def send_now(self, flow: MuxFlow, data: memoryview) -> int:
        """Send straight from the writer's buffer if nobody waits; return how many bytes need no queue."""
        if self._stalled or self._ring or self._head:
            return 0
        room = self.pace.cap - self.bytes_out + self.pace.acked
        size = min(len(data), flow.credit, room, ROOM)
        if size <= 0:
            return 0
        parts: list[Buffer] = []
        if self.urgent:
            parts.append(self.urgent)
            self.bytes_out += len(self.urgent)
            self.urgent = bytearray()
        flow.credit -= size
        self._held_up = self._held_up or size < min(len(data), flow.credit + size)
        pace, now = self.pace, self.mux.now
        for start in range(0, size, pace.frame):
            part = data[start : min(start + pace.frame, size)]
            parts.append(pack_header(flow.id, _DATA | len(part)))
            parts.append(part)
            self.bytes_out += len(part) + frames.HEADER_SIZE
            if self.bytes_out - self._pinged_at >= pace.interval:
                self._add_ping(parts, now)
        self._transmit(parts)
        # The writer's buffer is its own again after this call.
        self._head = [bytes(part) if isinstance(part, memoryview) else part for part in self._head]
        return size

    def _gather(self, now: float) -> list[Buffer]:
        parts: list[Buffer] = []
        if self._states:
            self.put(0, frames.CONTROL, self._states.pop(next(iter(self._states))))
        if self.urgent:
            parts.append(self.urgent)
            self.bytes_out += len(self.urgent)
            self.urgent = bytearray()
        ring = self._ring
        if ring:
            pace = self.pace
            end = min(self.bytes_out + ROOM, pace.acked + pace.cap)
            while ring and self.bytes_out < end:
                flow = ring.popleft()
                if flow.lane is not self:  # it changed lanes with its place here still taken
                    continue
                flow.queued = False
                if flow.sendable():
                    self.bytes_out += flow.take(parts, pace.frame)
                    self.queue(flow)
                    self.check_writable(flow)
                    if self.bytes_out - self._pinged_at >= pace.interval:
                        self._add_ping(parts, now)
            if ring and not pace.outstanding and self.bytes_out > self._pinged_at:
                # Without an answer to come nothing would say when there is room again.
                self._add_ping(parts, now)
        elif parts and self.bytes_out - self._pinged_at >= self.pace.interval:
            self._add_ping(parts, now)
        return parts

    def _transmit(self, parts: list[Buffer]) -> None:
        taken = self.send(parts)
        self._head = []
        for index, part in enumerate(parts):
            if taken < len(part):
                self._head = [memoryview(part)[taken:], *parts[index + 1 :]]
                self._stalled = self._held_up = True
                return
            taken -= len(part)

    # Measuring

    def ping(self, now: float) -> None:
        """Measure the round trip; the answer also shows that the peer lives."""
        if self.pace.outstanding < MAX_PINGS:
            self.put_data(self._ping_frame(now), b"")

    def ping_sometimes(self) -> None:
        """Measure the round trip if that was long ago: for a side that only receives."""
        if not self.pace.outstanding and self.mux.now - self._ping_time >= PING_PAUSE:
            self.ping(self.mux.now)

    def _add_ping(self, parts: list[Buffer], now: float) -> None:
        if self.pace.outstanding < MAX_PINGS:
            parts.append(self._ping_frame(now))
            self.bytes_out += PING_SIZE

    def _ping_frame(self, now: float) -> bytes:
        limited = self._held_up or bool(self._ring)
        self._held_up = False
        self._ping_count += 1
        self._pinged_at = self.bytes_out
        self._ping_time = now
        self.pace.mark(self.bytes_out, limited, now)
        return frames.frame(0, frames.PING, self._ping_count.to_bytes(8, "big"))

    def pong(self, payload: memoryview, now: float) -> None:
        """The peer answered a PING, which can only be the oldest one."""
        oldest = self._ping_count - self.pace.outstanding + 1
        if not self.pace.outstanding or int.from_bytes(payload[:8], "big") != oldest:
            raise ProtocolError("PONG without its PING")
        self.pace.answer(now, int.from_bytes(payload[8:], "big") / 1e6)
        self.round = self.pace.round
