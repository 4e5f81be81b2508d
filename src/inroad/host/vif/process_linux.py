"""The daemon's end of the packet loop's process: starts it, accepts connections, carries records."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys

from inroad.core.errors import HostChangeFailed, by_code
from inroad.host.run import require, run_async, spawn
from inroad.host.vif import firewall, netlink_linux, tun_linux, veth_linux, veth_rules, wire
from inroad.host.vif.api import FirewallDrops, NoNamespace, Verdict, VifConfig, VifEvents
from inroad.host.vif.arrivals import Arrivals
from inroad.host.vif.outbox import Outbox

assert sys.platform == "linux"  # noqa: S101

START_LIMIT = 10.0
BATCH = 64
MAX_LISTENERS = 253
"""As many descriptors as one message may carry (SCM_MAX_FD)."""
QUEUED_DATAGRAMS = 4 * 1024 * 1024
PAIR_BUFFER = 1024 * 1024
_SO_SNDBUFFORCE = 32


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
        self._arrivals = Arrivals(handler, accepted=self._accepted, abort=self._abort)
        self._associations: dict[int, tuple[wire.Address, wire.Address, int]] = {}
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
        self._arrivals.listen(self._listeners)

    async def _ready(self) -> None:
        arrived = asyncio.Event()
        self._loop.add_reader(self._events.fileno(), arrived.set)
        try:
            await arrived.wait()
        finally:
            self._loop.remove_reader(self._events.fileno())
        message, fds, _, _ = socket.recv_fds(self._events, wire.MAX_MESSAGE, MAX_LISTENERS)
        self._listeners = [socket.socket(fileno=fd) for fd in fds]
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
        for sock in (self._events, self._datagrams):
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
            sock.close()
        self._arrivals.close()
        for sock in self._listeners:  # where it never came to accepting
            sock.close()
        for waiter in self._counts.values():
            waiter.cancel()

    # What the daemon says.

    def verdict(self, flow: int, verdict: Verdict) -> None:
        """Say how the dial for a held SYN ended."""
        if self._arrivals.judged(flow, connected=verdict == Verdict.CONNECTED):
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

    def _accepted(self, flow: int) -> None:
        if self.kind == "veth":  # elsewhere the packet loop has seen the handshake
            self._tell(wire.record(wire.ACCEPTED, flow))

    def _abort(self, flow: int) -> None:
        self._tell(wire.record(wire.ABORT, flow))

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
                    self._arrivals.hold(flow, (*peer, listener))
                    self._handler.syn(flow, source, target, ttl)
                elif kind == wire.CANCELLED:
                    self._arrivals.cancel(flow)
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
                    self._handler.echo(flow, ends[0][0], ends[1][0], ends[2], sequence, bytes(body[2:]))
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
