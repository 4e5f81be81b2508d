"""What every link does, whatever carries it: schedule the mux, notice a dead peer, close orderly.

A carrier (socket, WebSocket) derives from `MuxLink`: it feeds received bytes to `_feed`, implements
`_send` (take what there is room for) and calls `_room` when there is room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Callable
from functools import partial

import structlog

from inroad.core.flows import FlowHandler, Refusal
from inroad.core.frames import ProtocolError
from inroad.core.mux import Mux
from inroad.core.mux_flow import Buffer, MuxFlow
from inroad.core.mux_input import PeerClosed
from inroad.tunnel.api import Flow, Link

log = structlog.get_logger(__name__)

TICK = 5.0
"""Seconds between two looks at the peer's liveness."""
SILENCE = 20.0
"""A peer that answered nothing for so many seconds, PINGs included, is dead."""
DRAIN = 5.0
"""Seconds that accepted bytes and the peer's goodbye may take when a link is closed orderly."""

READ_SIZE = 256 * 1024

OPEN, DRAINING, SAID_GOODBYE, CLOSED = range(4)


_buffers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = weakref.WeakKeyDictionary()


def shared_buffer(loop: asyncio.AbstractEventLoop) -> memoryview:
    """The one buffer into which all links of a loop may read, as long as they read and handle in one call.

    Five hundred agents' links with one each would take 125 MB. It is not that of the pumps: while a link
    handles what came, a pump may read.
    """
    buffer = _buffers.get(loop)
    if buffer is None:
        buffer = _buffers[loop] = memoryview(bytearray(READ_SIZE))
    return buffer


def _ignore_control(payload: bytes) -> None:
    log.debug("control message without a receiver", size=len(payload))


def _ignore_closed(reason: str) -> None:
    log.debug("link closed", reason=reason)


def _refuse_open(flow: Flow, request: bytes) -> FlowHandler:
    flow.refuse(Refusal.NOT_ALLOWED, "this side opens no flows")
    return flow.handler


