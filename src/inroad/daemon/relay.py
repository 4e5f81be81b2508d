"""Joins what the VIF sees with the tunnel: one small object per flow, none per packet.

A TCP flow's life: SYN held -> OPEN on the tunnel -> OPENED or REFUSED -> verdict -> the released SYN is
accepted by our kernel -> a pump carries bytes until both directions end. While the link is being
re-established new dials wait up to their deadline; running flows are reset with the link.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import structlog

from inroad.core import messages
from inroad.core.loops import Loops
from inroad.core.messages import Dial, Transport
from inroad.host.vif.api import Endpoint, Verdict, Vif
from inroad.tunnel.api import Flow, Link, Refusal
from inroad.tunnel.pump import SocketPump

NETBIOS = range(137, 140)

VERDICTS = {
    Refusal.REFUSED: Verdict.REFUSED,
    Refusal.NET_UNREACHABLE: Verdict.NET_UNREACHABLE,
    Refusal.HOST_UNREACHABLE: Verdict.HOST_UNREACHABLE,
    Refusal.PROHIBITED: Verdict.PROHIBITED,
    Refusal.NOT_ALLOWED: Verdict.PROHIBITED,
    Refusal.TIMED_OUT: Verdict.TIMED_OUT,
    Refusal.BUSY: Verdict.TIMED_OUT,
    Refusal.BAD_REQUEST: Verdict.HOST_UNREACHABLE,
    Refusal.LINK_DOWN: Verdict.TIMED_OUT,
}


@dataclass(frozen=True, slots=True)
class Way:
    """Where a flow goes: the address to dial, the agent that dials it ("": the manager), and its link.

    `link`: our own to that agent; None: over the one to the manager, which passes it on.
    """

    host: str
    via: str = ""
    link: Link | None = None


Route = Callable[[str, str], Way | None]
"""(the address that an application dials, an agent that has just gone or "") to the way; None when it leads
nowhere."""

log = structlog.get_logger()


class Relay:
    """The daemon's `VifEvents`. `vif` and `link` are set when they are there, None while they are not.

    `on_begun` hears of each flow and the address it goes to, `on_over` of its end.
    """

    def __init__(self) -> None:
        self.vif: Vif | None = None
        self.route: Route = lambda host, gone: Way(host)
        self.deadline = 5.0  # seconds for a dial: endpointDial + roundtripLatency
        self.on_vif_failed: Callable[[str], None] = lambda reason: None
        self.on_begun: Callable[[int, str], None] = lambda flow, host: None
        self.on_over: Callable[[int], None] = lambda flow: None
        self.flows: dict[int, TcpFlow | DatagramFlow] = {}
        self.loops = Loops()
        self.ping_problem = ""  # why the pod that dials may not ping
        names = ("dials", "refused", "timed_out", "cancelled", "dropped_datagrams", "recursions")
        self.counters = dict.fromkeys(names, 0)
        self._link: Link | None = None
        self._waiting: dict[int, asyncio.TimerHandle] = {}

    @property
    def link(self) -> Link | None:
        """The link to the manager, or None while there is none."""
        return self._link

    @link.setter
    def link(self, link: Link | None) -> None:
        self._link = link
        if link is not None:
            self.dial_waiting()

    def dial_waiting(self) -> None:
        """Dial what has waited for a link: there is one now."""
        waiting, self._waiting = self._waiting, {}
        for number, timer in waiting.items():
            timer.cancel()
            flow = self.flows.get(number)
            if isinstance(flow, TcpFlow):
                flow.dial()

    # --- VifEvents -------------------------------------------------------------------------------

    def syn(self, flow: int, source: Endpoint, target: Endpoint, ttl: int) -> None:
        """An application connects: dial from the cluster while its SYN is held.

        A dial of the cluster side that was routed back to us is refused, or it would go round for ever.
        """
        if self._came_back(source, target, ttl):
            self.verdict(flow, Verdict.REFUSED)
            return
        self.counters["dials"] += 1
        self.on_begun(flow, target[0])
        pending = self.flows[flow] = TcpFlow(self, flow, target)
        pending.dial()

    def wait(self, flow: int) -> None:
        """Keep a dial until there is a link, up to its deadline."""
        loop = asyncio.get_running_loop()
        self._waiting[flow] = loop.call_later(self.deadline, self._gave_up_waiting, flow)

    def _came_back(self, source: Endpoint, target: Endpoint, ttl: int) -> bool:
        sign = self.loops.judge(source, target, ttl, time.monotonic())
        if sign is None:
            return False
        self.counters["recursions"] += 1
        log.debug("a dial came back", source=source, target=target, ttl=ttl, sign=sign.value)
        return True

    def _gave_up_waiting(self, flow: int) -> None:
        self._waiting.pop(flow, None)
        if self.flows.pop(flow, None) is not None:
            self.verdict(flow, Verdict.TIMED_OUT)

    def cancelled(self, flow: int) -> None:
        """The application gave up: nobody wants the dial any more."""
        self.counters["cancelled"] += 1
        timer = self._waiting.pop(flow, None)
        if timer is not None:
            timer.cancel()
        pending = self.forget(flow)
        if pending is not None:
            pending.abandon()

    def accepted(self, flow: int, sock: socket.socket) -> None:
        """The released SYN became a connection: from here on the pump carries it."""
        pending = self.flows.pop(flow, None)
        if isinstance(pending, TcpFlow):
            pending.accepted(sock)
        else:
            sock.close()

    def datagram(self, flow: int, source: Endpoint, target: Endpoint, ttl: int, payload: bytes) -> None:
        """A datagram of an application; the first of an association opens a flow for it."""
        if flow not in self.flows:
            if target[1] in NETBIOS:
                return
            if self._came_back(source, target, ttl):
                self.unreachable(flow, Verdict.REFUSED)
                return
        self._send(flow, "udp", target, payload)

    def echo(self, flow: int, source: str, target: str, ttl: int, sequence: int, payload: bytes) -> None:
        """An echo request: the far side pings, and only its answer is answered."""
        if flow not in self.flows and self._came_back((source, 0), (target, 0), ttl):
            self.unreachable(flow, Verdict.REFUSED)
            return
        self._send(flow, "ping", (target, 0), sequence.to_bytes(2, "big") + payload)

    def _send(self, flow: int, transport: Transport, target: Endpoint, payload: bytes) -> None:
        association = self.flows.get(flow)
        if association is None:
            self.on_begun(flow, target[0])
            association = self.flows[flow] = DatagramFlow(self, flow, transport, target)
            association.dial()
        if isinstance(association, DatagramFlow) and not association.send(payload):
            self.counters["dropped_datagrams"] += 1

    def expired(self, flow: int) -> None:
        """A UDP association or echo sequence was idle for too long."""
        association = self.forget(flow)
        if association is not None:
            association.abandon()

    def failed(self, reason: str) -> None:
        """The packet loop ended: the VIF is gone, with every flow that it held."""
        self.vif = None
        for flow in list(self.flows):
            self.expired(flow)
        self.on_vif_failed(reason)

    # --- for the flows ---------------------------------------------------------------------------

    def forget(self, flow: int) -> TcpFlow | DatagramFlow | None:
        """A flow that never came to an accepted socket has ended; returns it if it was known."""
        self._over(flow)
        return self.flows.pop(flow, None)

    def _over(self, flow: int) -> None:
        self.loops.ended(flow)
        self.on_over(flow)

    def verdict(self, flow: int, verdict: Verdict) -> None:
        """Tell the packet loop how a dial ended."""
        if verdict is Verdict.CONNECTED:
            self.loops.ended(flow)
        else:
            self._over(flow)
            self.counters["timed_out" if verdict is Verdict.TIMED_OUT else "refused"] += 1
        if self.vif is not None:
            self.vif.verdict(flow, verdict)

    def unreachable(self, flow: int, verdict: Verdict) -> None:
        """Tell an application that its datagrams don't arrive."""
        if self.vif is not None:
            self.vif.unreachable(flow, verdict)


