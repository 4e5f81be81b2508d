"""The tunnel's state machine: many flows on one ordered byte stream (docs/protocol.md).

Pure: bytes go in through a lane's `receive`, which calls the flows' handlers; bytes come out through
its `send`; time is an argument. This module holds what all lanes share: the flows, who may open them,
and the bounds on memory.

    mux.py        the flows of a link, opening and ending them, bounds
    mux_flow.py   one flow: what it may send and what it owes
    lane.py       bytes out, in which order and how much (pace.py)
    mux_input.py  bytes in
    frames.py     the format
"""

from __future__ import annotations

from collections.abc import Callable

from inroad.core import frames
from inroad.core.flows import FlowHandler, Refusal
from inroad.core.lane import Lane
from inroad.core.mux_flow import Buffer, MuxFlow

KIB, MIB = 1024, 1024 * 1024

WINDOW = 1 * MIB
"""Bytes that a new flow may receive before its owner consumes some: 400 Mbit/s at 20 ms."""
SMALL_WINDOW = 64 * KIB
MANY_FLOWS = 256
"""With more flows than this new ones begin with a quarter of the window, beyond four times as many
with the small one; they grow when they are used."""
MAX_WINDOW = 16 * MIB
"""1.6 Gbit/s at 80 ms."""
GROWTH_TOTAL = 128 * MIB
"""Bytes by which all windows together may exceed what they began with."""
HELD_SOFT = 64 * MIB
"""Bytes that wait here for slow readers before windows shrink (and at `HELD_HARD` flows are reset)."""
PENDING_SOFT, PENDING_HARD = 16 * MIB, 64 * MIB
"""Bytes that wait here to be sent. Beyond the first bound sockets are read in small pieces, beyond
the second not at all."""
READ, SMALL_READ = 256 * KIB, 16 * KIB
MAX_FLOWS = 32_768
"""Flows that the peer may have open at once; further ones are refused as BUSY."""


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
        wake: Callable[[], object],
        window: int = WINDOW,
        max_flows: int = MAX_FLOWS,
        now: float = 0.0,
    ) -> None:
        self.window = window
        self.max_flows = max_flows
        self.now = now
        self.on_open: Callable[[MuxFlow, bytes], FlowHandler | None] = _refuse_all
        self.on_control: Callable[[bytes], None] = lambda payload: None
        self.on_handler_error: Callable[[Exception], None] = lambda error: None
        self.flows: dict[int, MuxFlow] = {}
        self.pending_size = 0
        self.held = 0
        self.dropped_datagrams = 0
        self.shed_flows = 0
        self.next_id = 1 if client else 2
        self.last_peer_id = 0
        self.peer_flows = 0
        self._grown = 0
        self._starved: list[MuxFlow] = []
        self.main = Lane(self, send, wake)
        self.bulk: Lane | None = None
        self.on_bulk: set[MuxFlow] = set()
        """Flows that send on the bulk lane."""

    # What the owner of the link asks for

    def open(self, request: bytes, handler: FlowHandler) -> MuxFlow | None:
        """Open a flow. None: all flow ids of this link are used up."""
        flow_id = self.next_id
        if flow_id > frames.MAX_FLOW_ID:
            return None
        if len(request) > frames.MAX_REQUEST:
            raise ValueError(f"a request of {len(request)} bytes, at most {frames.MAX_REQUEST}")
        self.next_id += 2
        flow = MuxFlow(self, flow_id, handler, self.first_window())
        self.flows[flow_id] = flow
        self.main.put(flow_id, frames.OPEN, frames.pack_number(flow.window) + request)
        return flow

    def goodbye(self, reason: str) -> None:
        """Tell the peer that the link ends here and why; nothing may follow."""
        self.main.put(0, frames.RESET, reason.encode()[: frames.MAX_DETAIL])

    def drained(self, now: float) -> bool:
        """Whether everything that was accepted has gone out, and nothing on the bulk lane can come late."""
        return not self.pending_size and self.main.drained() and (self.bulk is None or self.bulk.settle(now))

    def tick(self, now: float) -> None:
        """To be called every few seconds: flows that became quiet return to the main lane."""
        self.now = now
        if self.on_bulk:
            self.on_bulk = {flow for flow in self.on_bulk if not flow.gone and not flow.return_if_quiet()}

    def abandon(self) -> list[MuxFlow]:
        """Forget every flow and return them: the link is no more."""
        flows = list(self.flows.values())
        for flow in flows:
            flow.cut = True
            flow.drop()
        return flows

    def lose_unopened(self) -> list[MuxFlow]:
        """Reset, forget and return the flows of ours that the peer has not answered yet."""
        lost = [flow for flow in self.flows.values() if flow.ours and not flow.opened]
        for flow in lost:
            self.main.put(flow.id, frames.RESET, b"")
            flow.drop()
        return lost

    # Two lanes

    def add_bulk(self, lane: Lane) -> None:
        """Use the lane of another, unused mux of the same peer for bulk from now on."""
        lane.mux = self
        self.bulk = lane

    def lose_bulk(self) -> list[MuxFlow]:
        """The bulk lane is no more: forget the flows that had bytes on it, either way, and return them."""
        lane, self.bulk = self.bulk, None
        lost = [flow for flow in self.flows.values() if flow.lane is lane or flow.receive_lane is lane]
        for flow in lost:
            self.main.put(flow.id, frames.RESET, b"")
            flow.cut = True
            flow.drop()
        return lost

    # The end of a flow

    def forget(self, flow: MuxFlow) -> None:
        """The flow is over; what its owner still holds counts until it is consumed."""
        if flow.gone:
            return
        flow.gone = True
        flow.credit = 0
        flow.waiting = False
        flow.parked = None
        if flow.pending:
            flow.pending.clear()
        self.pending_size -= flow.pending_size
        flow.pending_size = 0
        self._grown -= flow.window - flow.first_window
        self.on_bulk.discard(flow)
        if self.flows.pop(flow.id, None) and (flow.id ^ self.next_id) & 1:
            self.peer_flows -= 1
        if self._starved:
            self.feed_starved()

    # Bounds

    def first_window(self) -> int:
        """Window of a new flow."""
        flows = len(self.flows)
        if self.held > HELD_SOFT or flows > 4 * MANY_FLOWS:
            return min(self.window, SMALL_WINDOW)
        return self.window // 4 if flows > MANY_FLOWS else self.window

    def grow(self, flow: MuxFlow) -> None:
        """Double the window of a flow whose reader is faster than the window lets it be."""
        more = min(flow.window, MAX_WINDOW - flow.window, GROWTH_TOTAL - self._grown)
        if more > 0 and self.held < HELD_SOFT:
            self._resize(flow, more)

    def squeeze(self, flow: MuxFlow) -> None:
        """While too much waits for slow readers, keep back credit until the window is small."""
        if self.held > HELD_SOFT:
            less = min(flow.owed, flow.window - SMALL_WINDOW)
            if less > 0:
                self._resize(flow, -less)

    def _resize(self, flow: MuxFlow, more: int) -> None:
        self._grown += more
        flow.window += more
        flow.owed += more

    def shed(self) -> None:
        """Too much waits for slow readers: reset the flow that holds most."""
        most = max(self.flows.values(), key=lambda flow: flow.held)
        self.shed_flows += 1
        most.reset()
        self.call(most, most.handler.flow_reset)

    def read_size(self, flow: MuxFlow) -> int:
        """How much the flow's owner may write at once; 0 makes it wait for `flow_writable`."""
        if self.pending_size < PENDING_SOFT:
            return READ
        if self.pending_size < PENDING_HARD:
            return SMALL_READ
        self._starved.append(flow)
        return 0

    def feed_starved(self) -> None:
        """There is room again in what all flows share."""
        if self.pending_size < PENDING_HARD // 2:
            flows, self._starved = self._starved, []
            for flow in flows:
                flow.lane.tell_writable(flow)

    @property
    def starved(self) -> bool:
        """Whether flows wait for room in what all share."""
        return bool(self._starved)

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
