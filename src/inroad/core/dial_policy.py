"""Which addresses the cluster side dials for a client.

What a client asks for is not trusted, whatever our own client would filter: a dial from here to
loopback reaches the pod's own daemons, one to link-local the cloud's metadata service with the
node's credentials.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_KINDS = (
    # Linux connects 0.0.0.0 and :: to loopback; 0/8 is "this host on this network" (RFC 1122).
    ("unspecified", "0.0.0.0/8"),
    ("unspecified", "::/128"),
    ("loopback", "127.0.0.0/8"),
    ("loopback", "::1/128"),
    ("link-local", "169.254.0.0/16"),
    ("link-local", "fe80::/10"),
    # Amazon's metadata service over IPv6 is not link-local (EC2 user guide, instance metadata).
    ("metadata", "fd00:ec2::254/128"),
    ("multicast", "224.0.0.0/4"),
    ("multicast", "ff00::/8"),
    ("broadcast", "255.255.255.255/32"),
)
_REFUSED: tuple[tuple[str, Network], ...] = tuple((kind, ipaddress.ip_network(net)) for kind, net in _KINDS)


@dataclass(frozen=True)
class DialPolicy:
    """Refuses what no client may reach from here, except for the networks in `allow`."""

    allow: tuple[Network, ...] = ()

    def objection(self, address: Address) -> str:
        """Return why the address is not dialled, or an empty string."""
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped  # the kernel would connect to the IPv4 address
        if any(address in network for network in self.allow):
            return ""
        for kind, network in _REFUSED:
            if address in network:
                return f"{address} is a {kind} address"
        return ""


def parse_host(host: str) -> Address:
    """Return the address; raises ValueError for a name, or an address with a scope."""
    if "%" in host:
        raise ValueError(f"{host!r} has a scope")
    return ipaddress.ip_address(host)