class TcpFlow:
    """A TCP flow until its socket is accepted; implements `FlowHandler` and then hands over to a pump."""

    __slots__ = ("ended", "early", "gone", "number", "opened", "relay", "target", "tunnel_flow", "way")

    def __init__(self, relay: Relay, number: int, target: Endpoint) -> None:
        self.relay = relay
        self.number = number
        self.target = target
        self.tunnel_flow: Flow | None = None
        self.opened = False
        self.way = Way("")
        self.gone = ""  # an agent that turned out not to be there
        self.early: list[bytes] = []  # a server that speaks first, before our kernel has accepted
        self.ended = False

    def dial(self, *, relayed: bool = False) -> None:
        """Ask the far side to connect, over our own link to an agent unless it is to be `relayed`.

        Without a link this waits for one.
        """
        host, port = self.target
        way = self.relay.route(host, self.gone)
        if way is None:
            del self.relay.flows[self.number]
            self.relay.verdict(self.number, Verdict.HOST_UNREACHABLE)
            return
        self.way = way = replace(way, link=None) if relayed else way
        link, via = (way.link, "") if way.link is not None else (self.relay.link, way.via)
        if link is None:
            self.relay.wait(self.number)
            return
        self.relay.loops.dialled(self.number, (way.host, port))
        request = Dial("tcp", way.host, port, int(self.relay.deadline * 1000), via)
        self.tunnel_flow = link.open(messages.encode(request), self)

    def abandon(self) -> None:
        """The application has gone."""
        if self.tunnel_flow is not None:
            self.tunnel_flow.reset()

    def accepted(self, sock: socket.socket) -> None:
        """Join the accepted socket with the flow."""
        flow = self.tunnel_flow
        if flow is None:  # the far side reset between the verdict and the accept
            abort(sock)
            self.relay.on_over(self.number)
            return
        pump = SocketPump.attach(asyncio.get_running_loop(), sock, flow)
        pump.on_close = partial(self.relay.on_over, self.number)
        for chunk in self.early:
            pump.flow_data(memoryview(chunk))
        if self.ended:
            pump.flow_eof()

    def flow_opened(self) -> None:
        """Connected: let the SYN go on."""
        self.opened = True
        self.relay.verdict(self.number, Verdict.CONNECTED)

    def flow_refused(self, reason: Refusal, detail: str) -> None:
        """Tell the application what the far side met."""
        log.debug("dial refused", target=self.target, reason=reason.name, detail=detail)
        self.tunnel_flow = None
        if reason is Refusal.LINK_DOWN and self._next_way():
            return
        if self.relay.flows.pop(self.number, None) is not None:
            self.relay.verdict(self.number, VERDICTS[reason])

    def _next_way(self) -> bool:
        """Dial again, at once, if the way turned out to be none; returns whether there was another."""
        if self.number not in self.relay.flows:
            return False
        if self.way.link is not None:
            self.dial(relayed=True)  # the manager knows whether the agent lives
            return True
        if self.way.via and self.relay.link is not None:
            self.gone = self.way.via
            self.dial()
            return True
        return False

    def flow_data(self, data: memoryview) -> None:
        """Keep what comes before the accept; the flow's credit bounds it."""
        self.early.append(bytes(data))

    def flow_eof(self) -> None:
        """Remember the end for the pump."""
        self.ended = True

    def flow_reset(self) -> None:
        """The far side reset, or the link broke, before the accept."""
        self.tunnel_flow = None
        if not self.opened and self.relay.flows.pop(self.number, None) is not None:
            self.relay.verdict(self.number, Verdict.TIMED_OUT)

    def flow_datagram(self, data: memoryview) -> None:
        """Not for TCP."""

    def flow_writable(self) -> None:
        """Nothing is written before the accept."""


