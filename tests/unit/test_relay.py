"""The relay as a conversation: what the packet loop says, what the tunnel says, what each is told."""

from __future__ import annotations

import asyncio
import socket

import pytest

from inroad.core import messages
from inroad.core.loops import HOP_LIMIT
from inroad.daemon.relay import Relay, Way
from inroad.host.vif.api import Verdict
from inroad.tunnel.api import Refusal

WEB = ("10.96.0.5", 80)
APP = ("246.246.0.1", 40000)
CAME_BACK = HOP_LIMIT - 2


class FakeVif:
    """Holds what the packet loop was told."""

    name, kind, reason = "inroad0", "fake", "a test"

    def __init__(self):
        self.said = []

    def verdict(self, flow, verdict):
        self.said.append(f"{flow} {verdict.name}")

    def send_datagram(self, flow, payload):
        self.said.append(f"{flow} datagram {payload!r}")

    def unreachable(self, flow, verdict):
        self.said.append(f"{flow} unreachable {verdict.name}")

    def echo_reply(self, flow, sequence, payload):
        self.said.append(f"{flow} echo {sequence} {payload!r}")

    async def counters(self):
        return {}

    async def close(self):
        pass


class FakeFlow:
    def __init__(self, link, request, handler):
        self.link, self.request, self.handler = link, messages.decode_dial(request), handler
        self.id = len(link.flows)
        self.written = bytearray()
        self.datagrams = []
        self.state = "open"
        self.ending = False
        self.credit = 0

    def read_size(self):
        return 65_536

    def write(self, data, eof=False):
        self.written += data
        return True

    def write_eof(self):
        self.state = "half-closed"

    def send_datagram(self, data):
        self.datagrams.append(bytes(data))
        return True

    def consumed(self, size):
        self.credit += size

    def reset(self):
        self.state = "reset"


class FakeLink:
    def __init__(self):
        self.flows = []

    def open(self, request, handler):
        self.flows.append(FakeFlow(self, request, handler))
        return self.flows[-1]


def connected_relay():
    relay = Relay()
    relay.vif, relay.link = FakeVif(), FakeLink()
    return relay


async def test_a_held_syn_is_dialled_and_released_when_the_far_side_is_connected():
    relay = connected_relay()
    relay.syn(7, APP, WEB, 64)
    (flow,) = relay.link.flows
    assert (flow.request.transport, flow.request.host, flow.request.port) == ("tcp", *WEB)
    assert relay.vif.said == []
    flow.handler.flow_opened()
    assert relay.vif.said == ["7 CONNECTED"]


async def test_every_refusal_reaches_the_application_as_what_it_was():
    expected = {
        Refusal.REFUSED: "REFUSED",
        Refusal.NET_UNREACHABLE: "NET_UNREACHABLE",
        Refusal.HOST_UNREACHABLE: "HOST_UNREACHABLE",
        Refusal.PROHIBITED: "PROHIBITED",
        Refusal.NOT_ALLOWED: "PROHIBITED",
        Refusal.TIMED_OUT: "TIMED_OUT",
        Refusal.BUSY: "TIMED_OUT",
        Refusal.BAD_REQUEST: "HOST_UNREACHABLE",
        Refusal.LINK_DOWN: "TIMED_OUT",
    }
    assert set(expected) == set(Refusal)
    for reason, verdict in expected.items():
        relay = connected_relay()
        relay.syn(1, APP, WEB, 64)
        relay.link.flows[0].handler.flow_refused(reason, "")
        assert relay.vif.said == [f"1 {verdict}"]
        assert relay.flows == {}


async def test_an_application_that_gives_up_cancels_the_dial():
    relay = connected_relay()
    relay.syn(1, APP, WEB, 64)
    relay.cancelled(1)
    assert relay.link.flows[0].state == "reset"
    assert relay.flows == {}


async def test_what_a_server_says_before_the_accept_is_not_lost():
    relay = connected_relay()
    relay.syn(1, APP, WEB, 64)
    flow = relay.link.flows[0]
    flow.handler.flow_opened()
    flow.handler.flow_data(memoryview(b"220 ready\r\n"))
    flow.handler.flow_eof()
    ours, app = socket.socketpair()
    ours.setblocking(False)
    app.setblocking(False)
    with app:
        relay.accepted(1, ours)
        loop = asyncio.get_running_loop()
        assert await asyncio.wait_for(loop.sock_recv(app, 100), 5) == b"220 ready\r\n"
        assert await asyncio.wait_for(loop.sock_recv(app, 100), 5) == b""


async def test_new_dials_wait_for_a_link_that_is_being_made_again():
    relay = Relay()
    relay.vif = FakeVif()
    relay.syn(1, APP, WEB, 64)
    relay.syn(2, APP, WEB, 64)
    relay.cancelled(2)
    relay.link = FakeLink()
    assert [flow.request.host for flow in relay.link.flows] == ["10.96.0.5"]
    relay.link.flows[0].handler.flow_opened()
    assert relay.vif.said == ["1 CONNECTED"]


