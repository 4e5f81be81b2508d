"""The whole state that inroad wants of a workstation, as frozen values.

`core` computes one `HostConfig`; `host` applies the difference to what is there. Applying it twice
changes nothing; the empty `HostConfig()` removes everything inroad ever did.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

FWMARK = 0x1A0AD
"""Mark on the daemon's own packets: they never enter the VIF nor our DNS redirection."""

ROUTE_TABLE = 0x1A0AD & 0xFFFF
"""Number of the Linux routing table that holds inroad's routes (41133)."""


@dataclass(frozen=True, slots=True)
class RouteConfig:
    """Routes the workstation shall have.

    `interface`: the VIF's name. `subnets`: routed into the VIF. `never`: never routed into it, whatever
    is in `subnets` (longest prefix decides). `mtu` in bytes, 0 for the device's own. `quickack`: acknowledge
    every segment at once. A TUN with a large MTU needs it (no segment is ever full, and Nagle waits for a
    delayed acknowledgement); elsewhere it costs a packet for each request and each answer.
    """

    interface: str = ""
    subnets: tuple[Network, ...] = ()
    never: tuple[Network, ...] = ()
    mtu: int = 0
    quickack: bool = True


@dataclass(frozen=True, slots=True)
class ResolverConfig:
    """Names the workstation shall ask of inroad's DNS server.

    `server`: where it listens (address, port); `server6`: its IPv6 address, for name servers that are
    asked over IPv6, where `server` is an IPv4 one. `interface`: the VIF's name. `search`: domains appended
    to single labels, in order (`shop.svc.cluster.local` is not among them: the server expands names).
    `routed`: domains whose names are asked of `server`. `reverse`: subnets whose PTR names are. `others`:
    the name servers (address, port) for all other names where the user prefers some to the host's own.
    """

    server: tuple[Address, int] | None = None
    interface: str = ""
    search: tuple[str, ...] = ()
    routed: tuple[str, ...] = ()
    reverse: tuple[Network, ...] = ()
    server6: tuple[Address, int] | None = None
    others: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class HostConfig:
    """The wanted state of the workstation; the default is: as if inroad had never been there."""

    addresses: tuple[Address, ...] = ()
    routes: RouteConfig = field(default_factory=RouteConfig)
    resolver: ResolverConfig = field(default_factory=ResolverConfig)