class DatagramFlow:
    """A UDP association or echo sequence; implements `FlowHandler`."""

    __slots__ = ("number", "relay", "target", "transport", "tunnel_flow")

    def __init__(self, relay: Relay, number: int, transport: Transport, target: Endpoint) -> None:
        self.relay = relay
        self.number = number
        self.transport: Transport = transport
        self.target = target
        self.tunnel_flow: Flow | None = None

    def dial(self) -> None:
        """Ask the far side for an association with the target; without a link there is none."""
        host, port = self.target
        way = self.relay.route(host, "")
        if way is None:
            return  # dropped: a virtual address that means nothing any more
        link, via = (way.link, "") if way.link is not None else (self.relay.link, way.via)
        if link is None:
            self.relay.forget(self.number)
            return
        self.relay.loops.dialled(self.number, (way.host, port))
        request = Dial(self.transport, way.host, port, int(self.relay.deadline * 1000), via)
        self.tunnel_flow = link.open(messages.encode(request), self)

    def send(self, payload: bytes) -> bool:
        """Pass a datagram on; False when there is no room for it."""
        return self.tunnel_flow is not None and self.tunnel_flow.send_datagram(payload)

    def abandon(self) -> None:
        """Nobody uses the association any more."""
        if self.tunnel_flow is not None:
            self.tunnel_flow.reset()

    def flow_opened(self) -> None:
        """Datagrams were sent already; nothing waits for this."""

    def flow_refused(self, reason: Refusal, detail: str) -> None:
        """The far side heard of `port unreachable` or the like, now or after some answers."""
        if self.transport == "ping" and reason is Refusal.PROHIBITED:
            self.relay.ping_problem = detail
        self.tunnel_flow = None
        known = self.relay.forget(self.number) is not None
        if known and reason is not Refusal.LINK_DOWN:
            self.relay.unreachable(self.number, VERDICTS[reason])

    def flow_data(self, data: memoryview) -> None:
        """Not for datagrams."""

    def flow_eof(self) -> None:
        """Not for datagrams."""

    def flow_reset(self) -> None:
        """The link broke, or the far side gave the association up: the next datagram opens anew."""
        self.tunnel_flow = None
        self.relay.forget(self.number)

    def flow_datagram(self, data: memoryview) -> None:
        """An answer: deliver it."""
        vif = self.relay.vif
        if vif is None:
            return
        if self.transport == "ping":
            self.relay.ping_problem = ""
            vif.echo_reply(self.number, int.from_bytes(data[:2], "big"), bytes(data[2:]))
        else:
            vif.send_datagram(self.number, bytes(data))

    def flow_writable(self) -> None:
        """Datagrams never wait."""


def abort(sock: socket.socket) -> None:
    """Close with RST, so that the application sees a reset and not an end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    sock.close()
