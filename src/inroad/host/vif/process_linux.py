"""The daemon's end of the packet loop's process: starts it, accepts connections, carries records."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections import deque

from inroad.core.errors import HostChangeFailed, by_code
from inroad.host.run import require, run_async, spawn
from inroad.host.vif import firewall, netlink_linux, tun_linux, veth_linux, veth_rules, wire
from inroad.host.vif.api import FirewallDrops, NoNamespace, Verdict, VifConfig, VifEvents
from inroad.host.vif.outbox import Outbox

assert sys.platform == "linux"  # noqa: S101

START_LIMIT = 10.0
ACCEPT_LIMIT = 12.0
"""Seconds from the verdict until the connection must come out of the listener."""
ACCEPT_PAUSE = 0.1
BATCH = 64
MAX_LISTENERS = 253
"""As many descriptors as one message may carry (SCM_MAX_FD)."""
QUEUED_DATAGRAMS = 4 * 1024 * 1024
PAIR_BUFFER = 1024 * 1024
_SO_SNDBUFFORCE = 32
_ABORT = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 s: close() sends RST


class ProcessVif:
    """A VIF whose packets are handled by a process of its own."""

    def __init__(self, config: VifConfig, handler: VifEvents, plane: str, reason: str) -> None:
        self.name = config.name
        self.kind = "veth" if plane == "veth" else "tun"
        self._plane = plane
        self.mtu = config.mtu
        self.reason = reason
        self._config = config
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._listeners: list[socket.socket] = []
        self._held: dict[int, tuple[str, int, int]] = {}
        self._expected: dict[tuple[str, int, int], int] = {}
        self._released: deque[tuple[float, tuple[str, int, int], int]] = deque()
        self._accept_timer: asyncio.TimerHandle | None = None
        self._associations: dict[int, tuple[wire.Address, wire.Address]] = {}
        self._counts: dict[int, asyncio.Future[dict[str, int]]] = {}
        self._flushing = False
        self._closed = False
        self._events, self._theirs_events = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._datagrams, self._theirs_datagrams = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (self._events, self._theirs_events, self._datagrams, self._theirs_datagrams):
            with contextlib.suppress(OSError):  # without CAP_NET_ADMIN the default has to do
                sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, PAIR_BUFFER)
        self._events.setblocking(False)
        self._datagrams.setblocking(False)
        self._out = Outbox(self._events)
        self._down = Outbox(self._datagrams, QUEUED_DATAGRAMS)
        self._dropped = 0

    @property
    def pid(self) -> int:
        """The process id of the packet loop; 0 before it was started."""
        return self._process.pid if self._process is not None else 0

    # Opening and closing.

    async def open(self) -> None:
        """Start the process and wait until its devices are there; raises its `InroadError`."""
        events, datagrams = self._theirs_events.fileno(), self._theirs_datagrams.fileno()
        argument = {
            "events": events,
            "datagrams": datagrams,
            "parent": os.getpid(),
            "plane": self._plane,
            "name": self._config.name,
            "mtu": self._config.mtu,
            "addresses": [str(address) for address in self._config.addresses],
        }
        try:
            self._process = await spawn(
                [sys.executable, "-I", "-m", "inroad.host.vif.worker_linux", json.dumps(argument)],
                pass_fds=(events, datagrams),
            )
        finally:
            self._theirs_events.close()
            self._theirs_datagrams.close()
        try:
            async with asyncio.timeout(START_LIMIT):
                await self._ready()
                if self.kind == "veth":
                    await self._redirect()
        except TimeoutError:
            await self.close()
            raise HostChangeFailed(f"the packet loop did not start within {START_LIMIT:.0f} s") from None
        except BaseException:
            await self.close()
            raise
        self._watch = self._loop.create_task(self._watch_process(self._process), name="vif-process")
        self._loop.add_reader(self._events.fileno(), self._read_events)
        self._loop.add_reader(self._datagrams.fileno(), self._read_datagrams)
        for index, listener in enumerate(self._listeners):
            self._loop.add_reader(listener.fileno(), self._accept, index)

    async def _ready(self) -> None:
        arrived = asyncio.Event()
        self._loop.add_reader(self._events.fileno(), arrived.set)
        try:
            await arrived.wait()
        finally:
            self._loop.remove_reader(self._events.fileno())
        message, fds, _, _ = socket.recv_fds(self._events, wire.MAX_MESSAGE, MAX_LISTENERS)
        self._listeners = [socket.socket(fileno=fd) for fd in fds]
        for sock in self._listeners:
            sock.setblocking(False)
        for kind, _, body in wire.records(message):
            answer = json.loads(bytes(body))
            if kind == wire.FAILED:
                code, message, remedy = answer
                if code == NoNamespace.code:
                    raise NoNamespace(message, remedy)
                if code == FirewallDrops.code:
                    chains, remedy = await firewall.explain(6 if "IPv6" in message else 4, self.name)
                    raise FirewallDrops(f"{message}: {chains}" if chains else message, remedy)
                raise by_code(code, message, remedy)
            self.mtu = answer["mtu"]
            self.reason = "; ".join([self.reason, *answer["notes"]])
            return
        raise HostChangeFailed("the packet loop ended while it started")

    async def _redirect(self) -> None:
        """Load the rules of veth mode into the private namespace."""
        rules = veth_rules.rules(veth_linux.LISTENER4, veth_linux.LISTENER6, tun_linux.PORT)
        nsenter, nft = require("nsenter", "util-linux"), require("nft", "nftables")
        load = [nsenter, f"--net=/proc/{self.pid}/ns/net", nft, "-f", "-"]
        done = await run_async(load, stdin=rules)
        if not done.ok:
            raise HostChangeFailed(
                f"nftables refused the redirection: {done.stderr.strip().splitlines()[:1]}"
            )
        if not (await run_async(load, stdin=veth_rules.resets())).ok:
            self.reason += "; no nft dup in this kernel: an aborted handshake is noticed after 10 s"
        self._tell(wire.record(wire.TRACKED))

    async def _watch_process(self, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        if not self._closed:
            self._release()
            self._handler.failed(f"the packet loop ended with status {status}")

    async def close(self) -> None:
        """Remove the VIF; idempotent."""
        self._release()
        process = self._process
        if process is None:
            return
        try:
            async with asyncio.timeout(2.0):
                await process.wait()  # it ends by itself when its sockets end
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._watch is not None:
            await self._watch

    def _release(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self.kind == "veth" and self._listeners:
            # Connections keep the private namespace, and with it the pair, until they are closed.
            netlink_linux.remove_link(self.name)
        for sock in (self._events, self._datagrams, *self._listeners):
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
            sock.close()
        if self._accept_timer is not None:
            self._accept_timer.cancel()
        for waiter in self._counts.values():
            waiter.cancel()

    # What the daemon says.

    def verdict(self, flow: int, verdict: Verdict) -> None:
        """Say how the dial for a held SYN ended."""
        key = self._held.pop(flow, None)
        if key is None:
            return
        if verdict == Verdict.CONNECTED:
            self._expected[key] = flow
            self._released.append((self._loop.time() + ACCEPT_LIMIT, key, flow))
            if self._accept_timer is None:
                self._accept_timer = self._loop.call_later(ACCEPT_LIMIT, self._accept_expired)
        self._tell(wire.record(wire.VERDICT, flow, bytes((verdict,))))

    def send_datagram(self, flow: int, payload: bytes) -> None:
        """Deliver a datagram to the application of association `flow`."""
        self._tell_datagram(wire.HEADER.pack(wire.DATAGRAM, flow, len(payload)), payload)

    def unreachable(self, flow: int, verdict: Verdict) -> None:
        """Answer association `flow` with ICMP: REFUSED is port unreachable."""
        self._tell(wire.record(wire.UNREACHABLE, flow, bytes((verdict,))))

    def echo_reply(self, flow: int, sequence: int, payload: bytes) -> None:
        """Answer an echo request that the far side really answered."""
        header = wire.HEADER.pack(wire.ECHO, flow, len(payload) + 2)
        self._tell_datagram(header, wire.SEQUENCE.pack(sequence), payload)

    async def counters(self) -> dict[str, int]:
        """Packets by what became of them, since the VIF was opened."""
        if self._closed:
            return {}
        number = max(self._counts, default=0) + 1
        waiter = self._counts[number] = self._loop.create_future()
        self._tell(wire.record(wire.COUNT, number))
        try:
            counts: dict[str, int] = await waiter
        finally:
            del self._counts[number]
        return counts | {"datagrams-dropped": counts.get("datagrams-dropped", 0) + self._dropped}

    def _tell(self, record: bytes) -> None:
        if not self._closed:
            self._out.put(record)
            self._flush_soon()

    def _tell_datagram(self, *parts: bytes) -> None:
        if self._closed:
            return
        if self._down.put(*parts):
            self._flush_soon()
        else:
            self._dropped += 1

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._closed:
            return
        for outbox, sock in ((self._out, self._events), (self._down, self._datagrams)):
            if not outbox.pending:
                continue
            try:
                done = outbox.flush()
            except OSError:  # the process ended; its watcher says so
                return
            if done:
                self._loop.remove_writer(sock.fileno())
            else:
                self._loop.add_writer(sock.fileno(), self._flush)

    # What the packet loop says.

    def _read_events(self) -> None:
        for _ in range(BATCH):
            message = self._receive(self._events)
            if not message:
                return
            for kind, flow, body in wire.records(message):
                if kind == wire.SYN:
                    ttl, listener, source, target, peer = wire.unpack_syn(body)
                    self._held[flow] = (*peer, listener)
                    self._handler.syn(flow, source, target, ttl)
                elif kind == wire.CANCELLED:
                    self._cancelled(flow)
                elif kind == wire.EXPIRED:
                    self._associations.pop(flow, None)
                    self._handler.expired(flow)
                elif kind == wire.COUNTERS and flow in self._counts:
                    self._counts[flow].set_result(json.loads(bytes(body)))
            if self._closed:
                return

    def _read_datagrams(self) -> None:
        for _ in range(BATCH):
            message = self._receive(self._datagrams)
            if not message:
                return
            for kind, flow, body in wire.records(message):
                if kind == wire.OPENED:
                    self._associations[flow] = wire.unpack_opened(body)
                    continue
                ends = self._associations.get(flow)
                if ends is None:  # expired meanwhile
                    continue
                if kind == wire.DATAGRAM:
                    self._handler.datagram(flow, *ends, bytes(body))
                else:
                    sequence = wire.SEQUENCE.unpack_from(body)[0]
                    self._handler.echo(flow, ends[0][0], ends[1][0], sequence, bytes(body[2:]))
            if self._closed:
                return

    def _receive(self, sock: socket.socket) -> bytes:
        """Return one message; b"" when there is none now, or none ever again."""
        try:
            message = sock.recv(wire.MAX_MESSAGE)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError:
            message = b""
        if not message:
            self._loop.remove_reader(sock.fileno())
        return message

    def _cancelled(self, flow: int) -> None:
        if self._held.pop(flow, None) is not None:
            self._handler.cancelled(flow)
            return
        for key, expected in self._expected.items():
            if expected == flow:
                del self._expected[key]
                self._handler.cancelled(flow)
                return

    # Connections out of the listeners.

    def _accept(self, index: int) -> None:
        listener = self._listeners[index]
        for _ in range(BATCH):
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptors: the connections wait in the kernel until there are some
                self._loop.remove_reader(listener.fileno())
                self._loop.call_later(ACCEPT_PAUSE, self._accept_again, index)
                return
            flow = self._expected.pop((peer[0], peer[1], index), None)
            if flow is None:  # cancelled meanwhile
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
                sock.close()
                continue
            sock.setblocking(False)
            if self.kind == "veth":  # elsewhere the packet loop has seen the handshake
                self._tell(wire.record(wire.ACCEPTED, flow))
            self._handler.accepted(flow, sock)

    def _accept_again(self, index: int) -> None:
        if not self._closed:
            self._loop.add_reader(self._listeners[index].fileno(), self._accept, index)

    def _accept_expired(self) -> None:
        self._accept_timer = None
        now = self._loop.time()
        while self._released and self._released[0][0] <= now:
            _, key, flow = self._released.popleft()
            if self._expected.get(key) == flow:
                del self._expected[key]
                self._tell(wire.record(wire.ABORT, flow))
                self._handler.cancelled(flow)
        if self._released:
            self._accept_timer = self._loop.call_later(self._released[0][0] - now, self._accept_expired)
