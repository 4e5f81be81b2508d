"""What a tunnel link is to the programs at its two ends: flows with credit, and control messages.

Everything happens on one event loop through plain calls, no coroutine per flow. A handler is never
called from inside a call that its owner makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from inroad.core.flows import FlowHandler, Quiet, Refusal

__all__ = ["Flow", "FlowHandler", "Link", "Quiet", "Refusal"]


class Flow(Protocol):
    """One flow of a link."""

    id: int
    handler: FlowHandler
    ending: bool
    """True during the `flow_data` call that carries the last bytes: `flow_eof` follows it at once."""
    cut: bool
    """True when the link's end ended the flow, not the peer's application (`flow_reset`)."""

    def accept(self) -> None:
        """Tell the opener that the flow is connected (only for flows opened by the far side)."""

    def refuse(self, reason: Refusal, detail: str = "") -> None:
        """Tell the opener that the flow can't be; the flow is gone.

        A datagram flow may be refused after `accept` too: an ICMP error came back.
        """

    def write(self, data: bytes | bytearray | memoryview, eof: bool = False) -> bool:
        """Send bytes (the buffer is copied or sent during the call). False: wait for `flow_writable`.

        With `eof` nothing follows: FIN travels with these bytes and arrives with them.
        """

    def read_size(self) -> int:
        """How many bytes are worth reading for the next `write`; 0: wait for `flow_writable`."""

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

    def send_control(self, payload: bytes, state: str = "") -> None:
        """Send a control message; it overtakes bulk data.

        With `state` it is the newest state of something of that name: one that has not gone out yet is
        replaced, so a slow peer never gets a queue of old ones, and always the last one.
        """

    def heard(self) -> float:
        """Return when the peer was heard last, by `time.monotonic`."""

    def ping(self) -> None:
        """Have the peer say something, if it lives."""

    def give_up_unopened(self, reason: str) -> None:
        """Have the flows that wait for the peer's answer refused with `LINK_DOWN`; the others go on."""

    def close(self, reason: str = "") -> None:
        """Close the link orderly: accepted bytes are sent first."""

    def adopt(self, bulk: Link) -> None:
        """Send and receive bulk over another link of the same peer, which has carried no flow.

        Both ends do so: docs/protocol.md, "Two lanes". When the second link ends, the flows that used it
        are reset and this one goes on without.
        """

    def stats(self) -> dict[str, float]:
        """Return rtt_ms, bytes_in, bytes_out, flows, dropped_datagrams, and more for status."""
