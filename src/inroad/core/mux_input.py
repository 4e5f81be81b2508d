"""The receiving half of a mux: bytes in any fragmentation to calls of the flows' handlers.

The payload of DATA and FIN is handed on as it comes, so that a frame never has to be assembled and a
large one costs no copy; every other frame is short and is taken whole. Each rule that a hostile peer
could break is checked here, before anything is stored or called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from inroad.core import frames
from inroad.core.flows import Quiet, Refusal
from inroad.core.frames import HEADER_SIZE, ProtocolError, unpack_header, unpack_number
from inroad.core.mux_flow import FIN_SENT, MuxFlow

if TYPE_CHECKING:
    from inroad.core.mux import Mux

_DATA, _FIN = frames.DATA, frames.FIN


class PeerClosed(Exception):
    """The peer said goodbye (RESET of flow 0); its text is the peer's reason."""


_NOBODY = Quiet()


class Input:
    """Parses what comes for one mux."""

    def __init__(self, mux: Mux) -> None:
        self.mux = mux
        self._last_peer_id = 0
        self._tail = bytearray()
        self._left = 0
        self._left_flow: MuxFlow | None = None
        self._left_ends = False
        self._answer: dict[int, Callable[[int, memoryview, float], None]] = {
            frames.OPEN: self._received_open,
            frames.OPENED: self._received_opened,
            frames.REFUSED: self._received_refused,
            frames.CREDIT: self._received_credit,
            frames.RESET: self._received_reset,
            frames.DATAGRAM: self._received_datagram,
            frames.PING: self._received_ping,
            frames.PONG: self._received_pong,
            frames.CONTROL: self._received_control,
        }

    def receive(self, data: memoryview, now: float) -> None:
        """Take bytes as they come, cut anywhere; raises `ProtocolError` or `PeerClosed`.

        Call `Mux.flush` afterwards: what handlers send meanwhile is not announced with `wake`.
        """
        self.mux.awake = True
        flows = self.mux.flows
        self.mux.last_receive = now
        end = len(data)
        self.mux.bytes_in += end
        position = self._finish_tail(data, now) if self._tail else 0
        if self._left:
            position = self._continue_data(data, position)
        while end - position >= HEADER_SIZE:
            flow_id, word = unpack_header(data, position)
            kind, size = word >> 24, word & 0xFFFFFF
            start = position + HEADER_SIZE
            position = start + size
            if kind == _DATA and position <= end:
                flow = flows.get(flow_id)
                if flow is not None and 0 < size <= flow.receive_credit and not flow.eof_received:
                    flow.receive_credit -= size
                    try:
                        flow.handler.flow_data(data[start:position])
                    except Exception as error:
                        self.mux.handler_failed(flow, error)
                    continue
            frames.check(flow_id, kind, size)
            if kind in (_DATA, _FIN):
                self._begin_data(flow_id, kind, size)
                position = self._continue_data(data, start)
            elif position <= end:
                self._answer[kind](flow_id, data[start:position], now)
            else:
                self._tail += data[start - HEADER_SIZE :]
                return
        self._tail += data[position:]

    def _finish_tail(self, data: memoryview, now: float) -> int:
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
            self._answer[kind](flow_id, memoryview(tail)[HEADER_SIZE:], now)
        return stop

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
        if not flow.opened:
            raise ProtocolError(f"data for flow {flow_id} before it was opened")
        if size > flow.receive_credit:
            raise ProtocolError(f"{size} bytes for flow {flow_id}, which had {flow.receive_credit} of credit")
        flow.receive_credit -= size
        if kind == _FIN and not size:
            self._eof(flow)

    def _continue_data(self, data: memoryview, position: int) -> int:
        stop = min(position + self._left, len(data))
        self._left -= stop - position
        flow = self._left_flow
        if flow is not None and not flow.gone and stop > position:
            last = self._left_ends and not self._left
            flow.ending = last
            try:
                flow.handler.flow_data(data[position:stop])
            except Exception as error:
                self.mux.handler_failed(flow, error)
            if last and not flow.gone:
                self._eof(flow)
        return stop

    def _eof(self, flow: MuxFlow) -> None:
        flow.eof_received = True
        self.mux.call(flow, flow.handler.flow_eof)
        if flow.eof_state == FIN_SENT:
            self.mux.forget(flow)

    def _known(self, flow_id: int) -> MuxFlow | None:
        """The flow, or None if it is over: the peer may not know yet. Raises if it never was."""
        flow = self.mux.flows.get(flow_id)
        if flow is None:
            ours = flow_id & 1 == self.mux.next_id & 1
            if flow_id >= self.mux.next_id if ours else flow_id > self._last_peer_id:
                raise ProtocolError(f"frame for flow {flow_id}, which was never opened")
        return flow

    # One method for each type of frame

    def _received_open(self, flow_id: int, payload: memoryview, now: float) -> None:
        if flow_id & 1 == self.mux.next_id & 1 or flow_id <= self._last_peer_id:
            raise ProtocolError(f"OPEN of flow {flow_id} after {self._last_peer_id}")
        self._last_peer_id = flow_id
        flow = MuxFlow(self.mux, flow_id, _NOBODY, self.mux.window)
        flow.credit = unpack_number(payload)[0]
        if self.mux.peer_flows >= self.mux.max_flows:
            flow.refuse(Refusal.BUSY, f"{self.mux.max_flows} flows are open")
            return
        self.mux.peer_flows += 1
        self.mux.flows[flow_id] = flow
        try:
            handler = self.mux.on_open(flow, bytes(payload[4:]))
        except Exception as error:
            self.mux.on_handler_error(error)
            handler = None
        if handler is not None:
            flow.handler = handler
        elif not flow.gone:
            flow.refuse(Refusal.BAD_REQUEST)

    def _received_opened(self, flow_id: int, payload: memoryview, now: float) -> None:
        flow = self._own(flow_id)
        if flow is None:
            return
        if flow.opened:
            raise ProtocolError(f"flow {flow_id} was opened twice")
        flow.opened = True
        flow.receive_credit = flow.window
        flow.granted(unpack_number(payload)[0])
        self.mux.call(flow, flow.handler.flow_opened)

    def _received_refused(self, flow_id: int, payload: memoryview, now: float) -> None:
        flow = self._own(flow_id)
        if flow is None:
            return
        try:
            reason = Refusal(payload[0])
        except ValueError:
            reason = Refusal.REFUSED  # of a later version
        self.mux.forget(flow)
        detail = str(payload[1:], "utf-8", "replace")
        self.mux.call(flow, lambda: flow.handler.flow_refused(reason, detail))

    def _own(self, flow_id: int) -> MuxFlow | None:
        if flow_id & 1 != self.mux.next_id & 1:
            raise ProtocolError(f"the peer answered for flow {flow_id}, which is its own")
        return self._known(flow_id)

    def _received_credit(self, flow_id: int, payload: memoryview, now: float) -> None:
        flow = self._known(flow_id)
        if flow is not None:
            flow.granted(unpack_number(payload)[0])

    def _received_reset(self, flow_id: int, payload: memoryview, now: float) -> None:
        if flow_id == 0:
            raise PeerClosed(str(payload, "utf-8", "replace"))
        flow = self._known(flow_id)
        if flow is not None:
            self.mux.forget(flow)
            self.mux.call(flow, flow.handler.flow_reset)

    def _received_datagram(self, flow_id: int, payload: memoryview, now: float) -> None:
        flow = self._known(flow_id)
        if flow is not None:
            if not flow.opened:
                raise ProtocolError(f"datagram for flow {flow_id} before it was opened")
            try:
                flow.handler.flow_datagram(payload)
            except Exception as error:
                self.mux.handler_failed(flow, error)

    def _received_ping(self, flow_id: int, payload: memoryview, now: float) -> None:
        self.mux.put(0, frames.PONG, bytes(payload))

    def _received_pong(self, flow_id: int, payload: memoryview, now: float) -> None:
        count = int.from_bytes(payload, "big")
        if not self.mux.pings or count != self.mux.ping_count - len(self.mux.pings) + 1:
            raise ProtocolError("PONG without its PING")
        self.mux.rtt = now - self.mux.pings.popleft()
        self.mux.round += 1

    def _received_control(self, flow_id: int, payload: memoryview, now: float) -> None:
        self.mux.on_control(bytes(payload))
