"""One flow of a mux: what it may send, what it has queued, and when it is over.

A short write on a flow that has been quiet goes straight into the mux's urgent bytes and so overtakes
bulk. Everything else waits in the flow's own queue for its turn (the idea of fq_codel's new and old
flows, RFC 8290 section 3.2): whoever sends little is never behind somebody who sends much.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from inroad.core import frames
from inroad.core.flows import FlowHandler, Refusal
from inroad.core.frames import pack_header

if TYPE_CHECKING:
    from inroad.core.mux import Mux

SHORT = 4 * 1024
"""A write up to this size may overtake bulk ..."""
BURST = 16 * 1024
"""... while its flow has sent no more than this since the last round trip of the link."""
HIGH_WATER = 64 * 1024
"""With more than this in its queue a flow asks its owner to wait."""
DATAGRAM_QUEUE = 256 * 1024
"""Bytes of datagrams that wait in one flow; what comes on top is dropped and counted."""

_DATA = frames.DATA << 24
_FIN = frames.FIN << 24
_DATAGRAM = frames.DATAGRAM << 24
NOT_ENDING, FIN_WANTED, FIN_SENT = range(3)

Buffer = bytes | bytearray | memoryview


class MuxFlow:
    """Implements `tunnel.api.Flow`; made by `Mux` only."""

    __slots__ = (
        "burst",
        "credit",
        "cut",
        "datagrams",
        "ending",
        "eof_received",
        "eof_state",
        "gone",
        "handler",
        "id",
        "mux",
        "opened",
        "owed",
        "pending",
        "pending_size",
        "queued",
        "receive_credit",
        "round",
        "waiting",
        "window",
    )

    def __init__(self, mux: Mux, flow_id: int, handler: FlowHandler, window: int) -> None:
        self.mux = mux
        self.id = flow_id
        self.handler = handler
        self.credit = 0
        self.window = window
        self.receive_credit = 0
        self.owed = 0
        self.pending: deque[Buffer] | None = None
        self.pending_size = 0
        self.eof_state = NOT_ENDING
        self.eof_received = False
        self.ending = False
        self.opened = False
        self.gone = False
        self.cut = False
        self.datagrams = False
        self.queued = False
        self.waiting = False
        self.round = -1
        self.burst = 0

    @property
    def ours(self) -> bool:
        """Whether this end opened it."""
        return self.id & 1 == self.mux.next_id & 1

    def __repr__(self) -> str:
        return f"<flow {self.id} credit={self.credit} pending={self.pending_size} gone={self.gone}>"

    # Answering the opener

    def accept(self) -> None:
        """Tell the opener that the flow is connected."""
        if self.gone or self.opened:
            return
        self.opened = True
        self.receive_credit = self.window
        self.mux.put(self.id, frames.OPENED, frames.pack_number(self.window))
        self.mux.queue(self)

    def refuse(self, reason: Refusal, detail: str = "") -> None:
        """Tell the opener that the flow can't be (a datagram flow: can't be any more); it is gone."""
        if self.gone:
            return
        text = detail.encode()[: frames.MAX_DETAIL]
        self.mux.put(self.id, frames.REFUSED, bytes((reason,)) + text)
        self.mux.forget(self)

    # Sending

    def write(self, data: Buffer, eof: bool = False) -> bool:
        """Send bytes, and FIN with them if `eof`. False: wait for `flow_writable`."""
        size = len(data)
        mux = self.mux
        if size <= SHORT and size <= self.credit and not self.pending_size:
            if self.round != mux.round:
                self.round = mux.round
                self.burst = 0
            burst = self.burst + size
            if burst <= BURST and mux.urgent_room():
                self.burst = burst
                self.credit -= size
                mux.put_data(pack_header(self.id, (_FIN if eof else _DATA) | size), data)
                if eof:
                    self.fin_sent()
                return True
        return self._write_bulk(data, size, eof)

    def _write_bulk(self, data: Buffer, size: int, eof: bool) -> bool:
        if self.gone or self.eof_state:
            return False
        rest: Buffer = data
        if not self.pending_size and self.credit and size > SHORT:
            rest = memoryview(data)[self.mux.send_now(self, memoryview(data)) :]
        if rest:
            self._append(bytes(rest))
        if eof:
            self.write_eof()
        self.mux.queue(self)
        self.waiting = self.pending_size > HIGH_WATER or not self.credit
        return not self.waiting

    def write_eof(self) -> None:
        """Send FIN after what was written; the other direction stays open."""
        if self.gone or self.eof_state:
            return
        if self.opened and not self.pending_size:
            self.mux.put(self.id, frames.FIN, b"")
            self.fin_sent()
        else:
            self.eof_state = FIN_WANTED
            self.mux.queue(self)

    def send_datagram(self, data: bytes | memoryview) -> bool:
        """Send one datagram. False: no room, it was dropped and counted."""
        size = len(data)
        mux = self.mux
        if self.gone or size > frames.MAX_DATAGRAM or self.pending_size + size > DATAGRAM_QUEUE:
            mux.dropped_datagrams += 1
            return False
        header = pack_header(self.id, _DATAGRAM | size)
        if self.round != mux.round:
            self.round = mux.round
            self.burst = 0
        self.burst += size
        if self.burst <= BURST and self.opened and not self.pending_size and mux.urgent_room():
            mux.put_data(header, data)
        else:
            self.datagrams = True
            self._append(header + data)
            mux.queue(self)
        return True

    def reset(self) -> None:
        """End the flow abnormally, or tell the far side that nobody wants it any more."""
        if not self.gone:
            self.mux.put(self.id, frames.RESET, b"")
            self.mux.forget(self)

    # Receiving

    def consumed(self, size: int) -> None:
        """Give `size` bytes of credit back: they left this process."""
        self.owed += size
        if self.owed * 4 >= self.window and not self.gone and not self.eof_received:
            self.receive_credit += self.owed
            self.mux.put(self.id, frames.CREDIT, frames.pack_number(self.owed))
            self.owed = 0

    # For the mux

    def granted(self, size: int) -> None:
        """More credit came."""
        self.credit += size
        if self.credit > frames.MAX_CREDIT:
            raise frames.ProtocolError(f"flow {self.id} was granted {self.credit} bytes")
        self.mux.queue(self)
        self.mux.check_writable(self)

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
            self.fin_sent()
        return frames.HEADER_SIZE + size

    def fin_sent(self) -> None:
        """FIN went out; with the other direction at its end too the flow is over."""
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
