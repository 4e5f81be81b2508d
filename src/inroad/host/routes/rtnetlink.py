"""rtnetlink for routes and rules: messages as bytes, many to a packet.

A codec of our own because `connect` has one second: importing pyroute2 takes 115 ms here and encoding a
route 290 us, this 4 us (docs/adr/0010). Layouts: linux/netlink.h, rtnetlink.h, fib_rules.h. No I/O here: the
socket is in `netlink.py`.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from inroad.core.host_config import Address, Network

RTM_NEWLINK, RTM_DELLINK = 16, 17
RTM_NEWADDR, RTM_DELADDR = 20, 21
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255
RTN_UNICAST, RTN_THROW = 1, 9
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
PROTOCOL = 0xAD
"""rtm_protocol of our routes and rules; iproute2 names only those below 64 and 186 to 192."""

GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x40000
"""Multicast groups: links, then addresses, routes and rules of IPv4, then those of IPv6."""

FR_ACT_TO_TBL = 1
FIB_RULE_INVERT = 2

AF_INET, AF_INET6 = 2, 10
"""Linux's numbers."""

NLMSG_ERROR, NLMSG_DONE = 2, 3
DUMP_INTERRUPTED = 0x10
_REQUEST, _ACK, _DUMP = 0x01, 0x04, 0x300
_REPLACE, _EXCL, _CREATE = 0x100, 0x200, 0x400
_HEADER = struct.Struct("=IHHII")
_ATTR = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_RTMSG = struct.Struct("=BBBBBBBBI")
_METRIC = struct.Struct("=HHI")


