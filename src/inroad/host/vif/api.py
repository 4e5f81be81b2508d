"""What a virtual network interface (VIF) is to the daemon.

The packet loop runs in a process of its own (`worker_linux`). It holds every TCP SYN until the daemon gives a
verdict, terminates TCP in kernel sockets of a private network namespace, and hands datagrams over.
Flow numbers are the loop's; the daemon only repeats them.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from inroad.core.errors import HostChangeFailed
from inroad.core.host_config import Address

Endpoint = tuple[str, int]
"""(address as text, port)."""


class NoNamespace(HostChangeFailed):
    """This process may not make a network namespace (a container without CAP_SYS_ADMIN)."""

    code = "no-namespace"


class FirewallDrops(HostChangeFailed):
    """A firewall of the host drops what arrives on the VIF."""

    code = "firewall-drops"


class Verdict(IntEnum):
    """How the dial behind a held SYN ended, and what the application is told."""

    CONNECTED = 0  # the SYN goes on to our listener
    REFUSED = 1  # RST
    NET_UNREACHABLE = 2  # ICMP(v6) network unreachable
    HOST_UNREACHABLE = 3  # ICMP(v6) host/address unreachable
    PROHIBITED = 4  # ICMP(v6) administratively prohibited
    TIMED_OUT = 5  # silence; the application's next retransmit starts a new dial


@dataclass(frozen=True, slots=True)
class VifConfig:
    """`addresses`: the VIF's own (the first of each family is the source of new connections).

    `mtu` in bytes. `mode`: auto, veth or tun. `mark`: fwmark that sends a packet past the VIF.
    """

    name: str = "inroad0"
    addresses: tuple[Address, ...] = ()
    mtu: int = 65_535
    mode: str = "auto"
    mark: int = 0


class VifEvents(Protocol):
    """What the VIF tells the daemon. Called from the event loop; none of these may block."""

    def syn(self, flow: int, source: Endpoint, target: Endpoint, ttl: int) -> None:
        """An application wants to connect; its SYN is held until `Vif.verdict(flow, ...)`."""

    def cancelled(self, flow: int) -> None:
        """The application gave up while its SYN was held, or the released SYN never arrived."""

    def accepted(self, flow: int, sock: socket.socket) -> None:
        """The kernel finished the handshake of a released SYN; `sock` is ours now.

        It does not block, and has no Nagle and keepalive from its listener.
        """

    def datagram(self, flow: int, source: Endpoint, target: Endpoint, ttl: int, payload: bytes) -> None:
        """A UDP datagram of association `flow`; the first one opens it, and `ttl` is that one's."""

    def echo(self, flow: int, source: str, target: str, ttl: int, sequence: int, payload: bytes) -> None:
        """An ICMP(v6) echo request of sequence `flow` (one per identifier and target)."""

    def expired(self, flow: int) -> None:
        """A UDP association or echo sequence was idle for too long and is forgotten."""

    def failed(self, reason: str) -> None:
        """The packet loop ended; the VIF is gone and must be opened anew."""


class Vif(Protocol):
    """An open VIF. Closing it (or the death of its processes) removes it from the host."""

    name: str
    kind: str  # "tun" or "veth"
    reason: str  # why this kind was chosen
    mtu: int  # of the interface, in bytes: the wanted one, or less where the kind has its own

    def verdict(self, flow: int, verdict: Verdict) -> None:
        """Say how the dial for a held SYN ended."""

    def send_datagram(self, flow: int, payload: bytes) -> None:
        """Deliver a datagram to the application of association `flow`."""

    def unreachable(self, flow: int, verdict: Verdict) -> None:
        """Answer association `flow` with ICMP: REFUSED is port unreachable."""

    def echo_reply(self, flow: int, sequence: int, payload: bytes) -> None:
        """Answer an echo request that the far side really answered."""

    async def counters(self) -> dict[str, int]:
        """Packets by what became of them, since the VIF was opened."""

    async def close(self) -> None:
        """Remove the VIF; idempotent."""
