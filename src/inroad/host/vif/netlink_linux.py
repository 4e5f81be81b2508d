"""As much of rtnetlink as a VIF needs: links, addresses, routes and rules, by hand.

pyroute2 does all this too, but takes longer to import than the packet loop may take to start. Numbers
are from `linux/rtnetlink.h`, `linux/if_link.h`, `linux/if_addr.h` and `linux/fib_rules.h`.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from struct import Struct, error, pack

assert sys.platform == "linux"  # noqa: S101

_HEADER = Struct("=IHHII")
_LINK = Struct("=BxHiII")
_ADDRESS = Struct("=BBBBI")
_ROUTE = Struct("=BBBBBBBBI")
_ATTRIBUTE = Struct("=HH")
_ERROR, _DONE = 2, 3
_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _NEWROUTE, _NEWRULE = 16, 17, 18, 20, 24, 32
_REQUEST, _ACK, _REPLACE, _EXCL, _CREATE = 1, 4, 0x100, 0x200, 0x400
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_TXQLEN, _IFLA_LINKINFO = 1, 3, 4, 13, 18
_IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_NET_NS_FD, _IFLA_INET6_ADDR_GEN_MODE = 20, 26, 28, 8
_INFO_KIND, _INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_RTA_DST, _RTA_OIF, _RTA_METRICS, _RTA_TABLE, _RTAX_QUICKACK = 1, 4, 8, 15, 15
_UP, _NOARP = 1, 0x80
_NODAD = 2
_STATIC, _UNICAST, _LOCAL = 4, 1, 2
_SCOPE_LINK = 253
_FRA_PRIORITY, _FRA_FWMARK, _TO_TABLE = 6, 10, 1
MAIN = 254

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded to 4 bytes."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _name(name: str) -> bytes:
    return attribute(_IFLA_IFNAME, name.encode() + b"\0")


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


class Netlink:
    """A route socket of the network namespace in which it was made; it stays in that one."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def request(self, kind: int, flags: int, body: bytes) -> bytes:
        """Send one request and return the body of its first answer; raise `OSError` if it is an error."""
        self._sequence += 1
        size = _HEADER.size + len(body)
        self._sock.send(_HEADER.pack(size, kind, flags | _REQUEST | _ACK, self._sequence, 0) + body)
        answer = b""
        while True:
            data = self._sock.recv(65_536)
            at = 0
            while at < len(data):
                size, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
                payload = data[at + _HEADER.size : at + size]
                at += (size + 3) & ~3
                if sequence != self._sequence:
                    continue
                if kind == _ERROR:
                    number = -int.from_bytes(payload[:4], sys.byteorder, signed=True)
                    if number:
                        raise OSError(number, os.strerror(number))
                    return answer
                if kind == _DONE:
                    return answer
                answer = answer or payload

    def index(self, name: str) -> int | None:
        """Return the index of a link, or None where there is none of that name."""
        try:
            answer = self.request(_GETLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + _name(name))
        except OSError:
            return None
        try:
            index: int = _LINK.unpack_from(answer)[2]
        except error:
            return None
        return index

    def alias(self, name: str) -> str:
        """Return the alias of a link, "" where it has none."""
        try:
            answer = self.request(_GETLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + _name(name))
        except OSError:
            return ""
        at = _LINK.size
        while at + _ATTRIBUTE.size <= len(answer):
            size, kind = _ATTRIBUTE.unpack_from(answer, at)
            if kind == _IFLA_IFALIAS:
                return answer[at + 4 : at + size].rstrip(b"\0").decode(errors="replace")
            at += max(size + 3 & ~3, 4)
        return ""

    def set_link(
        self,
        index: int,
        *,
        mtu: int = 0,
        queue: int = 0,
        up: bool | None = None,
        mac: bytes = b"",
        alias: str = "",
    ) -> None:
        """Change a link; what is left out stays. `queue` in packets."""
        body = b""
        if mac:
            body += attribute(_IFLA_ADDRESS, mac)
        if mtu:
            body += attribute(_IFLA_MTU, pack("=I", mtu))
        if queue:
            body += attribute(_IFLA_TXQLEN, pack("=I", queue))
        if alias:
            body += attribute(_IFLA_IFALIAS, alias.encode())
        flags, change = (_UP if up else 0, _UP) if up is not None else (0, 0)
        self.request(_NEWLINK, 0, _LINK.pack(0, 0, index, flags, change) + body)

    def add_veth(self, name: str, peer: str, peer_namespace: int, mac: bytes) -> None:
        """Make a pair without address resolution, both ends with the same `mac`, the peer elsewhere.

        `peer_namespace` is a descriptor of the other network namespace.
        """

        def end(title: str) -> bytes:
            return _LINK.pack(0, 0, 0, _NOARP, _NOARP) + _name(title) + attribute(_IFLA_ADDRESS, mac)

        other = end(peer) + attribute(_IFLA_NET_NS_FD, pack("=I", peer_namespace))
        data = attribute(_INFO_KIND, b"veth") + attribute(_INFO_DATA, attribute(_VETH_INFO_PEER, other))
        self.request(_NEWLINK, _CREATE | _EXCL, end(name) + attribute(_IFLA_LINKINFO, data))

    def no_link_local(self, index: int) -> None:
        """Give a link no IPv6 link-local address: no router solicitations, no multicast reports."""
        mode = attribute(_IFLA_INET6_ADDR_GEN_MODE, b"\1")
        spec = attribute(_IFLA_AF_SPEC, attribute(socket.AF_INET6, mode))
        self.request(_NEWLINK, 0, _LINK.pack(0, 0, index, 0, 0) + spec)

    def delete_link(self, index: int) -> None:
        """Remove a link."""
        self.request(_DELLINK, 0, _LINK.pack(0, 0, index, 0, 0))

    def add_address(self, index: int, address: Address) -> None:
        """Give a link an address of its own, without a subnet."""
        body = _ADDRESS.pack(_family(address.version), address.max_prefixlen, _NODAD, 0, index)
        body += attribute(1, address.packed) + attribute(2, address.packed)
        self.request(_NEWADDR, _CREATE | _REPLACE, body)

    def add_route(self, network: Network, index: int, *, quickack: bool = True, table: int = MAIN) -> None:
        """Route a network straight into a link. `quickack`: the kernel acknowledges at once there."""
        body = _ROUTE.pack(
            _family(network.version), network.prefixlen, 0, 0, table, _STATIC, _SCOPE_LINK, _UNICAST, 0
        )
        body += attribute(_RTA_DST, network.network_address.packed) if network.prefixlen else b""
        body += attribute(_RTA_OIF, pack("=I", index))
        if quickack:
            body += attribute(_RTA_METRICS, attribute(_RTAX_QUICKACK, pack("=I", 1)))
        self.request(_NEWROUTE, _CREATE | _REPLACE, body)

    def add_mark_rule(self, version: int, mark: int, table: int) -> None:
        """Have packets with a firewall mark routed by a table."""
        body = _ROUTE.pack(_family(version), 0, 0, 0, table, 0, 0, _TO_TABLE, 0)
        body += attribute(_FRA_PRIORITY, pack("=I", 10)) + attribute(_FRA_FWMARK, pack("=I", mark))
        self.request(_NEWRULE, _CREATE | _EXCL, body)


def remove_link(name: str) -> None:
    """Remove a link of this namespace if it is there."""
    netlink = Netlink()
    try:
        index = netlink.index(name)
        if index is not None:
            netlink.delete_link(index)
    except OSError as problem:
        if problem.errno != errno.ENODEV:
            raise
    finally:
        netlink.close()
