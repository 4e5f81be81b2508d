"""Held SYNs of veth mode, where the kernel redirects what goes on."""

from __future__ import annotations

from dataclasses import replace

import packet_reference as reference
import pytest
from packet_reference import ACK, RST, SYN, Segment

from inroad.core import redirect
from inroad.core.held import CONNECTED, FORWARD, OPENING_LIMIT, REFUSED, Syn
from inroad.core.packet_path import PacketPath
from inroad.core.redirect import ACCEPTED_LINGER, LISTENERS, Redirector

V4 = (bytes((246, 246, 0, 1)), bytes((10, 96, 0, 5)))
V6 = (bytes.fromhex("fd000000000002460000000000000001"), bytes.fromhex("fd000010009600000000000000000005"))


class Talk:
    """What comes out of the private namespace's TUN, and what goes back into it."""

    def __init__(self, pair: tuple[bytes, bytes]) -> None:
        self.tcp = Redirector({})
        self.path = PacketPath(self.tcp, 1500)
        self.now = 100.0
        self.syn = Segment(*pair, 40_000, 80, seq=1000, flags=SYN)

    def app(self, segment: Segment) -> bytes | None:
        packet = bytearray(segment.pack())
        action = self.path.from_app(packet, len(packet), self.now)
        return bytes(self.path.packet) if action == FORWARD else None

    def events(self) -> list[Syn | int]:
        taken, self.tcp.events[:] = list(self.tcp.events), []
        return taken

    def taken(self, packets: list[bytes]) -> list[bytes]:
        result, packets[:] = list(packets), []
        return result

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (deadline := self.path.deadline()) is not None and deadline <= until:
            self.now = max(deadline, self.now)
            self.path.tick(self.now)
        self.now = until


def listener_of(packet: bytes) -> int:
    """The DSCP, by RFC 2474."""
    if packet[0] >> 4 == 4:
        return packet[1] >> 2
    return (packet[0] << 8 | packet[1]) >> 6 & 63


@pytest.fixture(params=[V4, V6], ids=["v4", "v6"])
def talk(request: pytest.FixtureRequest) -> Talk:
    return Talk(request.param)


def test_a_released_syn_is_the_same_with_a_listener(talk: Talk) -> None:
    assert talk.app(talk.syn) is None
    [event] = talk.events()
    four = len(talk.syn.source) == 4
    assert (event.peer, event.peer_port) == (talk.syn.source, 40_000)
    assert event.listener == (0 if four else LISTENERS)
    talk.tcp.verdict(event.number, CONNECTED, talk.now)
    [released] = talk.taken(talk.tcp.to_listener)
    assert reference.read_tcp(released) == talk.syn  # checksums included
    assert listener_of(released) == 0
    assert talk.app(talk.syn) == released


def test_destinations_of_one_port_get_listeners_of_their_own(talk: Talk) -> None:
    for port in range(80, 80 + LISTENERS):
        talk.app(replace(talk.syn, dport=port))
    events = talk.events()
    assert len({event.listener for event in events}) == LISTENERS
    for event in events:
        talk.tcp.verdict(event.number, CONNECTED, talk.now)
    released = talk.taken(talk.tcp.to_listener)
    first = 0 if len(talk.syn.source) == 4 else LISTENERS
    assert [listener_of(packet) + first for packet in released] == [event.listener for event in events]
    assert [reference.read_tcp(packet).dport for packet in released] == list(range(80, 80 + LISTENERS))


def test_other_ports_and_the_same_destination_share_a_listener(talk: Talk) -> None:
    for segment in (talk.syn, replace(talk.syn, sport=40_001), replace(talk.syn, seq=7, sport=40_000)):
        talk.app(segment)
    assert len({event.listener for event in talk.events() if isinstance(event, Syn)}) == 1


def test_what_is_remembered_is_bounded(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redirect, "MAX_REMEMBERED", 10)
    monkeypatch.setattr(redirect, "FORGOTTEN_AT_ONCE", 4)
    for port in range(30):
        talk.app(replace(talk.syn, sport=port))
        assert len(talk.tcp._used) <= 10
    ports = [int.from_bytes(source[-2:], "big") for source, _ in talk.tcp._used]
    assert ports == [*range(30 - len(ports), 30)], "the oldest go first"


def test_an_accepted_flow_is_remembered_for_a_moment(talk: Talk) -> None:
    talk.app(talk.syn)
    talk.tcp.verdict(1, CONNECTED, talk.now)
    talk.tcp.accepted(1, talk.now)
    assert talk.app(talk.syn) is not None  # a retransmission that crossed the verdict
    talk.events()
    talk.wait(ACCEPTED_LINGER + 1)
    assert (len(talk.tcp), talk.path.deadline()) == (0, None)
    assert talk.events() == []
    assert talk.app(talk.syn) is None


def test_the_same_port_again_at_once(talk: Talk) -> None:
    talk.app(talk.syn)
    talk.tcp.verdict(1, CONNECTED, talk.now)
    talk.tcp.accepted(1, talk.now)
    talk.events()
    talk.app(replace(talk.syn, seq=9000))
    assert [event.number for event in talk.events()] == [2]


def test_a_syn_that_never_arrives_is_reset_on_both_sides(talk: Talk) -> None:
    talk.app(talk.syn)
    talk.tcp.verdict(1, CONNECTED, talk.now)
    talk.taken(talk.tcp.to_listener)
    talk.events()
    talk.wait(OPENING_LIMIT + 1)
    assert talk.events() == [1]
    to_app = reference.read_tcp(talk.taken(talk.tcp.to_app)[0])
    assert (to_app.flags, to_app.ack, to_app.dport) == (RST | ACK, 1001, 40_000)
    to_listener = reference.read_tcp(talk.taken(talk.tcp.to_listener)[0])
    assert (to_listener.flags, to_listener.seq, to_listener.target) == (RST, 1001, talk.syn.target)


def test_strays_are_reset(talk: Talk) -> None:
    assert talk.app(replace(talk.syn, flags=ACK, ack=55)) is None
    assert reference.read_tcp(talk.taken(talk.tcp.to_app)[0]).seq == 55
    assert talk.app(replace(talk.syn, flags=RST)) is None
    assert talk.taken(talk.tcp.to_app) == []
    assert talk.path.counters == {"unknown-flow": 2}


def test_a_reset_of_the_handshake_cancels(talk: Talk) -> None:
    talk.app(talk.syn)
    talk.tcp.verdict(1, CONNECTED, talk.now)
    talk.events()
    assert talk.app(replace(talk.syn, flags=RST, seq=1001)) is None
    assert talk.events() == [1]
    assert len(talk.tcp) == 0


def test_a_reset_while_held_cancels(talk: Talk) -> None:
    talk.app(talk.syn)
    talk.app(replace(talk.syn, flags=RST, seq=1001))
    assert talk.events()[1:] == [1]
    talk.tcp.verdict(1, REFUSED, talk.now)
    assert talk.taken(talk.tcp.to_app) == []
