"""A VIF of one device, handled in the daemon's event loop: macOS and Windows.

    application --- VIF --- reads, rewrites, writes back --- VIF --- listener on the VIF's own address

There is no process of its own here as on Linux: it would save the copying of payload from the daemon's one
thread, and cost a second way to pass events and descriptors (neither system has SEQPACKET pairs, Windows
passes no descriptors). What becomes of a packet is decided by the same code: `inroad.core.packet_path`.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Protocol

from inroad.core.checksum import Buffer
from inroad.core.errors import HostChangeFailed
from inroad.core.packet_path import DATAGRAM, ECHO, FORWARD, PacketPath
from inroad.core.reflect import Plan, Reflector, fast
from inroad.host.vif.api import Endpoint, FirewallDrops, Verdict, VifConfig, VifEvents
from inroad.host.vif.arrivals import Arrivals
from inroad.host.vif.inbound_check import connect_to_ourselves

BATCH = 64
"""Packets handled before the daemon's other work has its turn."""
BACKLOG = 4096
MTU = 16_000
"""Bytes at most: without `quickack` on the routes, full segments must not be too rare (Nagle)."""


class Device(Protocol):
    """A device that packets are read from and written to; raises `OSError` when it is gone.

    `buffer` takes one packet of up to 65,535 bytes; it is the caller's until the next `receive`.
    """

    name: str
    buffer: memoryview

    def receive(self) -> int:
        """Read the next packet into `buffer`; returns its size, 0 when there is none now."""

    def send(self, packet: Buffer) -> None:
        """Write a packet; one for which there is no room is dropped."""

    def wait(self, timeout: float) -> bool:
        """Block until there is a packet, for so many seconds at most."""

    def watch(self, drain: Callable[[], bool]) -> None:
        """Call `drain` in this event loop whenever there are packets; True: it left some."""

    def close(self) -> None:
        """Remove the device, with its addresses and routes; idempotent."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A device with its addresses. `versions`: the IP versions that it has. `notes`: what was not possible.

    `firewall`: what to do when the host's firewall drops what arrives on it. `undo`: takes away what does
    not go with the device.
    """

    device: Device
    mtu: int
    versions: tuple[int, ...]
    notes: tuple[str, ...]
    firewall: str
    undo: Callable[[], Awaitable[None]] | None = None


