"""Dials for the far end of a link: each flow that the peer opens becomes a socket here.

A flow is accepted when its target is connected and refused with the kernel's own reason otherwise, so
that the workstation can tell its application the truth. Dials beyond a bound wait for their turn; one
whose client has gone is cancelled.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from collections import deque

import msgspec
import structlog

from inroad.core.dial_policy import Address, DialPolicy, parse_host
from inroad.core.messages import Dial, decode_dial
from inroad.origin.hops import mark
from inroad.origin.ping import NotPermitted, Ping, open_ping
from inroad.origin.udp import UdpAssociation
from inroad.polling import WRITE, poller
from inroad.tunnel.api import Flow, FlowHandler, Quiet, Refusal
from inroad.tunnel.pump import YOUNG_READS, SocketPump, tune

log = structlog.get_logger(__name__)

MAX_DIALING = 512
"""Connects in progress at once; more would fill the target's SYN queue and our descriptors."""
MAX_WAITING = 16_384
"""Dials that wait for their turn; more are refused as BUSY."""
MAX_DEADLINE = 60_000
"""Milliseconds: no client makes us wait longer."""

REASONS = {
    errno.ECONNREFUSED: Refusal.REFUSED,
    errno.ECONNRESET: Refusal.REFUSED,
    errno.ENETUNREACH: Refusal.NET_UNREACHABLE,
    errno.ENETDOWN: Refusal.NET_UNREACHABLE,
    errno.EADDRNOTAVAIL: Refusal.NET_UNREACHABLE,
    errno.EAFNOSUPPORT: Refusal.NET_UNREACHABLE,
    errno.EHOSTUNREACH: Refusal.HOST_UNREACHABLE,
    errno.EHOSTDOWN: Refusal.HOST_UNREACHABLE,
    errno.EACCES: Refusal.PROHIBITED,
    errno.EPERM: Refusal.PROHIBITED,
    errno.ETIMEDOUT: Refusal.TIMED_OUT,
    errno.EMFILE: Refusal.BUSY,
    errno.ENFILE: Refusal.BUSY,
    errno.ENOBUFS: Refusal.BUSY,
    errno.ENOMEM: Refusal.BUSY,
}
"""What a failed connect means to the workstation; anything else counts as unreachable host."""


def refusal(error: OSError) -> Refusal:
    """Return the reason that goes to the workstation."""
    return REASONS.get(error.errno or 0, Refusal.HOST_UNREACHABLE)


class Dialler:
    """Answers the flows of any number of links: `link.on_open = dialler.serve`. Needs a running loop."""

    def __init__(self, policy: DialPolicy | None = None, *, max_dialing: int = MAX_DIALING) -> None:
        self.loop = asyncio.get_running_loop()
        self.policy = policy or DialPolicy()
        """May be replaced at any time; holds for the dials that come."""
        self.poll = poller(self.loop)
        self._max_dialing = max_dialing
        self._dialing = 0
        self.ping_problem: str | None = None
        """Why clients' pings stay without an answer, once one was refused."""
        self._waiting: deque[TcpDial] = deque()

    def serve(self, flow: Flow, request: bytes) -> FlowHandler:
        """Begin what `request` (a `Dial`) asks for; returns the flow's handler."""
        try:
            dial = decode_dial(request)
            address = parse_host(dial.host)
            if not (0 < dial.port <= 65_535 or (dial.transport == "ping" and dial.port == 0)):
                raise ValueError(f"port {dial.port}")
        except (msgspec.DecodeError, ValueError) as error:
            flow.refuse(Refusal.BAD_REQUEST, str(error))
            return Quiet()
        objection = self.policy.objection(address)
        if objection:
            flow.refuse(Refusal.NOT_ALLOWED, objection)
            return Quiet()
        if dial.transport == "tcp":
            return self._dial_tcp(flow, address, dial)
        if dial.transport == "udp":
            return self._open_udp(flow, address, dial.port)
        return self._open_ping(flow, address)

    def _dial_tcp(self, flow: Flow, address: Address, dial: Dial) -> FlowHandler:
        if len(self._waiting) >= MAX_WAITING:
            flow.refuse(Refusal.BUSY, f"{MAX_WAITING} dials wait already")
            return Quiet()
        tcp = TcpDial(self, flow, address, dial.port)
        tcp.timer = self.loop.call_later(min(max(dial.deadline, 1), MAX_DEADLINE) / 1000, tcp.expire)
        if self._dialing < self._max_dialing:
            self._dialing += 1
            # In the loop's next turn: the flow's handler is not set before this call returns.
            self.loop.call_soon(tcp.start)
        else:
            self._waiting.append(tcp)
        return tcp

    def _open_udp(self, flow: Flow, address: Address, port: int) -> FlowHandler:
        sock = None
        try:
            sock = new_socket(address, socket.SOCK_DGRAM)
            sock.connect((str(address), port))
        except OSError as error:
            if sock is not None:
                sock.close()
            flow.refuse(refusal(error), error.strerror or "")
            return Quiet()
        return UdpAssociation(self.loop, sock, flow)

    def _open_ping(self, flow: Flow, address: Address) -> FlowHandler:
        try:
            return Ping(self.loop, open_ping(address), flow, address)
        except NotPermitted as error:
            if self.ping_problem is None:
                self.ping_problem = str(error)
                log.warning("pings are not answered", reason=self.ping_problem)
            flow.refuse(Refusal.PROHIBITED, self.ping_problem)
        except OSError as error:
            flow.refuse(refusal(error), error.strerror or "")
        return Quiet()

    def ended(self) -> None:
        """A dial that had started is over, so the next one may start."""
        self._dialing -= 1
        while self._waiting and self._dialing < self._max_dialing:
            self._dialing += 1
            self.loop.call_soon(self._waiting.popleft().start)


