"""One flow of a mux: what it may send, what it has queued, and when it is over.

A short write on a flow that has been quiet goes straight into its lane's urgent bytes and so overtakes
bulk. Everything else waits in the flow's own queue for its turn (the idea of fq_codel's new and old
flows, RFC 8290 section 3.2): whoever sends little is never behind somebody who sends much.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from inroad.core import frames
from inroad.core.flows import FlowHandler, Refusal
from inroad.core.frames import ProtocolError, pack_header

if TYPE_CHECKING:
    from inroad.core.lane import Lane
    from inroad.core.mux import Mux

SHORT = 4 * 1024
"""A write up to this size may overtake bulk, while its flow sends little in a round (`Pace.burst`)."""
URGENT_DATA = 256 * 1024
"""With more than this already urgent, data has to queue: only control may still overtake."""
HIGH_WATER = 64 * 1024
"""With more than this in its queue a flow asks its owner to wait."""
DATAGRAM_QUEUE = 256 * 1024
"""Bytes of datagrams that wait in one flow; what comes on top is dropped and counted."""
BULK_AFTER = 256 * 1024
"""Bytes after which a flow moves to the bulk lane, if there is one ..."""
QUIET = 2.0
"""... and the seconds without bulk after which it returns."""

_DATA = frames.DATA << 24
_FIN = frames.FIN << 24
_DATAGRAM = frames.DATAGRAM << 24
NOT_ENDING, FIN_WANTED, FIN_SENT = range(3)

Buffer = bytes | bytearray | memoryview


class MuxFlow:
    """Implements `tunnel.api.Flow`; made by `Mux` only."""

    __slots__ = (
        "bulk_at",
        "bulk_bytes",
        "burst",
        "credit",
        "cut",
        "datagrams",
        "ending",
        "eof_received",
        "eof_state",
        "first_window",
        "gone",
        "grant_at",
        "granted_since",
        "handler",
        "held",
        "id",
        "lane",
        "mux",
        "opened",
        "owed",
        "parked",
        "pending",
        "pending_size",
        "queued",
        "receive_credit",
        "receive_lane",
        "round",
        "waiting",
        "window",
    )

    def __init__(self, mux: Mux, flow_id: int, handler: FlowHandler, window: int) -> None:
        self.mux = mux
        self.id = flow_id
        self.handler = handler
        self.lane = mux.main
        self.opened = False
        self.gone = False
        self.cut = False
        # Sending
        self.credit = 0
        self.pending: deque[Buffer] | None = None
        self.pending_size = 0
        self.queued = False
        self.waiting = False
        self.datagrams = False
        self.eof_state = NOT_ENDING
        self.round = -1
        self.burst = 0
        self.bulk_bytes = 0
        self.bulk_at = 0.0
        # Receiving
        self.window = self.first_window = window
        self.receive_credit = window
        self.receive_lane: Lane | None = None
        self.parked: deque[tuple[int, bytearray]] | None = None
        self.eof_received = False
        self.ending = False
        self.held = 0
        self.owed = 0
        self.granted_since = 0
        self.grant_at = 0.0

    def __repr__(self) -> str:
        return f"<flow {self.id} credit={self.credit} pending={self.pending_size} gone={self.gone}>"

    @property
    def ours(self) -> bool:
        """Whether this end opened it."""
        return self.id & 1 == self.mux.next_id & 1

    # Beginning and end

    def accept(self) -> None:
        """Tell the opener that the flow is connected."""
        if not self.gone and not self.opened:
            self.set_open()
            self.mux.main.put(self.id, frames.OPENED, frames.pack_number(self.window))

    def set_open(self) -> None:
        """From now on bytes may come."""
        self.opened = True
        self.receive_lane = self.mux.main
        self.grant_at = self.mux.now
        self.lane.queue(self)

    def refuse(self, reason: Refusal, detail: str = "") -> None:
        """Tell the opener that the flow can't be (a datagram flow: can't be any more); it is gone."""
        if not self.gone:
            text = detail.encode()[: frames.MAX_DETAIL]
            self.mux.main.put(self.id, frames.REFUSED, bytes((reason,)) + text)
            self.drop()

    def reset(self) -> None:
        """End the flow abnormally, or tell the far side that nobody wants it any more."""
        if not self.gone:
            self.mux.main.put(self.id, frames.RESET, b"")
            self.drop()

    def drop(self) -> None:
        """It is over, and what its owner holds counts no more."""
        self.mux.held -= self.held
        self.held = 0
        self.mux.forget(self)

    # Sending

    def write(self, data: Buffer, eof: bool = False) -> bool:
        """Send bytes, and FIN with them if `eof`. False: wait for `flow_writable`."""
        size = len(data)
        lane = self.lane
        if 0 < size <= SHORT and size <= self.credit and not self.pending_size and not self.eof_state:
            if self.round != lane.round:
                self.round = lane.round
                self.burst = 0
            self.burst += size
            if (self.burst <= lane.pace.burst and len(lane.urgent) < URGENT_DATA) or lane.is_free():
                self.credit -= size
                lane.put_data(pack_header(self.id, (_FIN if eof else _DATA) | size), data)
                if eof:
                    self._fin_sent()
                return True
        return self._write_bulk(data, size, eof)

    def _write_bulk(self, data: Buffer, size: int, eof: bool) -> bool:
        if self.gone or self.eof_state:
            return False
        self._count_bulk(size)
        rest: Buffer = data
        if not self.pending_size and self.credit and size > SHORT:
            rest = memoryview(data)[self.lane.send_now(self, memoryview(data)) :]
        if rest:
            self._append(bytes(rest))
        if eof:
            self.write_eof()
        self.lane.queue(self)
        self.waiting = self.pending_size > HIGH_WATER or not self.credit
        return not self.waiting

    def read_size(self) -> int:
        """How many bytes are worth reading for the next `write`; 0: wait for `flow_writable`."""
        return self.mux.read_size(self)

    def write_eof(self) -> None:
        """Send FIN after what was written; the other direction stays open."""
        if self.gone or self.eof_state:
            return
        if self.opened and not self.pending_size:
            self.lane.put(self.id, frames.FIN, b"")
            self._fin_sent()
        else:
            self.eof_state = FIN_WANTED
            self.lane.queue(self)

    def send_datagram(self, data: bytes | memoryview) -> bool:
        """Send one datagram. False: no room, it was dropped and counted."""
        size = len(data)
        lane = self.lane
        if self.gone or size > frames.MAX_DATAGRAM or self.pending_size + size > DATAGRAM_QUEUE:
            self.mux.dropped_datagrams += 1
            return False
        header = pack_header(self.id, _DATAGRAM | size)
        if self.round != lane.round:
            self.round = lane.round
            self.burst = 0
        self.burst += size
        short = (self.burst <= lane.pace.burst and len(lane.urgent) < URGENT_DATA) or lane.is_free()
        if short and self.opened and not self.pending_size:
            lane.put_data(header, data)
        else:
            self.datagrams = True
            self._append(header + data)
            lane.queue(self)
        return True

    # Changing lanes

    def return_if_quiet(self) -> bool:
        """Go back to the main lane after a while without bulk; whether it is there."""
        mux = self.mux
        if not self.eof_state and not self.pending_size and mux.now - self.bulk_at > QUIET:
            self._change_lane(mux.main)
        return self.lane is mux.main

    def _count_bulk(self, size: int) -> None:
        mux = self.mux
        if mux.now - self.bulk_at > QUIET:
            self.bulk_bytes = 0
        self.bulk_at = mux.now
        self.bulk_bytes += size
        if self.bulk_bytes > BULK_AFTER and mux.bulk not in (None, self.lane) and self.opened:
            self._change_lane(mux.bulk)
            mux.on_bulk.add(self)

    def _change_lane(self, lane: Lane | None) -> None:
        """Say on the present lane that what follows comes on the other; the receiver keeps the order."""
        if lane is not None and lane is not self.lane and not self.datagrams:
            self.lane.put(self.id, frames.LANE, b"")
            self.lane = lane
            self.queued = False
            self.round = lane.round
            lane.queue(self)

    # Receiving

    def consumed(self, size: int) -> None:
        """Give `size` bytes of credit back: they left this process."""
        size = min(size, self.held)
        self.held -= size
        mux = self.mux
        mux.held -= size
        self.owed += size
        if self.owed * 4 >= self.window and not self.gone and not self.eof_received:
            self._grant()

    def _grant(self) -> None:
        """Pass the credit on, and find out whether the window is what holds the sender up.

        It is when a whole window was used in less than two round trips (as Linux grows a TCP
        receiver's: tcp_rcv_space_adjust).
        """
        mux = self.mux
        mux.main.ping_sometimes()
        self.granted_since += self.owed
        if self.granted_since >= self.window:
            if mux.now - self.grant_at < 2 * mux.main.pace.rtt:
                mux.grow(self)
            self.grant_at = mux.now
            self.granted_since = 0
        mux.squeeze(self)
        if self.owed:
            self.receive_credit += self.owed
            mux.main.put(self.id, frames.CREDIT, frames.pack_number(self.owed))
            self.owed = 0

    def ended_input(self) -> None:
        """FIN came; with the other direction at its end too the flow is over."""
        self.eof_received = True
        self.receive_lane = None
        self.mux.call(self, self.handler.flow_eof)
        if self.eof_state == FIN_SENT:
            self.mux.forget(self)

    # For mux and lanes

    def granted(self, size: int) -> None:
        """More credit came."""
        if self.credit + size > frames.MAX_CREDIT:
            raise ProtocolError(f"flow {self.id} was granted {self.credit + size} bytes")
        self.credit += size
        self.lane.queue(self)
        self.lane.check_writable(self)

    def sendable(self) -> bool:
        """Whether `take` would find something."""
        if not self.opened or self.gone:
            return False
        if self.pending_size:
            return self.credit > 0 or self.datagrams
        return self.eof_state == FIN_WANTED

    def take(self, out: list[Buffer], limit: int) -> int:
        """Move one frame with at most `limit` bytes of payload to `out`; return its whole size.

        Queued datagrams are frames already and go whole.
        """
        pending = self.pending
        if self.datagrams and pending:
            chunk = pending.popleft()
            self._dequeued(len(chunk))
            out.append(chunk)
            return len(chunk)
        size = min(self.pending_size, self.credit, limit)
        last = self.eof_state == FIN_WANTED and size == self.pending_size
        out.append(pack_header(self.id, (_FIN if last else _DATA) | size))
        left = size
        while left and pending:
            chunk = pending.popleft()
            if len(chunk) > left:
                view = memoryview(chunk)
                pending.appendleft(view[left:])
                chunk = view[:left]
            left -= len(chunk)
            out.append(chunk)
        self.credit -= size
        self._dequeued(size)
        if last:
            self._fin_sent()
        return frames.HEADER_SIZE + size

    def _fin_sent(self) -> None:
        self.eof_state = FIN_SENT
        if self.eof_received:
            self.mux.forget(self)

    def _append(self, chunk: bytes) -> None:
        if self.pending is None:
            self.pending = deque()
        self.pending.append(chunk)
        self.pending_size += len(chunk)
        self.mux.pending_size += len(chunk)

    def _dequeued(self, size: int) -> None:
        self.pending_size -= size
        self.mux.pending_size -= size
        if self.mux.starved:
            self.mux.feed_starved()