@dataclass(frozen=True, slots=True)
class Route:
    """One route as the kernel has it. `oif` is an interface's index, 0 for none; `mtu` 0 for none."""

    network: Network
    kind: int = RTN_UNICAST
    oif: int = 0
    gateway: Address | None = None
    table: int = RT_TABLE_MAIN
    priority: int = 0
    protocol: int = PROTOCOL
    mtu: int = 0
    quickack: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy rule. `selectors` names what else it matches (`from`, `to`, `iif`, `oif`, `uid`, ...)."""

    family: int
    priority: int
    table: int
    action: int = FR_ACT_TO_TBL
    invert: bool = False
    fwmark: int = 0
    fwmask: int = 0
    protocol: int = 0
    suppress_prefixlen: int = -1
    to: Network | None = None
    selectors: frozenset[str] = frozenset()


def route_request(route: Route, *, remove: bool = False) -> bytes:
    """Encode the request that adds (replacing an equal one) or removes `route`; sequence 0."""
    network = route.network
    family = AF_INET if network.version == 4 else AF_INET6
    scope = RT_SCOPE_LINK if route.oif and route.gateway is None else RT_SCOPE_UNIVERSE
    if network.version == 6 or route.kind == RTN_THROW:
        scope = RT_SCOPE_UNIVERSE
    table = route.table if route.table < 256 else 0
    packed = network.network_address.packed
    parts = [
        _RTMSG.pack(family, network.prefixlen, 0, 0, table, route.protocol, scope, route.kind, 0),
        _ATTR.pack(4 + len(packed), 1) + packed,  # RTA_DST
        _ATTR.pack(8, 15) + _U32.pack(route.table),  # RTA_TABLE
    ]
    if route.oif:
        parts.append(_ATTR.pack(8, 4) + _U32.pack(route.oif))
    if route.gateway is not None:
        parts.append(_ATTR.pack(4 + len(route.gateway.packed), 5) + route.gateway.packed)
    if route.priority:
        parts.append(_ATTR.pack(8, 6) + _U32.pack(route.priority))
    metrics = b""
    if route.mtu:
        metrics += _METRIC.pack(8, 2, route.mtu)  # RTAX_MTU
    if route.quickack:
        metrics += _METRIC.pack(8, 15, 1)  # RTAX_QUICKACK
    if metrics and not remove:
        parts.append(_ATTR.pack(4 + len(metrics), 8) + metrics)
    body = b"".join(parts)
    kind, flags = (RTM_DELROUTE, 0) if remove else (RTM_NEWROUTE, _CREATE | _REPLACE)
    return _HEADER.pack(16 + len(body), kind, _REQUEST | _ACK | flags, 0, 0) + body


def rule_request(rule: Rule, *, remove: bool = False) -> bytes:
    """Encode the request that adds or removes a rule with a priority, a mark and a table."""
    table = rule.table if rule.table < 256 else 0
    flags = FIB_RULE_INVERT if rule.invert else 0
    parts = [
        _RTMSG.pack(rule.family, 0, 0, 0, table, 0, 0, rule.action, flags),
        _ATTR.pack(8, 6) + _U32.pack(rule.priority),  # FRA_PRIORITY
        _ATTR.pack(8, 15) + _U32.pack(rule.table),  # FRA_TABLE
        _ATTR.pack(5, 21) + bytes((rule.protocol, 0, 0, 0)),  # FRA_PROTOCOL
    ]
    if rule.fwmark:
        parts.append(_ATTR.pack(8, 10) + _U32.pack(rule.fwmark))
        parts.append(_ATTR.pack(8, 16) + _U32.pack(rule.fwmask or 0xFFFFFFFF))
    body = b"".join(parts)
    kind, extra = (RTM_DELRULE, 0) if remove else (RTM_NEWRULE, _CREATE | _EXCL)
    return _HEADER.pack(16 + len(body), kind, _REQUEST | _ACK | extra, 0, 0) + body


def dump_request(kind: int, family: int, table: int = 0) -> bytes:
    """Encode the request for all routes (RTM_GETROUTE; of one table) or rules (RTM_GETRULE) of a family."""
    body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    if table:
        body += _ATTR.pack(8, 15) + _U32.pack(table)
    return _HEADER.pack(16 + len(body), kind, _REQUEST | _DUMP, 0, 0) + body


def numbered(requests: Iterable[bytes], first: int) -> bytes:
    """Join requests to one packet, with sequence numbers from `first` on."""
    return b"".join(
        request[:8] + _U32.pack(number) + request[12:] for number, request in enumerate(requests, first)
    )


def removes(request: bytes) -> bool:
    """Tell whether a request removes something."""
    return _HEADER.unpack_from(request)[1] in (RTM_DELROUTE, RTM_DELRULE)


def parse_route(body: bytes) -> Route | None:
    """Decode an rtmsg; None for what is no route of a host (local, broadcast, multicast, cached)."""
    family, length, _, _, table, protocol, _, kind, flags = _RTMSG.unpack_from(body)
    if kind not in (RTN_UNICAST, RTN_THROW) or flags & 0x200:  # RTM_F_CLONED
        return None
    destination = b"\0" * (4 if family == AF_INET else 16)
    oif = priority = mtu = 0
    quickack = False
    gateway: Address | None = None
    for name, value in _attributes(body, _RTMSG.size):
        if name == 1:
            destination = value
        elif name == 4:
            oif = _U32.unpack(value)[0]
        elif name == 5:
            gateway = ip_address(value)
        elif name == 6:
            priority = _U32.unpack(value)[0]
        elif name == 8:
            metrics = dict(_attributes(value, 0))
            mtu = _U32.unpack(metrics.get(2, b"\0\0\0\0"))[0]
            quickack = 15 in metrics
        elif name == 9 and not oif:  # RTA_MULTIPATH: the first hop's interface
            oif = struct.unpack_from("=HBBi", value)[3]
        elif name == 15:
            table = _U32.unpack(value)[0]
    network = ip_network((destination, length))
    return Route(network, kind, oif, gateway, table, priority, protocol, mtu, quickack)


Key = tuple[bytes, int]
"""A route's packed destination and prefix length: what a diff of thousands of routes goes by."""
Shape = tuple[int, int, int, bool]
"""What else of a route matters to us: kind, oif, mtu, quickack."""


