"""Making the kernel forget the connections to a name server, so that sockets in use follow new rules.

NAT decides once for a connection. A program that keeps its UDP socket (systemd-resolved, Java, Go) would
stay on the old way for as long as it asks, before and after our rules. The few netlink messages are
written by hand: the `conntrack` program is rarely installed, and importing a library takes longer than
the whole flush. Layouts: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence

import structlog

from inroad.core.host_config import Address

_AF_NETLINK, _NETLINK_NETFILTER = 16, 12  # not in `socket` elsewhere, where this is only type-checked
_GET, _DELETE = 0x101, 0x102
_REQUEST, _ACK, _DUMP = 0x01, 0x04, 0x300
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
_ATTR_TYPE = 0x3FFF
_TUPLE_ORIG, _ZONE, _FILTER = 1, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_DST = {4: 2, 6: 4}
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_FILTER_ORIG_FLAGS = 1
_BY_DST_PROTO_DPORT = 1 << 1 | 1 << 3 | 1 << 5
_FAMILY = {4: 2, 6: 10}
_HEADER = struct.Struct("=IHHII")
_ATTR = struct.Struct("=HH")
_TIMEOUT = 5.0

log = structlog.get_logger()


async def forget(servers: Sequence[Address], port: int = 53) -> int:
    """Delete the UDP and TCP entries towards `port` of the servers; returns how many there were.

    Where connection tracking can't be reached nothing is pinned either: that is no error.
    """
    try:
        return await asyncio.to_thread(_forget, tuple(servers), port)
    except OSError as error:
        log.debug("no connection tracking to flush", problem=str(error))
        return 0


def _forget(servers: tuple[Address, ...], port: int) -> int:
    deleted = 0
    with socket.socket(_AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as table:
        table.settimeout(_TIMEOUT)
        table.bind((0, 0))
        for server in servers:
            for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP):
                for entry in _dump(table, _dump_request(server, protocol, port)):
                    if _leads_to(entry, server, protocol, port):
                        deleted += _delete(table, server, entry)
    return deleted


def _attr(kind: int, payload: bytes) -> bytes:
    return _ATTR.pack(4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _message(kind: int, flags: int, version: int, attributes: bytes) -> bytes:
    body = struct.pack("=BBH", _FAMILY[version], 0, 0) + attributes
    return _HEADER.pack(16 + len(body), kind, _REQUEST | flags, 1, 0) + body


def _dump_request(server: Address, protocol: int, port: int) -> bytes:
    """Ask for the entries to one server's port; kernels before 5.8 ignore the filter and send all."""
    ip = _attr(_IP_DST[server.version], server.packed)
    proto = _attr(_PROTO_NUM, bytes((protocol,))) + _attr(_PROTO_DST_PORT, port.to_bytes(2, "big"))
    tuple_ = _attr(_TUPLE_IP | _NESTED, ip) + _attr(_TUPLE_PROTO | _NESTED, proto)
    flags = _attr(_FILTER_ORIG_FLAGS, struct.pack("=I", _BY_DST_PROTO_DPORT))
    wanted = _attr(_TUPLE_ORIG | _NESTED, tuple_) + _attr(_FILTER | _NESTED, flags)
    return _message(_GET, _DUMP, server.version, wanted)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if length < 16:
            return
        yield kind, data[at + 16 : at + length]
        at += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(data):
        length, kind = _ATTR.unpack_from(data, at)
        if length < 4:
            break
        found[kind & _ATTR_TYPE] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def _dump(table: socket.socket, request: bytes) -> list[dict[int, bytes]]:
    """Return the entries' attributes."""
    table.send(request)
    entries: list[dict[int, bytes]] = []
    while True:
        for kind, body in _messages(table.recv(1 << 18)):
            if kind == _DONE:
                return entries
            if kind == _ERROR:
                code: int = -struct.unpack_from("=i", body)[0]
                raise OSError(code, os.strerror(code))
            entries.append(_attributes(body[4:]))


def _leads_to(entry: dict[int, bytes], server: Address, protocol: int, port: int) -> bool:
    original = _attributes(entry.get(_TUPLE_ORIG, b""))
    ip = _attributes(original.get(_TUPLE_IP, b""))
    proto = _attributes(original.get(_TUPLE_PROTO, b""))
    return (
        ip.get(_IP_DST[server.version]) == server.packed
        and proto.get(_PROTO_NUM) == bytes((protocol,))
        and proto.get(_PROTO_DST_PORT) == port.to_bytes(2, "big")
    )


def _delete(table: socket.socket, server: Address, entry: dict[int, bytes]) -> bool:
    wanted = _attr(_TUPLE_ORIG | _NESTED, entry[_TUPLE_ORIG])
    if _ZONE in entry:
        wanted += _attr(_ZONE, entry[_ZONE])
    table.send(_message(_DELETE, _ACK, server.version, wanted))
    for kind, body in _messages(table.recv(1 << 16)):
        if kind == _ERROR:
            code: int = -struct.unpack_from("=i", body)[0]
            if code not in (0, errno.ENOENT):  # it may have expired meanwhile
                raise OSError(code, os.strerror(code))
            return code == 0
    return False