def new_socket(address: Address, kind: socket.SocketKind) -> socket.socket:
    """Return a non-blocking socket of the address's family, marked as ours (`hops`)."""
    family = socket.AF_INET if isinstance(address, ipaddress.IPv4Address) else socket.AF_INET6
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    mark(sock, family)
    return sock


class TcpDial(Quiet):
    """A TCP connection in the making: waiting for its turn, then for the target's answer."""

    __slots__ = ("_address", "_dialler", "_done", "_flow", "_port", "_sock", "_started", "timer")

    def __init__(self, dialler: Dialler, flow: Flow, address: Address, port: int) -> None:
        self._dialler = dialler
        self._flow = flow
        self._address = address
        self._port = port
        self._sock: socket.socket | None = None
        self._started = False
        self._done = False
        self.timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Send the SYN."""
        if self._done:
            self._dialler.ended()
            return
        self._started = True
        try:
            self._sock = sock = new_socket(self._address, socket.SOCK_STREAM)
            code = sock.connect_ex((str(self._address), self._port))
        except OSError as error:  # no socket to be had
            self._refuse(refusal(error), error.strerror or "")
            return
        if code == errno.EINPROGRESS:
            self._dialler.poll.watch(sock, self, WRITE)
        else:
            self._judge(code)

    def readable(self) -> None:
        """Not yet: that is the pump's."""

    def broken(self) -> None:
        """The target answered that it will not."""
        self.writable()

    def writable(self) -> None:
        """The target answered, one way or the other."""
        if self._sock is not None:
            self._judge(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _judge(self, code: int) -> None:
        if code:
            self._refuse(REASONS.get(code, Refusal.HOST_UNREACHABLE), os.strerror(code))
        else:
            self._connected()

    def _connected(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            tune(sock)
            self._flow.accept()
            SocketPump.attach(self._dialler.loop, sock, self._flow, looks=YOUNG_READS)
        self._end()

    def expire(self) -> None:
        """The deadline has come."""
        self._refuse(Refusal.TIMED_OUT, "no answer within the deadline")

    def flow_reset(self) -> None:
        """The client has gone: cancel."""
        self._end()

    def _refuse(self, reason: Refusal, detail: str) -> None:
        self._flow.refuse(reason, detail)
        self._end()

    def _end(self) -> None:
        if self._done:
            return
        self._done = True
        if self.timer is not None:
            self.timer.cancel()
        if self._sock is not None:
            self._dialler.poll.forget(self._sock)
            self._sock.close()
            self._sock = None
        if self._started:  # else `start` is still to come, and will find it done
            self._dialler.ended()
