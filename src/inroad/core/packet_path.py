"""What becomes of each packet of the VIF: to TCP reflection, to associations, or counted and dropped.

The caller tries `reflect.fast` first; what that does not know comes here.
"""

from __future__ import annotations

from inroad.core.associations import Associations
from inroad.core.checksum import Buffer
from inroad.core.held import DROP, FORWARD
from inroad.core.packet import ICMP, ICMPV6, TCP, UDP, Head, parse
from inroad.core.reflect import Plan, Reflector

DATAGRAM, ECHO = 2, 3
"""Beside DROP and FORWARD: the packet carried a datagram or an echo request; see `PacketPath.number`."""


class PacketPath:
    """All state of one VIF. After DATAGRAM or ECHO, `number` is the flow and `associations` has the rest."""

    def __init__(self, plan: Plan) -> None:
        self.counters: dict[str, int] = {}
        self.tcp = Reflector(plan, self.counters)
        self.associations = Associations(self.counters)
        self.number = 0
        # One list for what goes to the application, in order.
        self.associations.to_app = self.tcp.to_app

    def from_app(self, packet: Buffer, size: int, now: float) -> int:
        """Take a packet that the workstation sent into the VIF."""
        head = self._look(packet, size)
        if head is None:
            return DROP
        if head.protocol == TCP:
            return self.tcp.from_app(packet, head, now)
        if head.protocol == UDP:
            self.number = self.associations.udp(packet, head, now)
            return DATAGRAM if self.number else DROP
        if head.protocol == (ICMP if head.version == 4 else ICMPV6):
            self.number = self.associations.echo(packet, head, now)
            return ECHO if self.number else DROP
        return self.odd("protocol-other")

    def from_listener(self, packet: Buffer, size: int, now: float) -> int:
        """Take a packet that came from the listener's side."""
        head = self._look(packet, size)
        if head is None:
            return DROP
        if head.protocol == TCP:
            return self.tcp.from_listener(packet, head, now)
        return self.odd("protocol-other")

    def deadline(self) -> float | None:
        """Return when `tick` wants to be called, or None."""
        waits = [at for at in (self.tcp.deadline(), self.associations.deadline()) if at is not None]
        return min(waits) if waits else None

    def tick(self, now: float) -> None:
        """Let time pass for every table."""
        self.tcp.tick(now)
        self.associations.tick(now)

    def odd(self, kind: str) -> int:
        """Count a packet that goes nowhere."""
        self.counters[kind] = self.counters.get(kind, 0) + 1
        return DROP

    def _look(self, packet: Buffer, size: int) -> Head | None:
        head = parse(packet, size)
        if isinstance(head, str):
            self.odd(head)
            return None
        if head.target[0] >= 224 if head.version == 4 else head.target[0] == 0xFF:
            self.odd("multicast")
            return None
        if head.fragment is not None:
            self.odd("fragment")
            return None
        return head


__all__ = ["DATAGRAM", "DROP", "ECHO", "FORWARD", "PacketPath"]
