"""The tunnel's state machine: many flows on one ordered byte stream (docs/protocol.md).

Pure: bytes go in through `receive`, which calls the flows' handlers; bytes come out through `send`, a
function that takes a list of buffers and returns how many bytes it took; time is an argument. The
shell around it (`tunnel`) calls `flush` after `wake` was called, and whenever there is room again.

The order of what goes out: the rest of what was begun, then the urgent bytes (control, credit, short
writes of quiet flows), then one frame of each flow in turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from inroad.core import frames
from inroad.core.flows import FlowHandler, Refusal
from inroad.core.frames import ProtocolError, pack_header
from inroad.core.mux_flow import HIGH_WATER, Buffer, MuxFlow
from inroad.core.mux_input import Input

WINDOW = 1024 * 1024
"""Bytes that a new flow may receive before its owner consumes some: 400 Mbit/s at 20 ms."""
MAX_FLOWS = 32_768
"""Flows that the peer may have open at once; further ones are refused as BUSY."""
FRAME = 64 * 1024
"""Payload of a bulk DATA frame: the turn of one flow."""
ROOM = 256 * 1024
"""Bytes handed to `send` in one go."""
URGENT_DATA = 256 * 1024
"""With more than this already urgent, data has to queue: only control may still overtake."""
URGENT_LIMIT = 16 * 1024 * 1024
"""Answers that the peer asked for but does not read end the link."""
PING_EVERY = 128 * 1024
"""Bytes after which a PING measures the round trip."""
MAX_PINGS = 64

_DATA = frames.DATA << 24


def _refuse_all(flow: MuxFlow, request: bytes) -> FlowHandler | None:
    flow.refuse(Refusal.NOT_ALLOWED, "this side opens no flows")
    return None


class Mux:
    """One end of a link. `client` ends number their flows 1, 3, 5, ..., the others 2, 4, 6, ..."""

    def __init__(
        self,
        *,
        client: bool,
        send: Callable[[list[Buffer]], int],
        wake: Callable[[], None],
        window: int = WINDOW,
        max_flows: int = MAX_FLOWS,
    ) -> None:
        self.send = send
        self.wake = wake
        self.window = window
        self.max_flows = max_flows
        self.on_open: Callable[[MuxFlow, bytes], FlowHandler | None] = _refuse_all
        self.on_control: Callable[[bytes], None] = lambda payload: None
        self.on_handler_error: Callable[[Exception], None] = lambda error: None
        self.flows: dict[int, MuxFlow] = {}
        self.urgent = bytearray()
        self.awake = False
        self.round = 0
        self.pending_size = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.dropped_datagrams = 0
        self.rtt = 0.0
        self.last_receive = 0.0
        self.next_id = 1 if client else 2
        self.peer_flows = 0
        self._ring: deque[MuxFlow] = deque()
        self._head: list[Buffer] = []
        self._stalled = False
        self._writable: list[MuxFlow] = []
        self.pings: deque[float] = deque()
        self.ping_count = 0
        self._pinged_at = 0
        self.receive = Input(self).receive

    # What the owner of the link asks for

    def open(self, request: bytes, handler: FlowHandler) -> MuxFlow | None:
        """Open a flow. None: all flow ids of this link are used up."""
        flow_id = self.next_id
        if flow_id > frames.MAX_FLOW_ID:
            return None
        if len(request) > frames.MAX_REQUEST:
            raise ValueError(f"a request of {len(request)} bytes, at most {frames.MAX_REQUEST}")
        self.next_id += 2
        flow = MuxFlow(self, flow_id, handler, self.window)
        self.flows[flow_id] = flow
        self.put(flow_id, frames.OPEN, frames.pack_number(flow.window) + request)
        return flow

    def send_control(self, payload: bytes) -> None:
        """Send a control message; raises ValueError when it is too large to be one."""
        if len(payload) > frames.MAX_CONTROL:
            raise ValueError(f"a control message of {len(payload)} bytes, at most {frames.MAX_CONTROL}")
        self.put(0, frames.CONTROL, payload)

    def ping(self, now: float) -> None:
        """Measure the round trip; the answer also shows that the peer lives."""
        if len(self.pings) < MAX_PINGS:
            self.ping_count += 1
            self.pings.append(now)
            self._pinged_at = self.bytes_out
            self.put(0, frames.PING, self.ping_count.to_bytes(8, "big"))

    def goodbye(self, reason: str) -> None:
        """Tell the peer that the link ends here and why; nothing may follow."""
        self.put(0, frames.RESET, reason.encode()[: frames.MAX_DETAIL])

    def drained(self) -> bool:
        """Whether everything that was accepted has gone to `send`."""
        return not (self.pending_size or self.urgent or self._head or self._ring)

    def abandon(self) -> list[MuxFlow]:
        """Forget every flow and return them: the link is no more."""
        flows = list(self.flows.values())
        for flow in flows:
            flow.cut = True
            self.forget(flow)
        self._writable.clear()
        return flows

    # What flows ask for

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

    def urgent_room(self) -> bool:
        """Whether data may still overtake."""
        return len(self.urgent) < URGENT_DATA

    def queue(self, flow: MuxFlow) -> None:
        """Give the flow its place in the ring of those that have something to send."""
        if not flow.queued and flow.sendable():
            flow.queued = True
            self._ring.append(flow)
            if not self.awake:
                self.awake = True
                self.wake()

    def send_now(self, flow: MuxFlow, data: memoryview) -> int:
        """Send straight from the writer's buffer if nobody waits; return how many bytes need no queue."""
        if self._stalled or self._ring or self._head:
            return 0
        size = min(len(data), flow.credit, ROOM)
        parts: list[Buffer] = []
        if self.urgent:
            parts.append(self.urgent)
            self.urgent = bytearray()
        for start in range(0, size, FRAME):
            part = data[start : min(start + FRAME, size)]
            parts.append(pack_header(flow.id, _DATA | len(part)))
            parts.append(part)
        flow.credit -= size
        self.bytes_out += size
        self._transmit(parts)
        # The writer's buffer is its own again after this call.
        self._head = [bytes(part) if isinstance(part, memoryview) else part for part in self._head]
        return size

    def forget(self, flow: MuxFlow) -> None:
        """The flow is over."""
        if flow.gone:
            return
        flow.gone = True
        flow.credit = 0
        flow.waiting = False
        if flow.pending:
            flow.pending.clear()
        self.pending_size -= flow.pending_size
        flow.pending_size = 0
        if self.flows.pop(flow.id, None) and (flow.id ^ self.next_id) & 1:
            self.peer_flows -= 1

    # Bytes out

    def flush(self, now: float) -> bool:
        """Hand to `send` what there is to send. False when it took less: call `writable` when it can more.

        To be called after `wake` and after `receive`. Calls `flow_writable` of flows that have room again.
        """
        if len(self.urgent) > URGENT_LIMIT:
            raise ProtocolError("the peer does not read what it asks for")
        self.awake = True  # whatever is put meanwhile goes out in this loop
        while True:
            while not self._stalled:
                parts = self._head or self._gather(now)
                if not parts:
                    break
                self._transmit(parts)
            if not self._writable:
                self.awake = False
                return not self._stalled
            flows, self._writable = self._writable, []
            for flow in flows:
                if not flow.gone:
                    self.call(flow, flow.handler.flow_writable)

    def writable(self, now: float) -> bool:
        """Do as `flush`: `send` has room again."""
        self._stalled = False
        return self.flush(now)

    def _gather(self, now: float) -> list[Buffer]:
        parts: list[Buffer] = []
        size = 0
        if self.urgent:
            parts.append(self.urgent)
            size = len(self.urgent)
            self.urgent = bytearray()
        ring = self._ring
        while ring and size < ROOM:
            flow = ring.popleft()
            flow.queued = False
            if flow.sendable():
                size += flow.take(parts, FRAME)
                self.queue(flow)
                self.check_writable(flow)
        self.bytes_out += size
        if self.bytes_out - self._pinged_at >= PING_EVERY:
            self.ping(now)
        return parts

    def _transmit(self, parts: list[Buffer]) -> None:
        taken = self.send(parts)
        for index, part in enumerate(parts):
            if taken < len(part):
                self._head = [memoryview(part)[taken:], *parts[index + 1 :]]
                self._stalled = True
                return
            taken -= len(part)
        self._head = []

    def check_writable(self, flow: MuxFlow) -> None:
        """Remember to tell a waiting owner when there is room again."""
        if flow.waiting and flow.credit and flow.pending_size <= HIGH_WATER // 2:
            flow.waiting = False
            self._writable.append(flow)
            if not self.awake:
                self.awake = True
                self.wake()

    # Handlers are called through these two

    def call(self, flow: MuxFlow, call: Callable[[], None]) -> None:
        """Call a method of a flow's handler."""
        try:
            call()
        except Exception as error:
            self.handler_failed(flow, error)

    def handler_failed(self, flow: MuxFlow, error: Exception) -> None:
        """A flow's owner has a bug: this costs the flow, not the link."""
        self.on_handler_error(error)
        if not flow.gone:
            flow.reset()
            self.call(flow, flow.handler.flow_reset)