async def test_a_flow_that_breaks_before_the_verdict_times_out_and_may_be_tried_again():
    relay = connected_relay()
    relay.syn(1, APP, WEB, 64)
    relay.link.flows[0].handler.flow_reset()
    assert relay.vif.said == ["1 TIMED_OUT"]
    relay.syn(1, APP, WEB, 64)
    assert len(relay.link.flows) == 2


async def test_datagrams_of_one_association_share_a_flow_and_answers_come_back():
    relay = connected_relay()
    relay.datagram(3, APP, ("10.96.0.7", 7), 64, b"one")
    relay.datagram(3, APP, ("10.96.0.7", 7), 64, b"two")
    (flow,) = relay.link.flows
    assert flow.request.transport == "udp"
    assert flow.datagrams == [b"one", b"two"]
    flow.handler.flow_datagram(memoryview(b"three"))
    assert relay.vif.said == ["3 datagram b'three'"]
    relay.expired(3)
    assert flow.state == "reset"


async def test_netbios_never_leaves_the_workstation():
    relay = connected_relay()
    for port in (137, 138, 139):
        relay.datagram(3, APP, ("10.96.0.7", port), 64, b"hello")
    assert relay.link.flows == []


async def test_an_echo_request_is_answered_only_by_the_far_side():
    relay = connected_relay()
    relay.echo(4, APP[0], "10.244.1.7", 64, 258, b"payload")
    (flow,) = relay.link.flows
    assert flow.request.transport == "ping"
    assert flow.datagrams == [b"\x01\x02payload"]
    assert relay.vif.said == []
    flow.handler.flow_datagram(memoryview(b"\x01\x02payload"))
    assert relay.vif.said == ["4 echo 258 b'payload'"]


async def test_a_lost_packet_loop_ends_what_it_held():
    relay = connected_relay()
    heard = []
    relay.on_vif_failed = heard.append
    relay.syn(1, APP, WEB, 64)
    relay.failed("killed")
    assert relay.link.flows[0].state == "reset"
    assert (relay.vif, relay.flows, heard) == (None, {}, ["killed"])


def test_all_verdicts_are_used():
    from inroad.daemon.relay import VERDICTS

    assert {*VERDICTS.values(), Verdict.CONNECTED} == set(Verdict)


async def test_a_closed_udp_port_is_told_to_the_application_but_a_lost_link_is_not():
    relay = connected_relay()
    relay.datagram(3, APP, ("10.96.0.7", 9), 64, b"one")
    relay.link.flows[0].handler.flow_refused(Refusal.REFUSED, "")
    assert relay.vif.said == ["3 unreachable REFUSED"]
    relay.datagram(4, APP, ("10.96.0.7", 9), 64, b"one")
    relay.link.flows[1].handler.flow_reset()
    assert relay.vif.said == ["3 unreachable REFUSED"]
    relay.datagram(4, APP, ("10.96.0.7", 9), 64, b"two")
    assert len(relay.link.flows) == 3


async def test_a_dial_that_comes_back_is_refused_and_not_dialled_again():
    relay = connected_relay()
    relay.syn(1, APP, WEB, 64)
    relay.syn(2, ("246.246.0.1", 40001), WEB, CAME_BACK)
    assert relay.vif.said == ["2 REFUSED"]
    assert len(relay.link.flows) == 1
    assert relay.counters["recursions"] == 1
    assert relay.counters["dials"] == 1


async def test_why_pings_are_not_answered_is_known_until_one_is():
    relay = connected_relay()
    relay.echo(4, APP[0], "10.244.1.7", 64, 1, b"one")
    relay.link.flows[-1].handler.flow_refused(Refusal.PROHIBITED, "this pod may not ping")
    assert relay.ping_problem == "this pod may not ping"
    relay.echo(5, APP[0], "10.244.1.7", 64, 2, b"two")
    relay.link.flows[-1].handler.flow_datagram(memoryview(b"\0\2two"))
    assert relay.ping_problem == ""


async def test_a_datagram_and_an_echo_that_come_back_are_unreachable_and_not_sent_again():
    relay = connected_relay()
    relay.datagram(1, APP, ("10.96.0.7", 7), 64, b"one")
    for payload in (b"one", b"two"):
        relay.datagram(2, ("246.246.0.1", 40001), ("10.96.0.7", 7), CAME_BACK, payload)
    relay.echo(3, APP[0], "10.96.0.7", 64, 1, b"one")
    relay.echo(4, APP[0], "10.96.0.7", CAME_BACK, 1, b"one")
    assert relay.vif.said == ["2 unreachable REFUSED"] * 2 + ["4 unreachable REFUSED"]
    assert len(relay.link.flows) == 2
    assert relay.counters["recursions"] == 3


async def test_an_association_ends_as_a_dial_in_flight_in_each_way():
    target = ("10.96.0.7", 7)
    for end in ("expired", "refused", "reset"):
        relay = connected_relay()
        relay.datagram(1, APP, target, 64, b"one")
        assert relay.loops.in_flight == 1
        match end:
            case "expired":
                relay.expired(1)
            case "refused":
                relay.link.flows[0].handler.flow_refused(Refusal.REFUSED, "")
            case "reset":
                relay.link.flows[0].handler.flow_reset()
        assert relay.loops.in_flight == 0, end


