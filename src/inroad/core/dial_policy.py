"""Which addresses the cluster side dials for a client.

What a client asks for is not trusted, whatever our own client would filter: a dial from here to
loopback reaches the pod's own daemons, one to link-local the cloud's metadata service with the
node's credentials.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

REMEMBERED = 1024
"""Addresses whose parsing and judging is remembered: many dials go to few of them."""

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

_TRANSLATED = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "64:ff9b::/96",  # NAT64's well-known prefix (RFC 6052)
        "64:ff9b:1::/48",  # its local-use prefixes (RFC 8215); those of 96 bits, the usual length
        "::ffff:0:0:0/96",  # IPv4-translated (RFC 2765), still known to stateless translators
        "::/96",  # IPv4-compatible (RFC 4291), long deprecated
    )
)
"""IPv6 networks whose addresses end in the IPv4 address that a translator on the way would connect to."""
_LOW_32 = 0xFFFF_FFFF


@dataclass(frozen=True)
class DialPolicy:
    """Refuses what no client may reach from here, except for the networks in `allow`."""

    allow: tuple[Network, ...] = ()

    def objection(self, address: Address) -> str:
        """Return why the address is not dialled, or an empty string."""
        return _objection(self.allow, address)


@lru_cache(REMEMBERED)
def _objection(allow: tuple[Network, ...], address: Address) -> str:
    meanings = _meanings(address)
    if any(meaning in network for meaning in meanings for network in allow):
        return ""
    for meaning in meanings:
        for kind, network in _REFUSED:
            if meaning in network:
                return f"{address} is a {kind} address"
    return ""


def _meanings(address: Address) -> tuple[Address, ...]:
    """Return the address and the IPv4 address to which it might lead in the end."""
    if not isinstance(address, ipaddress.IPv6Address):
        return (address,)
    if address.ipv4_mapped:
        return (address.ipv4_mapped,)  # the kernel itself connects to the IPv4 address
    if any(address in network for network in _TRANSLATED) and int(address) > 1:  # :: and ::1 are their own
        return (address, ipaddress.IPv4Address(int(address) & _LOW_32))
    return (address,)


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Parse CIDRs; raises ValueError naming the one that is none."""
    return tuple(ipaddress.ip_network(text) for text in texts)


@lru_cache(REMEMBERED)
def parse_host(host: str) -> Address:
    """Return the address; raises ValueError for a name, or an address with a scope."""
    if "%" in host:
        raise ValueError(f"{host!r} has a scope")
    return ipaddress.ip_address(host)
