"""TCP in veth mode: the kernel redirects established connections; only SYNs and strays come here.

    HELD, OPENING: see `core.held`. The SYN goes on with the number of a listener in its DSCP; from
      | there on the private namespace's connection tracking knows the connection.
      | the daemon accepted it
    CLOSED   remembered for a second more: a retransmitted SYN may have crossed the verdict

Redirection (DNAT) gives all destinations the listener's address. Two connections from one port of the
application to different destinations would then be one to the listener, so each gets another listener.
"""

from __future__ import annotations

from itertools import islice

from inroad.core.checksum import Buffer, fold, patch
from inroad.core.held import CLOSED, HELD, OPENING, Flow, HeldSyn, SynTable, is_syn
from inroad.core.packet import RST, Head

LISTENERS = 64
"""As many as DSCP has values: so many destinations may one port of the application reach at a time."""
MAX_REMEMBERED, FORGOTTEN_AT_ONCE = 32_768, 1_024
ACCEPTED_LINGER = 1.0


class Redirector(SynTable):
    """The SYNs of one VIF whose connections the kernel redirects."""

    def __init__(self, counters: dict[str, int]) -> None:
        super().__init__(counters)
        self._by_key: dict[bytes, Flow] = {}
        # (source address and port, listener) -> destination address and port, oldest first. When a
        # connection ends is not seen here, so this remembers more than lives.
        self._used: dict[tuple[bytes, int], bytes] = {}

    def from_app(self, packet: Buffer, head: Head, now: float) -> int:
        """Take a TCP packet that connection tracking does not know; FORWARD: the kernel goes on."""
        if head.end - head.start < 20:
            return self.odd("truncated")
        flags = packet[head.start + 13]
        key = head.addresses + bytes(packet[head.start : head.start + 4])
        if is_syn(flags):
            return self.syn(packet, head, key, now)
        flow = self._by_key.get(key)
        if flow is not None and flags & RST and flow.state in (HELD, OPENING):
            self.cancel(flow)  # of an opening one this is a copy; the listener has had the packet
            return self.odd("early")
        if flow is None or flow.state != HELD:
            return self.unknown(packet, head, self.to_app)
        return self.odd("early")

    def accepted(self, number: int, now: float) -> None:
        """The connection came out of the listener: nothing to watch any more."""
        flow = self.by_number(number)
        if flow is not None:
            flow.state = CLOSED
            flow.deadline = now + ACCEPTED_LINGER

    def find(self, key: bytes) -> Flow | None:
        """Return the flow of the application's tuple `key`."""
        return self._by_key.get(key)

    def begin(self, number: int, key: bytes, syn: HeldSyn, isn: int, now: float) -> Flow:
        """Make a flow; its listener is one that its source does not use for another destination."""
        half = (len(key) - 4) // 2
        source, target = key[:half] + key[-4:-2], key[half:-4] + key[-2:]
        used = self._used
        listener = 0
        while listener < LISTENERS and used.get((source, listener), target) != target:
            listener += 1
        listener %= LISTENERS
        used.pop((source, listener), None)
        used[source, listener] = target
        if len(used) > MAX_REMEMBERED:
            # Many at once: what was deleted before stands in the way to the oldest.
            for oldest in [*islice(used, FORGOTTEN_AT_ONCE)]:
                del used[oldest]
        flow = Flow(number, key, syn, isn, now)
        flow.listener = listener
        self._by_key[key] = flow
        return flow

    def arrival(self, flow: Flow) -> tuple[int, bytes, int]:
        """Return where its connection will come out: listener (IPv4's first), peer address, peer port."""
        half = (len(flow.key) - 4) // 2
        listener = flow.listener + (LISTENERS if half == 16 else 0)
        return listener, flow.key[:half], int.from_bytes(flow.key[-4:-2], "big")

    def to_listener_form(self, flow: Flow, packet: bytearray | memoryview, head: Head) -> None:
        """Write the listener's number into the DSCP, in place; the two ECN bits stay."""
        listener = flow.listener
        if head.version == 6:
            packet[0] = 0x60 | listener >> 2
            packet[1] = (listener & 3) << 6 | packet[1] & 0x3F
            return
        old = packet[0] << 8 | packet[1]
        new = old & 0xFF03 | listener << 2
        if new != old:
            packet[1] = new & 0xFF
            value = patch(packet[10] << 8 | packet[11], fold((old ^ 0xFFFF) + new))
            packet[10], packet[11] = value >> 8, value & 0xFF

    def ended(self, flow: Flow) -> None:
        """Remove a flow from the table."""
        del self._by_key[flow.key]

    def expire(self, flow: Flow) -> None:
        """Forget an accepted flow; end another one as `SynTable` does."""
        if flow.state == CLOSED:
            self.forget(flow)
        else:
            super().expire(flow)