class OneDeviceVif:
    """See `inroad.host.vif.api.Vif`."""

    def __init__(self, opened: Opened, config: VifConfig, handler: VifEvents, kind: str, reason: str) -> None:
        self.name = opened.device.name
        self.kind = kind
        self.reason = "; ".join([reason, *opened.notes])
        self.mtu = opened.mtu
        self._opened = opened
        self._device = opened.device
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._listeners, self._plan = _listen(config, opened.versions)
        self._tcp = Reflector(self._plan, {})
        self._path = PacketPath(self._tcp, opened.mtu)
        self._arrivals = Arrivals(handler, accepted=lambda flow: None, abort=self._abort)
        self._ends: dict[int, tuple[Endpoint, Endpoint, int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._settling = False
        self._ending: asyncio.Task[None] | None = None
        self._closed = False
        self._read = 0

    async def start(self) -> None:
        """See that connections arrive, and begin; raises `FirewallDrops`."""
        try:
            for sock in self._listeners:
                version = 4 if sock.family == socket.AF_INET else 6
                await asyncio.to_thread(
                    connect_to_ourselves, self._device.send, self._next_packet, self._plan, version
                )
        except FirewallDrops as problem:
            await self.close()
            raise FirewallDrops(problem.message, self._opened.firewall) from None
        except OSError as problem:
            await self.close()
            raise HostChangeFailed(f"{self.name} does not work: {problem.strerror or problem}") from problem
        except BaseException:
            await self.close()
            raise
        self._arrivals.listen(self._listeners)
        self._device.watch(self._drain)

    def _next_packet(self, timeout: float) -> memoryview:
        size = self._device.receive() if self._device.wait(timeout) else 0
        return self._device.buffer[:size]

    async def close(self) -> None:
        """See `Vif.close`."""
        if self._release():
            await self._undo()
        elif self._ending is not None:
            await self._ending

    def _release(self) -> bool:
        if self._closed:
            return False
        self._closed = True
        self._arrivals.close()
        for sock in self._listeners:  # where it never came to accepting
            sock.close()
        self._device.close()
        if self._timer is not None:
            self._timer.cancel()
        return True

    async def _undo(self) -> None:
        if self._opened.undo is not None:
            await self._opened.undo()

    def _failed(self, problem: OSError) -> None:
        if self._release():
            reason = f"the device {self.name} is gone: {problem.strerror or problem}"
            self._ending = self._loop.create_task(self._end(reason), name="vif-failed")

    async def _end(self, reason: str) -> None:
        """Take away what did not go with the device, and say so then: the next one will bring its own."""
        try:
            await self._undo()
        except HostChangeFailed as problem:
            reason = f"{reason}; {problem}"
        self._handler.failed(reason)

    # Packets.

    def _drain(self) -> bool:
        now = time.monotonic()
        device = self._device
        packet, receive, send = device.buffer, device.receive, device.send
        ways, path, associated = self._tcp.app_ways, self._path, self._path.associations.fast
        left = True
        try:
            for _ in range(BATCH):
                size = receive()
                if not size:
                    left = False
                    break
                self._read += 1
                if fast(ways, packet, size):
                    send(packet[:size])
                elif number := associated(packet, size, now):
                    self._hand_up(DATAGRAM, number, packet)
                elif (action := path.from_app(packet, size, now)) == FORWARD:
                    send(path.packet)
                elif action in (DATAGRAM, ECHO):
                    self._hand_up(action, path.number, path.packet)
            self._settle()
        except OSError as problem:
            self._failed(problem)
        return left and not self._closed

    def _hand_up(self, action: int, number: int, packet: memoryview) -> None:
        table = self._path.associations
        payload = bytes(packet[table.payload_start : table.payload_end])
        if table.opened is not None:
            head, ports = table.opened
            source, target = str(ip_address(head.source)), str(ip_address(head.target))
            self._ends[number] = (
                (source, int.from_bytes(ports[:2], "big")),
                (target, int.from_bytes(ports[2:], "big")),
                head.ttl,
            )
        first, second, ttl = self._ends[number]
        if action == DATAGRAM:
            self._handler.datagram(number, first, second, ttl, payload)
        else:
            self._handler.echo(number, first[0], second[0], ttl, table.sequence, payload)

    # What goes out, and what became of time.

    def _soon(self) -> None:
        """Let one call send what many calls have made."""
        if not self._settling and not self._closed:
            self._settling = True
            self._loop.call_soon(self._settle_later)

    def _settle_later(self) -> None:
        self._settling = False
        if self._closed:
            return
        try:
            self._settle()
        except OSError as problem:
            self._failed(problem)

    def _settle(self) -> None:
        tcp = self._tcp
        for packets in (tcp.to_app, tcp.to_listener):
            for packet in packets:
                self._device.send(packet)
            packets.clear()
        events, tcp.events = tcp.events, []
        for event in events:
            if isinstance(event, int):
                self._arrivals.cancel(event)
                continue
            source, target = str(ip_address(event.head.source)), str(ip_address(event.head.target))
            ports = int.from_bytes(event.ports[:2], "big"), int.from_bytes(event.ports[2:], "big")
            peer = str(ip_address(event.peer)), event.peer_port, event.listener
            self._arrivals.hold(event.number, peer)
            self._handler.syn(event.number, (source, ports[0]), (target, ports[1]), event.head.ttl)
        expired, self._path.associations.expired = self._path.associations.expired, []
        for number in expired:
            self._ends.pop(number, None)
            self._handler.expired(number)
        deadline = self._path.deadline()
        if deadline is None or self._closed or (self._timer is not None and self._due <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._path.tick(time.monotonic())
        self._settle_later()

    # What the daemon says.

    def verdict(self, flow: int, verdict: Verdict) -> None:
        """See `Vif.verdict`."""
        if self._arrivals.judged(flow, connected=verdict == Verdict.CONNECTED):
            self._tcp.verdict(flow, verdict, time.monotonic())
            self._soon()

    def _abort(self, flow: int) -> None:
        self._tcp.abort(flow)
        self._soon()

    def send_datagram(self, flow: int, payload: bytes) -> None:
        """See `Vif.send_datagram`."""
        self._path.associations.datagram(flow, payload, time.monotonic())
        self._soon()

    def unreachable(self, flow: int, verdict: Verdict) -> None:
        """See `Vif.unreachable`."""
        self._path.associations.unreachable(flow, verdict)
        self._soon()

    def echo_reply(self, flow: int, sequence: int, payload: bytes) -> None:
        """See `Vif.echo_reply`."""
        self._path.associations.reply(flow, sequence, payload, time.monotonic())
        self._soon()

    async def counters(self) -> dict[str, int]:
        """See `Vif.counters`."""
        path = self._path
        own = {"packets": self._read, "tcp-flows": len(path.tcp), "associations": len(path.associations)}
        return own | path.counters


async def begin(
    opened: Opened, config: VifConfig, handler: VifEvents, kind: str, reason: str
) -> OneDeviceVif:
    """Make a VIF of an open device, which is closed when that fails. Raises `HostChangeFailed`."""
    try:
        vif = OneDeviceVif(opened, config, handler, kind, reason)
    except BaseException:
        opened.device.close()
        if opened.undo is not None:
            await opened.undo()
        raise
    await vif.start()
    return vif


def _listen(config: VifConfig, versions: tuple[int, ...]) -> tuple[list[socket.socket], Plan]:
    """Open listeners on the VIF's own addresses, and plan the reflection to them."""
    own = {address.version: address for address in reversed(config.addresses) if address.version in versions}
    if 4 not in own:
        raise HostChangeFailed("the VIF needs an IPv4 address of its own where there is one device")
    listeners = [_listener(str(own[4]), 0)]
    port = listeners[0].getsockname()[1]
    plan = partial(Plan, port, own[4].packed, one_device=True)
    if 6 not in own:
        return listeners, plan()
    try:
        listeners.append(_listener(str(own[6]), port))
    except BaseException:
        listeners[0].close()
        raise
    return listeners, plan(listener6=own[6].packed)


def _listener(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        sock.bind((address, port))
    except OSError as problem:
        sock.close()
        raise HostChangeFailed(f"no connections can be taken at {address}: {problem.strerror}") from problem
    sock.listen(BACKLOG)
    return sock
