"""What becomes of each packet of the VIF: to TCP reflection, to associations, or counted and dropped.

The caller tries `reflect.fast` first; what that does not know comes here.
"""

from __future__ import annotations

from inroad.core.associations import Associations
from inroad.core.checksum import Buffer
from inroad.core.fragments import Reassembly
from inroad.core.held import DROP, FORWARD, SynTable
from inroad.core.packet import ICMP, ICMPV6, TCP, UDP, Head, parse

DATAGRAM, ECHO = 2, 3
"""Beside DROP and FORWARD: the packet carried a datagram or an echo request; see `PacketPath.number`."""


_BROADCAST = b"\xff" * 4


class PacketPath:
    """All state of one VIF. After DATAGRAM or ECHO, `number` is the flow and `associations` has the rest."""

    def __init__(self, tcp: SynTable, mtu: int) -> None:
        self.counters = tcp.counters
        self.tcp = tcp
        self.associations = Associations(self.counters, mtu)
        self.reassembly = Reassembly(self.counters)
        self.packet: memoryview = memoryview(b"")
        self.number = 0
        # One list for what goes to the application, in order.
        self.associations.to_app = self.tcp.to_app

    def from_app(self, packet: Buffer, size: int, now: float) -> int:
        """Take a packet that the workstation sent into the VIF.

        What is to be done then is to be done with `self.packet`: a part of `packet`, rewritten in place,
        or a packet that was put together from fragments.
        """
        self.packet = memoryview(packet)[:size]
        head = self._look(self.packet)
        if head is not None and head.fragment is not None:
            whole = self.reassembly.add(packet, head, now)
            self.packet = memoryview(bytearray(whole or b""))
            head = self._look(self.packet) if whole else None
        if head is None or head.fragment is not None:
            return DROP
        packet = self.packet
        if head.protocol == TCP:
            listeners = self.tcp.is_listeners(packet, head)
            return (self.tcp.from_listener if listeners else self.tcp.from_app)(packet, head, now)
        if head.protocol == UDP:
            self.number = self.associations.udp(packet, head, now)
            return DATAGRAM if self.number else DROP
        if head.protocol == (ICMP if head.version == 4 else ICMPV6):
            if self.tcp.error(packet, head):
                return DROP
            self.number = self.associations.icmp(packet, head, now)
            return ECHO if self.number else DROP
        return self.odd("protocol-other")

    def from_listener(self, packet: Buffer, size: int, now: float) -> int:
        """Take a packet that came from the listener's side."""
        head = self._look(memoryview(packet)[:size])
        if head is None or head.fragment is not None:
            return DROP
        if head.protocol == TCP:
            return self.tcp.from_listener(packet, head, now)
        return self.odd("protocol-other")

    def deadline(self) -> float | None:
        """Return when `tick` wants to be called, or None."""
        waits = [
            at
            for at in (self.tcp.deadline(), self.associations.deadline(), self.reassembly.deadline())
            if at is not None
        ]
        return min(waits) if waits else None

    def tick(self, now: float) -> None:
        """Let time pass for every table."""
        self.tcp.tick(now)
        self.associations.tick(now)
        self.reassembly.tick(now)

    def odd(self, kind: str) -> int:
        """Count a packet that goes nowhere."""
        self.counters[kind] = self.counters.get(kind, 0) + 1
        return DROP

    def _look(self, packet: memoryview) -> Head | None:
        head = parse(packet, len(packet))
        if isinstance(head, str):
            self.odd(head)
            return None
        if head.extended:
            self.odd("ipv4-options" if head.version == 4 else "ipv6-extension")
        if head.target[0] >> 4 == 14 if head.version == 4 else head.target[0] == 0xFF:
            self.odd("multicast")
            return None
        if head.target == _BROADCAST:
            self.odd("broadcast")
            return None
        return head


__all__ = ["DATAGRAM", "DROP", "ECHO", "FORWARD", "PacketPath"]