def parse_shape(body: bytes) -> tuple[int, Key, Shape]:
    """Decode (table, key, shape) of an rtmsg, four times as fast as `parse_route` does."""
    family, length, table, kind = body[0], body[1], body[4], body[7]
    destination = _NOWHERE[family]
    oif = mtu = 0
    quickack = False
    at, end = _RTMSG.size, len(body)
    while at < end:
        size, name = _ATTR.unpack_from(body, at)
        if name == 1:
            destination = body[at + 4 : at + size]
        elif name == 4:
            (oif,) = _U32.unpack_from(body, at + 4)
        elif name == 15:
            (table,) = _U32.unpack_from(body, at + 4)
        elif name == 8:
            for inner in range(at + 4, at + size, 8):  # every metric that we set is a u32
                _, metric, value = _METRIC.unpack_from(body, inner)
                mtu = value if metric == 2 else mtu
                quickack |= metric == 15
        at += (size + 3) & ~3
    return table, (destination, length), (kind, oif if kind == RTN_UNICAST else 0, mtu, quickack)


_NOWHERE = {AF_INET: bytes(4), AF_INET6: bytes(16)}
_SELECTORS = {2: "from", 3: "iif", 11: "flow", 12: "tun_id", 17: "oif", 19: "l3mdev", 20: "uid"} | {
    22: "ipproto",
    23: "sport",
    24: "dport",
}


def parse_rule(body: bytes) -> Rule:
    """Decode a fib_rule_hdr and its attributes."""
    family, dst_len, _, tos, table, _, _, action, flags = _RTMSG.unpack_from(body)
    numbers = {6: 0, 10: 0, 16: 0, 14: 0xFFFFFFFF, 15: table, 21: 0}
    selectors = {"tos"} if tos else set()
    to: Network | None = None
    for name, value in _attributes(body, _RTMSG.size):
        if name == 1:
            to = ip_network((value, dst_len))
        elif name == 19 and value == b"\0":  # FRA_L3MDEV is always there
            continue
        elif name in _SELECTORS:
            selectors.add(_SELECTORS[name])
        elif name in numbers:
            numbers[name] = int.from_bytes(value, sys.byteorder)
    suppress = numbers[14] if numbers[14] != 0xFFFFFFFF else -1
    return Rule(
        family, numbers[6], numbers[15], action, bool(flags & FIB_RULE_INVERT), numbers[10], numbers[16],
        numbers[21], suppress, to, frozenset(selectors),
    )  # fmt: skip


def messages(data: bytes, *, ports: bool = False) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (type, flags, sequence, body) of each message of a packet.

    With `ports`, the third is the port of the socket whose request caused it, 0 for the kernel itself.
    """
    at = 0
    while at + 16 <= len(data):
        length, kind, flags, number, port = _HEADER.unpack_from(data, at)
        if length < 16:
            return
        yield kind, flags, port if ports else number, data[at + 16 : at + length]
        at += (length + 3) & ~3


def _attributes(data: bytes, at: int) -> Iterable[tuple[int, bytes]]:
    while at + 4 <= len(data):
        length, name = _ATTR.unpack_from(data, at)
        if length < 4:
            return
        yield name & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


def refusal(body: bytes) -> tuple[int, str]:
    """Return errno (0: done) and the kernel's own words of an NLMSG_ERROR (or NLMSG_DONE) message."""
    code = -int(struct.unpack_from("=i", body)[0])
    if code <= 0 or len(body) < 20:
        return max(code, 0), ""
    length = _U32.unpack_from(body, 4)[0]
    for start in (20, 4 + ((length + 3) & ~3)):  # with and without NETLINK_CAP_ACK
        for name, value in _attributes(body, start):
            if name == 1 and value.endswith(b"\0") and value[:-1].isascii():
                return code, value[:-1].decode()
    return code, ""
