"""Joins two flows of different links: what the traffic-manager does between a client and an agent.

Bytes are passed on in the call that brings them. Credit is given back to the sender only when the
receiving link has room, so what waits in the middle is bounded by one flow's window.
"""

from __future__ import annotations

from inroad.core.flows import Refusal
from inroad.tunnel.api import Flow, Link


class End:
    """One of the two flows; implements `FlowHandler` and knows the other one."""

    __slots__ = ("flow", "other", "owed")

    def __init__(self, flow: Flow | None = None) -> None:
        self.flow = flow
        self.other: End | None = None
        self.owed = 0  # bytes that came from here and have not yet left on the other side

    def _far(self) -> Flow | None:
        return self.other.flow if self.other is not None else None

    def flow_opened(self) -> None:
        """The agent has connected: tell the client."""
        far = self._far()
        if far is not None:
            far.accept()

    def flow_refused(self, reason: Refusal, detail: str) -> None:
        """The agent could not connect: tell the client why."""
        far = self._far()
        if far is not None:
            far.refuse(reason, detail)
        self._forget()

    def flow_data(self, data: memoryview) -> None:
        """Pass bytes on."""
        far, flow = self._far(), self.flow
        if far is None or flow is None:
            return
        if far.write(data, flow.ending):
            flow.consumed(len(data))
        else:
            self.owed += len(data)

    def flow_datagram(self, data: memoryview) -> None:
        """Pass a datagram on; the link drops and counts what it has no room for."""
        far = self._far()
        if far is not None:
            far.send_datagram(data)

    def flow_eof(self) -> None:
        """Pass the end of this direction on."""
        far = self._far()
        if far is not None:
            far.write_eof()

    def flow_reset(self) -> None:
        """Pass a reset on."""
        far = self._far()
        if far is not None:
            far.reset()
        self._forget()

    def flow_writable(self) -> None:
        """This flow has room again: the other side may go on sending."""
        other = self.other
        if other is not None and other.owed and other.flow is not None:
            owed, other.owed = other.owed, 0
            other.flow.consumed(owed)

    def _forget(self) -> None:
        if self.other is not None:
            self.other.other = None
            self.other.flow = None
        self.other = None
        self.flow = None


def splice(flow: Flow, link: Link, request: bytes) -> End:
    """Open a flow with `request` on `link` and join it with `flow`; returns the handler of `flow`."""
    near, far = End(flow), End()
    near.other, far.other = far, near
    far.flow = link.open(request, far)
    return near
