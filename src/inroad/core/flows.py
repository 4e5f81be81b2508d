"""What a flow tells its owner, and why a flow may be refused: the words of the tunnel that are pure."""

from __future__ import annotations

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
        """The far side did not accept; the flow is gone.

        A datagram flow may also be refused after it was opened: an ICMP error came back.
        """

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


class Quiet:
    """A handler that does nothing: for flows that are over, and as a base."""

    __slots__ = ()

    def flow_opened(self) -> None:
        """Ignore it."""

    def flow_refused(self, reason: Refusal, detail: str) -> None:
        """Ignore it."""

    def flow_data(self, data: memoryview) -> None:
        """Drop it."""

    def flow_datagram(self, data: memoryview) -> None:
        """Drop it."""

    def flow_eof(self) -> None:
        """Ignore it."""

    def flow_reset(self) -> None:
        """Ignore it."""

    def flow_writable(self) -> None:
        """Ignore it."""
