"""The packet loop: reads both TUNs, rewrites and forwards, and talks to the daemon in records.

One thread, one epoll, buffers made once. A packet of an open connection costs a read, `reflect.fast`
and a write; everything else goes through `core.packet_path`.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable

from inroad.core.packet_path import DATAGRAM, ECHO, FORWARD, PacketPath
from inroad.core.reflect import fast
from inroad.host.vif import namespace_linux, tun_linux, veth_linux, wire
from inroad.host.vif.outbox import Outbox

assert sys.platform == "linux"  # noqa: S101

BATCH = 64
"""Packets read from one device before the other one has its turn."""
QUEUED_DATAGRAMS = 4 * 1024 * 1024


class PacketLoop:
    """Everything the worker process does after its devices are open."""

    def __init__(self, opened: tun_linux.Opened, events: socket.socket, datagrams: socket.socket) -> None:
        self._path = PacketPath(opened.tcp, opened.mtu)
        self._opened = opened
        self._vif, self._inner = opened.vif, opened.inner
        self._events, self._datagrams = events, datagrams
        self._to_daemon = Outbox(events)
        self._up = Outbox(datagrams, QUEUED_DATAGRAMS)
        self._buffer = bytearray(65_536)
        self._packet = memoryview(self._buffer)
        self._epoll = select.epoll()
        self._masks: dict[int, int] = {}
        self._handlers: dict[int, Callable[[float], None]] = {
            self._inner: self._from_inner,
            self._vif: self._from_vif,  # the only one where there is one device
            events.fileno(): self._from_daemon,
            datagrams.fileno(): self._from_daemon_datagrams,
        }
        self._written = self._read = 0

    def run(self) -> None:
        """Work until the daemon closes its end."""
        for fd in self._handlers:
            self._epoll.register(fd, select.EPOLLIN)
            self._masks[fd] = select.EPOLLIN
        handlers, poll, clock = self._handlers, self._epoll.poll, time.monotonic
        try:
            while True:
                deadline = self._path.deadline()
                ready = poll(-1 if deadline is None else max(0.0, deadline - clock()) + 0.001)
                now = clock()
                for fd, mask in ready:
                    if mask & ~select.EPOLLOUT:
                        handlers[fd](now)
                if deadline is not None:
                    self._path.tick(now)
                self._send_all()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return

    # Packets.

    def _from_vif(self, now: float) -> None:
        fd, other, packet, buffers = self._vif, self._inner, self._packet, [self._buffer]
        ways, path, readv = self._path.tcp.app_ways, self._path, os.readv
        associated = path.associations.fast
        for _ in range(BATCH):
            try:
                size = readv(fd, buffers)
            except BlockingIOError:
                return
            self._read += 1
            if ways and fast(ways, packet, size):  # in veth mode there are none
                self._forward(other, packet[:size])
                continue
            number = associated(packet, size, now)
            if number:
                self._hand_up(DATAGRAM, number, packet)
                continue
            action = path.from_app(packet, size, now)
            if action == FORWARD:
                self._forward(other, path.packet)
            elif action in (DATAGRAM, ECHO):
                self._hand_up(action, path.number, path.packet)

    def _from_inner(self, now: float) -> None:
        fd, other, packet, buffers = self._inner, self._vif, self._packet, [self._buffer]
        ways, path, readv = self._path.tcp.listener_ways, self._path, os.readv
        for _ in range(BATCH):
            try:
                size = readv(fd, buffers)
            except BlockingIOError:
                return
            self._read += 1
            if fast(ways, packet, size) or path.from_listener(packet, size, now) == FORWARD:
                self._forward(other, packet[:size])

    def _forward(self, fd: int, packet: memoryview | bytes) -> None:
        try:
            os.write(fd, packet)
        except OSError:  # the device is down, or the kernel dislikes the packet
            self._path.odd("write-failed")

    def _hand_up(self, action: int, number: int, packet: memoryview) -> None:
        table = self._path.associations
        start, end = table.payload_start, table.payload_end
        opened = b""
        if table.opened is not None:
            head, ports = table.opened
            opened = wire.record(wire.OPENED, number, wire.pack_opened(head, self._opened.hops, ports))
        if action == DATAGRAM:
            header = wire.HEADER.pack(wire.DATAGRAM, number, end - start)
        else:
            header = wire.HEADER.pack(wire.ECHO, number, end - start + 2) + wire.SEQUENCE.pack(table.sequence)
        if not self._up.put(opened, header, packet[start:end]):
            self._path.odd("datagrams-dropped")
            if opened:
                table.forget(number)  # else the daemon would never hear of it

    # The daemon.

    def _from_daemon(self, now: float) -> None:
        for _ in range(BATCH):
            try:
                message = self._events.recv(wire.MAX_MESSAGE)
            except BlockingIOError:
                return
            if not message:
                raise EOFError
            for kind, flow, body in wire.records(message):
                if kind == wire.VERDICT:
                    self._path.tcp.verdict(flow, body[0], now)
                elif kind == wire.ACCEPTED:
                    self._path.tcp.accepted(flow, now)
                elif kind == wire.ABORT:
                    self._path.tcp.abort(flow)
                elif kind == wire.UNREACHABLE:
                    self._path.associations.unreachable(flow, body[0])
                elif kind == wire.TRACKED:
                    namespace_linux.set_sysctls(veth_linux.TRACKING)
                elif kind == wire.COUNT:
                    self._to_daemon.put(wire.record(wire.COUNTERS, flow, json.dumps(self._count()).encode()))

    def _from_daemon_datagrams(self, now: float) -> None:
        table = self._path.associations
        for _ in range(BATCH):
            try:
                message = self._datagrams.recv(wire.MAX_MESSAGE)
            except BlockingIOError:
                return
            if not message:
                raise EOFError
            for kind, flow, body in wire.records(message):
                if kind == wire.DATAGRAM:
                    table.datagram(flow, body, now)
                else:
                    table.reply(flow, wire.SEQUENCE.unpack_from(body)[0], body[2:], now)

    def _count(self) -> dict[str, int]:
        path = self._path
        own = {"packets": self._read, "tcp-flows": len(path.tcp), "associations": len(path.associations)}
        return own | path.counters

    # What goes out.

    def _send_all(self) -> None:
        path = self._path
        for fd, packets in ((self._vif, path.tcp.to_app), (self._inner, path.tcp.to_listener)):
            if packets:
                for packet in packets:
                    self._forward(fd, packet)
                packets.clear()
        if path.tcp.events or path.associations.expired:
            self._tell_daemon()
        self._flush(self._to_daemon, self._events)
        self._flush(self._up, self._datagrams)

    def _tell_daemon(self) -> None:
        put = self._to_daemon.put
        for event in self._path.tcp.events:
            if isinstance(event, int):
                put(wire.record(wire.CANCELLED, event))
            else:
                body = wire.pack_syn(
                    event.head, self._opened.hops, event.ports, event.listener, event.peer, event.peer_port
                )
                put(wire.record(wire.SYN, event.number, body))
        self._path.tcp.events.clear()
        for flow in self._path.associations.expired:
            put(wire.record(wire.EXPIRED, flow))
        self._path.associations.expired.clear()

    def _flush(self, outbox: Outbox, sock: socket.socket) -> None:
        fd = sock.fileno()
        wanted = select.EPOLLIN
        if outbox.pending and not outbox.flush():
            wanted |= select.EPOLLOUT
        if self._masks[fd] != wanted:
            self._epoll.modify(fd, wanted)
            self._masks[fd] = wanted