@pytest.mark.parametrize("hops", [64, 63], ids=["local", "containers"])
async def test_two_connects_to_one_destination_are_both_dialled(hops):
    relay = connected_relay()
    relay.syn(1, APP, WEB, hops)
    relay.syn(2, ("246.246.0.1", 40001), WEB, hops)
    assert relay.vif.said == []
    assert len(relay.link.flows) == 2


async def test_no_dial_is_in_flight_once_it_has_ended():
    relay = connected_relay()
    for end in ("opened", "refused", "cancelled", "reset"):
        relay.syn(1, APP, WEB, 64)
        handler = relay.link.flows[-1].handler
        match end:
            case "opened":
                handler.flow_opened()
            case "refused":
                handler.flow_refused(Refusal.REFUSED, "")
            case "reset":
                handler.flow_reset()
            case "cancelled":
                relay.cancelled(1)
        assert relay.loops.in_flight == 0, end


def relay_with_agent():
    """Return a relay whose flows go to an agent, and that agent's own link."""
    relay, own = connected_relay(), FakeLink()

    def route(host, gone):
        return Way(host) if gone else Way(host, "agent", own)

    relay.route = route
    return relay, own


async def test_a_flow_goes_past_the_manager_where_there_is_a_link_to_the_agent():
    relay, own = relay_with_agent()
    relay.syn(1, APP, WEB, 64)
    relay.datagram(2, APP, ("10.96.0.7", 7), 64, b"one")
    assert [flow.request.via for flow in own.flows] == ["", ""]
    assert relay.link.flows == []
    relay.link = None
    relay.syn(3, APP, WEB, 64)
    assert len(own.flows) == 3, "the manager's absence is nothing to it"


async def test_a_dial_takes_the_next_way_at_once_when_its_way_is_none():
    relay, own = relay_with_agent()
    relay.syn(1, APP, WEB, 64)
    own.flows[0].handler.flow_refused(Refusal.LINK_DOWN, "the peer closed the connection")
    assert [flow.request.via for flow in relay.link.flows] == ["agent"], "the manager knows if it lives"
    relay.link.flows[0].handler.flow_refused(Refusal.LINK_DOWN, "the agent has gone")
    assert [flow.request.via for flow in relay.link.flows] == ["agent", ""]
    assert relay.vif.said == []
    relay.link.flows[1].handler.flow_opened()
    assert relay.vif.said == ["1 CONNECTED"]


async def test_a_dial_whose_own_link_broke_waits_for_the_manager_where_that_is_away():
    relay, own = relay_with_agent()
    relay.link = None
    relay.syn(1, APP, WEB, 64)
    own.flows[0].handler.flow_refused(Refusal.LINK_DOWN, "")
    assert relay.vif.said == []
    relay.link = FakeLink()
    assert len(own.flows) + len(relay.link.flows) == 2


def counted_relay():
    """Return a relay and the flows that have begun and are not over."""
    relay, alive = connected_relay(), {}
    relay.on_begun = alive.__setitem__
    relay.on_over = lambda flow: alive.pop(flow, None)
    return relay, alive


ENDS = {
    "refused": lambda relay: relay.link.flows[0].handler.flow_refused(Refusal.REFUSED, ""),
    "reset": lambda relay: relay.link.flows[0].handler.flow_reset(),
    "cancelled": lambda relay: relay.cancelled(1),
    "vif lost": lambda relay: relay.failed("killed"),
}


@pytest.mark.parametrize("end", ENDS)
async def test_the_end_of_a_dial_is_told(end):
    relay, alive = counted_relay()
    relay.syn(1, APP, WEB, 64)
    assert alive == {1: WEB[0]}
    ENDS[end](relay)
    assert alive == {}


async def test_a_connection_is_over_when_both_sides_have_closed():
    relay, alive = counted_relay()
    relay.syn(1, APP, WEB, 64)
    flow = relay.link.flows[0]
    flow.handler.flow_opened()
    ours, app = socket.socketpair()
    ours.setblocking(False)
    relay.accepted(1, ours)
    app.close()
    async with asyncio.timeout(5):
        while flow.state != "half-closed":
            await asyncio.sleep(0.001)
    assert alive == {1: WEB[0]}
    flow.handler.flow_eof()
    assert alive == {}


async def test_a_connection_that_was_reset_before_the_accept_is_over():
    relay, alive = counted_relay()
    relay.syn(1, APP, WEB, 64)
    handler = relay.link.flows[0].handler
    handler.flow_opened()
    handler.flow_reset()
    assert alive == {1: WEB[0]}, "its socket is still to come"
    ours, app = socket.socketpair()
    with app:
        relay.accepted(1, ours)
    assert alive == {}


@pytest.mark.parametrize("end", ["expired", "refused", "reset"])
async def test_the_end_of_an_association_is_told(end):
    relay, alive = counted_relay()
    relay.datagram(1, APP, WEB, 64, b"one")
    assert alive == {1: WEB[0]}
    relay.expired(1) if end == "expired" else ENDS[end](relay)
    assert alive == {}