class MuxLink:
    """Implements `tunnel.api.Link` over a `Mux`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, client: bool) -> None:
        self.on_open: Callable[[Flow, bytes], FlowHandler] = _refuse_open
        self.on_control: Callable[[bytes], None] = _ignore_control
        self.on_closed: Callable[[str], None] = _ignore_closed
        self._loop = loop
        self._state = OPEN
        self._reason = ""
        self._wake: Callable[[], object] = partial(loop.call_soon, self._flush)
        self._mux = Mux(client=client, send=self._send, wake=self._wake, now=time.monotonic())
        self._lane = self._mux.main
        self._main: MuxLink = self  # another link, when this one is its bulk lane
        self._bulk: MuxLink | None = None
        self._mux.on_open = self._opened
        self._mux.on_control = self._control
        self._mux.on_handler_error = self._handler_error
        self._lane.ping(self._mux.now)
        self._tick_handle = loop.call_later(TICK, self._tick)

    # For the owner

    def open(self, request: bytes, handler: FlowHandler) -> Flow:
        """Open a flow; bytes may be written at once, they wait for `OPENED` on this side."""
        flow = self._mux.open(request, handler) if self._state == OPEN else None
        if flow is None:
            flow = MuxFlow(self._mux, 0, handler, 0)
            flow.gone = True
            reason = self._reason or "the flow ids of this link are used up"
            self._loop.call_soon(handler.flow_refused, Refusal.LINK_DOWN, reason)
        return flow

    def send_control(self, payload: bytes, state: str = "") -> None:
        """Send a control message, or the newest `state` of something; it overtakes bulk data."""
        if self._state == OPEN:
            self._lane.send_control(payload, state)

    def heard(self) -> float:
        """Return when the peer was heard last, by `time.monotonic`."""
        bulk = self._bulk
        return max(self._lane.last_receive, bulk._lane.last_receive if bulk is not None else 0.0)

    def ping(self) -> None:
        """Have the peer say something, if it lives."""
        if self._state == OPEN:
            self._lane.ping(time.monotonic())
            self._wake()

    def give_up_unopened(self, reason: str) -> None:
        """Have the flows that wait for the peer's answer refused with `LINK_DOWN`; the others go on."""
        flows = self._mux.lose_unopened()
        self._wake()
        for flow in flows:
            self._loop.call_soon(flow.handler.flow_refused, Refusal.LINK_DOWN, reason)

    def close(self, reason: str = "") -> None:
        """Close the link orderly: accepted bytes are sent first, then the peer is told why."""
        if self._state == OPEN:
            self._state = DRAINING
            self._reason = reason or "closed"
            self._loop.call_later(DRAIN, self._down, self._reason)
            self._wake()

    def adopt(self, bulk: Link) -> None:
        """Send and receive bulk over another link of the same peer, which has carried no flow.

        It takes the place of an earlier one, whose end this side may not have noticed yet.
        """
        if not isinstance(bulk, MuxLink) or bulk is self or bulk._mux.flows or bulk._main is not bulk:
            raise ValueError("the bulk lane has to be an unused link")
        if self._bulk is not None:
            self._bulk._down("another bulk lane took its place")
        self._bulk = bulk
        bulk._main = self
        bulk._mux = self._mux
        self._mux.add_bulk(bulk._lane)

    def stats(self) -> dict[str, float]:
        """Return rtt_ms, bytes_in, bytes_out, lanes, flows, dropped_datagrams, shed_flows (reset because
        too much waited for slow readers), and the bytes in in_flight_cap, held (for slow readers), pending.
        """
        mux = self._mux
        lanes = [self._lane] if mux.bulk is None else [mux.main, mux.bulk]
        return {
            "rtt_ms": self._lane.pace.rtt * 1000,
            "bytes_in": sum(lane.bytes_in for lane in lanes),
            "bytes_out": sum(lane.bytes_out for lane in lanes),
            "lanes": len(lanes),
            "flows": len(mux.flows),
            "dropped_datagrams": mux.dropped_datagrams,
            "shed_flows": mux.shed_flows,
            "in_flight_cap": sum(lane.pace.cap for lane in lanes),
            "held": mux.held,
            "pending": mux.pending_size,
        }

    # For the carrier

    def _send(self, parts: list[Buffer]) -> int:
        """Send or copy the buffers; return how many bytes were taken. Must not raise."""
        raise NotImplementedError

    def _end_output(self) -> None:
        """Tell the peer's end of the carrier that no more bytes will come."""
        raise NotImplementedError

    def _release(self) -> None:
        """Close the carrier; nothing of it may call back afterwards."""
        raise NotImplementedError

    def _feed(self, data: memoryview) -> None:
        """Bytes came."""
        now = time.monotonic()
        try:
            self._lane.receive(data, now)
            self._lane.flush(now)
        except ProtocolError as error:
            self._main._broke(f"protocol error: {error}")
        except PeerClosed as goodbye:
            self._down(str(goodbye))
        if self._main._state == DRAINING:
            self._main._drain()

    def _room(self) -> None:
        """`_send` can take bytes again."""
        self._flush(room=True)

    def _lost(self, reason: str) -> None:
        """The carrier ended: by its error, or because the peer closed it."""
        self._down(self._reason or reason)

    # Life

    def _flush(self, room: bool = False) -> None:
        if self._state == CLOSED:
            return
        now = time.monotonic()
        try:
            self._lane.writable(now) if room else self._lane.flush(now)
        except ProtocolError as error:
            self._main._broke(f"protocol error: {error}")
        if self._main._state == DRAINING:
            self._main._drain()

    def _tick(self) -> None:
        now = time.monotonic()
        silent = now - self._lane.last_receive
        if silent > SILENCE:
            self._down(f"the peer has been silent for {silent:.0f} s")
            return
        if silent >= TICK:
            self._lane.ping(now)
        self._mux.tick(now)
        self._tick_handle = self._loop.call_later(TICK, self._tick)

    def _drain(self) -> None:
        now = time.monotonic()
        if self._mux.drained(now):
            self._state = SAID_GOODBYE
            self._mux.goodbye(self._reason)
            self._lane.flush(now)
            self._end_output()

    def _broke(self, reason: str) -> None:
        """The peer broke the protocol: tell it, as far as that goes, and end."""
        if self._state != CLOSED:
            log.warning("tunnel link ended", reason=reason)
            self._mux.goodbye(reason)
            with contextlib.suppress(ProtocolError):
                self._lane.flush(time.monotonic())
        self._down(reason)

    def _down(self, reason: str) -> None:
        if self._state == CLOSED:
            return
        self._state = CLOSED
        self._reason = reason
        self._tick_handle.cancel()
        self._release()
        if self._bulk is not None:
            self._bulk._down(reason)
        # Later, because the owner of a flow may be the one who is calling.
        self._loop.call_soon(self._tell_owners, self._take_flows())

    def _take_flows(self) -> list[MuxFlow]:
        """Take the flows that end with this link out of the mux."""
        main = self._main
        if main is self:
            return self._mux.abandon()
        if main._bulk is not self:
            return []
        main._bulk = None
        return self._mux.lose_bulk()

    def _tell_owners(self, flows: list[MuxFlow]) -> None:
        for flow in flows:
            try:
                if flow.ours and not flow.opened:
                    flow.handler.flow_refused(Refusal.LINK_DOWN, self._reason)
                else:
                    flow.handler.flow_reset()
            except Exception as error:
                self._handler_error(error)
        self.on_closed(self._reason)

    # Between the mux and the owner

    def _opened(self, flow: MuxFlow, request: bytes) -> FlowHandler | None:
        if self._state != OPEN:
            flow.refuse(Refusal.LINK_DOWN, self._reason)
            return None
        return self.on_open(flow, request)

    def _control(self, payload: bytes) -> None:
        if self._state != OPEN:
            return
        try:
            self.on_control(payload)
        except Exception as error:
            self._handler_error(error)

    def _handler_error(self, error: Exception) -> None:
        log.error("a flow's owner failed", exc_info=error)
