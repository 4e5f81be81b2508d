"""The receiving half of a lane: bytes in any fragmentation to calls of the flows' handlers.

The payload of DATA and FIN is handed on as it comes, so that a frame never has to be assembled and a
large one costs no copy; every other frame is short and is taken whole. Each rule that a hostile peer
could break is checked here, before anything is stored or called.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from inroad.core import frames
from inroad.core.flows import Quiet, Refusal
from inroad.core.frames import HEADER_SIZE, ProtocolError, unpack_header, unpack_number
from inroad.core.mux_flow import MuxFlow

if TYPE_CHECKING:
    from inroad.core.lane import Lane
    from inroad.core.mux import Mux

MAX_CHANGES = 8
"""Changes of lane that may wait in one flow: an honest sender changes twice a second at most."""
_DATA, _FIN, _LANE = frames.DATA, frames.FIN, frames.LANE
HELD_HARD = 256 * 1024 * 1024
"""Bytes that may wait here for slow readers; then the flow that holds most is reset."""
_NOBODY = Quiet()


class PeerClosed(Exception):
    """The peer said goodbye (RESET of flow 0); its text is the peer's reason."""


class Input:
    """Parses what comes on one lane."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._tail = bytearray()
        self._left = 0
        self._left_flow: MuxFlow | None = None
        self._left_ends = False
        self._answer: dict[int, Callable[[int, memoryview], None]] = {
            frames.OPEN: self._received_open,
            frames.OPENED: self._received_opened,
            frames.REFUSED: self._received_refused,
            frames.CREDIT: self._received_credit,
            frames.RESET: self._received_reset,
            frames.DATAGRAM: self._received_datagram,
            frames.PING: self._received_ping,
            frames.PONG: self._received_pong,
            frames.CONTROL: self._received_control,
            frames.LANE: self._received_lane,
        }

    @property
    def _mux(self) -> Mux:
        return self._lane.mux

    def receive(self, data: memoryview, now: float) -> None:
        """Take bytes as they come, cut anywhere; raises `ProtocolError` or `PeerClosed`.

        Call `flush` of the mux's lanes afterwards: what handlers send meanwhile is not announced with `wake`.
        """
        lane = self._lane
        mux = self._mux
        mux.now = lane.last_receive = now
        lane.awake = True
        flows = mux.flows
        end = len(data)
        lane.bytes_in += end
        position = self._finish_tail(data) if self._tail else 0
        if self._left:
            position = self._continue_data(data, position)
        while end - position >= HEADER_SIZE:
            flow_id, word = unpack_header(data, position)
            kind, size = word >> 24, word & 0xFFFFFF
            start = position + HEADER_SIZE
            position = start + size
            if kind == _DATA and position <= end:
                flow = flows.get(flow_id)
                if flow is not None and flow.receive_lane is lane and 0 < size <= flow.receive_credit:
                    flow.receive_credit -= size
                    flow.held += size
                    mux.held += size
                    if mux.held > HELD_HARD:
                        mux.shed()
                    try:
                        flow.handler.flow_data(data[start:position])
                    except Exception as error:
                        mux.handler_failed(flow, error)
                    continue
            frames.check(flow_id, kind, size)
            if kind in (_DATA, _FIN):
                self._begin_data(flow_id, kind, size)
                position = self._continue_data(data, start)
            elif position <= end:
                self._answer[kind](flow_id, data[start:position])
                mux = self._mux  # a control message may have made this a lane of another mux
                flows = mux.flows
            else:
                self._tail += data[start - HEADER_SIZE :]
                return
        self._tail += data[position:]

    def _finish_tail(self, data: memoryview) -> int:
        """Complete the header, or the short frame, that earlier bytes began; return where to go on."""
        tail = self._tail
        position = min(HEADER_SIZE - len(tail), len(data)) if len(tail) < HEADER_SIZE else 0
        tail += data[:position]
        if len(tail) < HEADER_SIZE:
            return position
        flow_id, word = unpack_header(tail)
        kind, size = word >> 24, word & 0xFFFFFF
        frames.check(flow_id, kind, size)
        if kind in (_DATA, _FIN):
            self._tail = bytearray()
            self._begin_data(flow_id, kind, size)
            return position
        stop: int = min(position + HEADER_SIZE + size - len(tail), len(data))
        tail += data[position:stop]
        if len(tail) == HEADER_SIZE + size:
            self._tail = bytearray()
            self._answer[kind](flow_id, memoryview(tail)[HEADER_SIZE:])
        return stop

    # The bytes of a flow, whole or in parts, on the lane where they are expected or on the other

    def _begin_data(self, flow_id: int, kind: int, size: int) -> None:
        """Check the header of DATA or FIN; the payload follows, perhaps in parts, perhaps empty."""
        flow = self._known(flow_id)
        self._left = size
        self._left_flow = flow
        self._left_ends = kind == _FIN
        if flow is None:
            return
        if flow.eof_received:
            raise ProtocolError(f"data after FIN of flow {flow_id}")
        if not flow.opened and (self._lane is self._mux.main or not flow.ours):
            raise ProtocolError(f"data for flow {flow_id} before it was opened")
        if size > flow.receive_credit:
            raise ProtocolError(f"{size} bytes for flow {flow_id}, which had {flow.receive_credit} of credit")
        flow.receive_credit -= size
        if kind == _FIN and not size:
            self._part(flow, _FIN, memoryview(b""))

    def _continue_data(self, data: memoryview, position: int) -> int:
        stop = min(position + self._left, len(data))
        self._left -= stop - position
        flow = self._left_flow
        if flow is not None and not flow.gone and stop > position:
            flow.held += stop - position
            self._mux.held += stop - position
            if self._mux.held > HELD_HARD:
                self._mux.shed()
            last = self._left_ends and not self._left
            self._part(flow, _FIN if last else _DATA, data[position:stop])
        return stop

    def _part(self, flow: MuxFlow, kind: int, data: memoryview) -> None:
        """Hand bytes on, or park them until the flow's change to this lane has been read on the other."""
        if flow.gone:
            return
        if flow.receive_lane is self._lane:
            self._deliver(flow, kind, data)
            return
        parked = flow.parked = flow.parked or deque()
        if kind == _LANE:
            if sum(kind == _LANE for kind, _ in parked) >= MAX_CHANGES:
                raise ProtocolError(f"flow {flow.id} changes lanes more than {MAX_CHANGES} times ahead")
            parked.append((kind, bytearray()))
        elif parked and parked[-1][0] == _DATA:  # one entry for many frames: a byte each would cost dear
            parked[-1][1].extend(data)
            parked[-1] = (kind, parked[-1][1])
        else:
            parked.append((kind, bytearray(data)))

    def _deliver(self, flow: MuxFlow, kind: int, data: memoryview) -> None:
        mux = self._mux
        if kind == _LANE:
            self._change_lane(flow)
            return
        if data:
            flow.ending = kind == _FIN
            try:
                flow.handler.flow_data(data)
            except Exception as error:
                mux.handler_failed(flow, error)
        if kind == _FIN and not flow.gone:
            flow.ended_input()
            if flow.parked:
                raise ProtocolError(f"data after FIN of flow {flow.id}")

    def _change_lane(self, flow: MuxFlow) -> None:
        """What follows comes on the other lane, and some of it may be here already."""
        lane, other = self._lanes(flow)
        flow.receive_lane = other
        parked, flow.parked = flow.parked, None
        while parked and not flow.gone:
            kind, data = parked.popleft()
            if kind == _LANE:  # and back again: what is parked behind it waits for the next change
                flow.receive_lane = lane
                flow.parked = parked
                return
            self._deliver(flow, kind, memoryview(data))

    def _lanes(self, flow: MuxFlow) -> tuple[Lane, Lane]:
        """The lane where the flow's bytes are expected, and the other."""
        main, bulk = self._mux.main, self._mux.bulk
        if bulk is None:
            raise ProtocolError(f"flow {flow.id} changes lanes on a link that has one")
        return (main, bulk) if flow.receive_lane is main else (bulk, main)

    def _known(self, flow_id: int) -> MuxFlow | None:
        """The flow, or None if it is over: the peer may not know yet. Raises if it never was."""
        mux = self._mux
        flow = mux.flows.get(flow_id)
        if flow is None:
            ours = flow_id & 1 == mux.next_id & 1
            if flow_id >= mux.next_id if ours else flow_id > mux.last_peer_id:
                raise ProtocolError(f"frame for flow {flow_id}, which was never opened")
        return flow

    # One method for each other type of frame

    def _received_open(self, flow_id: int, payload: memoryview) -> None:
        mux = self._mux
        if flow_id & 1 == mux.next_id & 1 or flow_id <= mux.last_peer_id:
            raise ProtocolError(f"OPEN of flow {flow_id} after {mux.last_peer_id}")
        if self._lane is not mux.main:
            raise ProtocolError(f"OPEN of flow {flow_id} on the bulk lane")
        mux.last_peer_id = flow_id
        flow = MuxFlow(mux, flow_id, _NOBODY, mux.first_window())
        flow.granted(unpack_number(payload)[0])
        if mux.peer_flows >= mux.max_flows:
            flow.refuse(Refusal.BUSY, f"{mux.max_flows} flows are open")
            return
        mux.peer_flows += 1
        mux.flows[flow_id] = flow
        try:
            handler = mux.on_open(flow, bytes(payload[4:]))
        except Exception as error:
            mux.on_handler_error(error)
            handler = None
        if handler is not None:
            flow.handler = handler
        elif not flow.gone:
            flow.refuse(Refusal.BAD_REQUEST)

    def _received_opened(self, flow_id: int, payload: memoryview) -> None:
        flow = self._own(flow_id)
        if flow is None:
            return
        if flow.opened:
            raise ProtocolError(f"flow {flow_id} was opened twice")
        flow.set_open()
        flow.granted(unpack_number(payload)[0])
        self._mux.call(flow, flow.handler.flow_opened)

    def _received_refused(self, flow_id: int, payload: memoryview) -> None:
        flow = self._own(flow_id)
        if flow is None:
            return
        try:
            reason = Refusal(payload[0])
        except ValueError:
            reason = Refusal.REFUSED  # of a later version
        self._mux.forget(flow)
        text = str(payload[1:], "utf-8", "replace")
        detail = text if text.isprintable() else ascii(text)  # people read it, on terminals
        self._mux.call(flow, lambda: flow.handler.flow_refused(reason, detail))

    def _own(self, flow_id: int) -> MuxFlow | None:
        if flow_id & 1 != self._mux.next_id & 1:
            raise ProtocolError(f"the peer answered for flow {flow_id}, which is its own")
        return self._known(flow_id)

    def _received_credit(self, flow_id: int, payload: memoryview) -> None:
        flow = self._known(flow_id)
        if flow is not None:
            flow.granted(unpack_number(payload)[0])

    def _received_reset(self, flow_id: int, payload: memoryview) -> None:
        if flow_id == 0:
            raise PeerClosed(str(payload, "utf-8", "replace"))
        flow = self._known(flow_id)
        if flow is not None:
            flow.drop()
            self._mux.call(flow, flow.handler.flow_reset)

    def _received_datagram(self, flow_id: int, payload: memoryview) -> None:
        flow = self._known(flow_id)
        if flow is not None:
            if not flow.opened:
                raise ProtocolError(f"datagram for flow {flow_id} before it was opened")
            try:
                flow.handler.flow_datagram(payload)
            except Exception as error:
                self._mux.handler_failed(flow, error)

    def _received_ping(self, flow_id: int, payload: memoryview) -> None:
        self._lane.put(0, frames.PONG, bytes(payload) + int(self._mux.now * 1e6).to_bytes(8, "big"))

    def _received_pong(self, flow_id: int, payload: memoryview) -> None:
        self._lane.pong(payload, self._mux.now)

    def _received_control(self, flow_id: int, payload: memoryview) -> None:
        self._mux.on_control(bytes(payload))

    def _received_lane(self, flow_id: int, payload: memoryview) -> None:
        flow = self._known(flow_id)
        if flow is not None:
            if flow.eof_received or not flow.opened:
                raise ProtocolError(f"flow {flow_id} changes lanes while no bytes may come")
            self._lanes(flow)
            self._part(flow, _LANE, payload)
