"""What a tunnel link is to the programs at its two ends: flows with credit, and control messages.

Everything happens on one event loop through plain calls, no coroutine per flow. A handler is never
called from inside a call that its owner makes.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Protocol


class Refusal(IntEnum):
    """Why the far side did not open a flow (payload of REFUSED)."""

    REFUSED = 1
    NET_UNREACHABLE = 2
    HOST_UNREACHABLE = 3
    PROHIBITED = 4
    TIMED_OUT = 5
    NOT_ALLOWED = 6  # the far side's policy: loopback, link-local, ...
    BUSY = 7  # a bound was reached
    BAD_REQUEST = 8
    LINK_DOWN = 9  # made locally: the link broke before an answer came


class FlowHandler(Protocol):
    """What a flow tells its owner."""

    def flow_opened(self) -> None:
        """The far side accepted (only for flows opened from here)."""

    def flow_refused(self, reason: Refusal, detail: str) -> None:
        """The far side did not accept; the flow is gone."""

    def flow_data(self, data: memoryview) -> None:
        """Bytes arrived, valid during the call only. Give credit back with `Flow.consumed`."""

    def flow_datagram(self, data: memoryview) -> None:
        """One datagram arrived, whole, valid during the call only."""

    def flow_eof(self) -> None:
        """The far side will send no more bytes."""

    def flow_reset(self) -> None:
        """The flow ended abnormally; it is gone. Also when the link breaks."""

    def flow_writable(self) -> None:
        """There is room again after `Flow.write` returned False."""


class Flow(Protocol):
    """One flow of a link."""

    id: int
    handler: FlowHandler

    def accept(self) -> None:
        """Tell the opener that the flow is connected (only for flows opened by the far side)."""

    def refuse(self, reason: Refusal, detail: str = "") -> None:
        """Tell the opener that the flow can't be; the flow is gone."""

    def write(self, data: bytes | bytearray | memoryview) -> bool:
        """Send bytes (the buffer is copied or sent during the call). False: wait for `flow_writable`."""

    def write_eof(self) -> None:
        """Send FIN after what was written; the other direction stays open."""

    def send_datagram(self, data: bytes | memoryview) -> bool:
        """Send one datagram. False: no room, it was dropped and counted."""

    def consumed(self, size: int) -> None:
        """Give `size` bytes of credit back: they left this process."""

    def reset(self) -> None:
        """End the flow abnormally, or tell the far side that nobody wants it any more."""


class Link(Protocol):
    """One multiplexed link to a peer."""

    on_open: Callable[[Flow, bytes], FlowHandler]
    """Called with each flow the peer opens and its request; returns the flow's handler."""
    on_control: Callable[[bytes], None]
    on_closed: Callable[[str], None]
    """Called once, with the reason, after every flow was reset."""

    def open(self, request: bytes, handler: FlowHandler) -> Flow:
        """Open a flow; bytes may be written at once, they wait for `OPENED` on this side."""

    def send_control(self, payload: bytes) -> None:
        """Send a control message; it overtakes bulk data."""

    def close(self, reason: str = "") -> None:
        """Close the link orderly: accepted bytes are sent first."""

    def stats(self) -> dict[str, float]:
        """Return rtt_ms, bytes_in, bytes_out, flows, dropped_datagrams."""
