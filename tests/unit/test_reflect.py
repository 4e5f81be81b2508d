"""Held SYNs and rewriting: conversations, and rewriting checked against a slow reference."""

from __future__ import annotations

from dataclasses import replace

import packet_reference as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_reference import ACK, FIN, PSH, RST, SYN, Segment

from inroad.core import held
from inroad.core.held import CONNECTED, FORWARD, REFUSED, TIMED_OUT, Syn
from inroad.core.packet_path import PacketPath
from inroad.core.reflect import LINGER, Plan, Reflector, fast

V4 = (bytes((246, 246, 0, 1)), bytes((10, 96, 0, 5)))
V6 = (bytes.fromhex("fd000000000002460000000000000001"), bytes.fromhex("fd000010009600000000000000000005"))
PORT = 15_700


class Conversation:
    """The two sides of a reflector, spoken for with segments; `now` moves when told to."""

    def __init__(self, pair: tuple[bytes, bytes] = V4) -> None:
        self.path = PacketPath(Reflector(Plan(PORT), {}), 1500)
        self.now = 100.0
        self.syn = Segment(*pair, 40_000, 80, seq=1000, flags=SYN, options=b"\x02\x04\x05\xb4")
        self.last = bytearray()

    def app(self, segment: Segment) -> Segment | None:
        """Send from the application; return what reached the listener's side of it."""
        return self._send(segment, self.path.tcp.app_ways, self.path.from_app)

    def listener(self, segment: Segment) -> Segment | None:
        return self._send(segment, self.path.tcp.listener_ways, self.path.from_listener)

    def _send(self, segment, ways, slow) -> Segment | None:
        packet = bytearray(65_536)
        raw = segment.pack()
        packet[: len(raw)] = raw
        if fast(ways, memoryview(packet), len(raw)) or slow(packet, len(raw), self.now) == FORWARD:
            return reference.read_tcp(packet[: len(raw)])
        return None

    def verdict(self, verdict: int, number: int = 1) -> None:
        self.path.tcp.verdict(number, verdict, self.now)

    def wait(self, seconds: float) -> None:
        """Let time pass as the packet loop does: tick when the deadline says so."""
        until = self.now + seconds
        while (deadline := self.path.deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.path.tick(self.now)
        self.now = until

    def events(self) -> list[tuple[str, int]]:
        """Take the events: ("syn" or "cancelled", flow)."""
        taken = [("syn", e.number) if isinstance(e, Syn) else ("cancelled", e) for e in self.path.tcp.events]
        self.path.tcp.events.clear()
        return taken

    def to_app(self) -> list[bytes]:
        taken, self.path.tcp.to_app[:] = list(self.path.tcp.to_app), []
        return taken

    def to_listener(self) -> list[bytes]:
        taken, self.path.tcp.to_listener[:] = list(self.path.tcp.to_listener), []
        return taken

    def established(self) -> tuple[Segment, Segment]:
        """Complete a handshake; return templates: what the application and what the listener sends."""
        self.app(self.syn)
        self.verdict(CONNECTED)
        syn = reference.read_tcp(self.to_listener()[0])
        back = syn.answer(SYN | ACK, seq=9000, ack=1001)
        assert self.listener(back) == self.syn.answer(SYN | ACK, seq=9000, ack=1001)
        out = replace(self.syn, flags=ACK, seq=1001, ack=9001, options=b"")
        assert self.app(out) is not None
        self.events()
        return out, replace(back, flags=ACK, seq=9001, options=b"")


@pytest.fixture(params=[V4, V6], ids=["v4", "v6"])
def talk(request: pytest.FixtureRequest) -> Conversation:
    return Conversation(request.param)


def test_a_syn_is_held_until_the_verdict(talk: Conversation) -> None:
    assert talk.app(talk.syn) is None
    event = talk.path.tcp.events[0]
    assert (event.head.source, event.head.target, event.head.ttl) == (talk.syn.source, talk.syn.target, 64)
    assert talk.events() == [("syn", 1)]
    assert (talk.to_app(), talk.to_listener()) == ([], [])
    talk.verdict(CONNECTED)
    released = reference.read_tcp(talk.to_listener()[0])
    assert (released.source, released.sport) == (event.peer, event.peer_port)
    assert released.dport == PORT
    assert (released.seq, released.flags, released.options) == (1000, SYN, talk.syn.options)


def test_retransmissions_are_swallowed_while_held_and_pass_after(talk: Conversation) -> None:
    talk.app(talk.syn)
    for pause in (1.0, 1.0, 2.0, 4.0):
        talk.wait(pause)
        assert talk.app(talk.syn) is None
    assert talk.events() == [("syn", 1)]
    talk.verdict(CONNECTED)
    again = talk.app(talk.syn)
    assert again == reference.read_tcp(talk.to_listener()[0])


def test_refused_is_a_reset_that_matches(talk: Conversation) -> None:
    talk.app(talk.syn)
    talk.verdict(REFUSED)
    reset = reference.read_tcp(talk.to_app()[0])
    assert (reset.source, reset.sport, reset.dport) == (talk.syn.target, 80, 40_000)
    assert (reset.flags, reset.ack) == (RST | ACK, 1001)
    assert len(talk.path.tcp) == 0


@pytest.mark.parametrize(("verdict", "four", "six"), [(2, 0, 0), (3, 1, 3), (4, 13, 1)])
def test_unreachable_is_icmp(talk: Conversation, verdict: int, four: int, six: int) -> None:
    talk.app(talk.syn)
    talk.verdict(verdict)
    _, target, kind, code, _, quote = reference.read_icmp(talk.to_app()[0])
    assert target == talk.syn.source
    assert (kind, code) == ((3, four) if len(target) == 4 else (1, six))
    assert quote == talk.syn.pack()


def test_timed_out_is_silence_and_a_retransmission_dials_anew(talk: Conversation) -> None:
    talk.app(talk.syn)
    talk.verdict(TIMED_OUT)
    assert (talk.to_app(), talk.to_listener()) == ([], [])
    talk.app(talk.syn)
    assert talk.events() == [("syn", 1), ("syn", 2)]


def test_an_application_that_stops_asking_has_given_up(talk: Conversation) -> None:
    talk.app(talk.syn)
    talk.wait(1.0)
    assert talk.events() == [("syn", 1)]
    talk.wait(1.0)
    assert talk.events() == [("cancelled", 1)]
    talk.verdict(CONNECTED)
    assert (talk.to_app(), talk.to_listener(), len(talk.path.tcp)) == ([], [], 0)
    assert talk.path.deadline() is None


def test_a_reset_while_held_cancels(talk: Conversation) -> None:
    talk.app(talk.syn)
    talk.app(replace(talk.syn, flags=RST, seq=1001))
    assert talk.events() == [("syn", 1), ("cancelled", 1)]


def test_another_syn_on_the_same_ports_is_another_flow(talk: Conversation) -> None:
    talk.app(talk.syn)
    talk.app(replace(talk.syn, seq=5000))
    assert talk.events() == [("syn", 1), ("cancelled", 1), ("syn", 2)]


def test_a_reset_of_the_handshake_is_passed_on_and_cancels(talk: Conversation) -> None:
    talk.app(talk.syn)
    talk.verdict(CONNECTED)
    syn = reference.read_tcp(talk.to_listener()[0])
    talk.listener(syn.answer(SYN | ACK, seq=9000, ack=1001))
    passed = talk.app(replace(talk.syn, flags=RST, seq=1001))
    assert (passed.flags, passed.dport) == (RST, PORT)
    assert talk.events() == [("syn", 1), ("cancelled", 1)]
    talk.wait(LINGER + 1)
    assert len(talk.path.tcp) == 0


def test_a_released_syn_that_goes_nowhere_is_reset_on_both_sides(talk: Conversation) -> None:
    talk.app(talk.syn)
    talk.verdict(CONNECTED)
    syn = reference.read_tcp(talk.to_listener()[0])
    talk.listener(syn.answer(SYN | ACK, seq=9000, ack=1001))
    talk.wait(held.OPENING_LIMIT + 1)
    to_app, to_listener = reference.read_tcp(talk.to_app()[0]), reference.read_tcp(talk.to_listener()[0])
    assert (to_app.flags, to_app.seq, to_app.ack) == (RST | ACK, 9001, 1001)
    assert (to_listener.flags, to_listener.seq, to_listener.dport) == (RST, 1001, PORT)
    assert talk.events() == [("syn", 1), ("cancelled", 1)]


def test_half_close_keeps_a_flow_for_ever(talk: Conversation) -> None:
    out, back = talk.established()
    assert talk.app(replace(out, flags=FIN | ACK)) is not None
    talk.wait(1_000_000)
    assert talk.listener(replace(back, flags=PSH | ACK, data=b"late")).data == b"late"
    assert talk.path.deadline() is None


def test_both_fins_end_it_after_a_while(talk: Conversation) -> None:
    out, back = talk.established()
    talk.app(replace(out, flags=FIN | ACK))
    talk.listener(replace(back, flags=FIN | ACK))
    assert talk.app(out) is not None  # the last acknowledgement
    talk.wait(LINGER - 1)
    assert talk.listener(back) is not None
    talk.wait(LINGER - 1)
    assert len(talk.path.tcp) == 1
    talk.wait(2)
    assert len(talk.path.tcp) == 0
    assert talk.app(out) is None
    assert reference.read_tcp(talk.to_app()[0]).flags == RST


def test_the_same_ports_again_right_after_close(talk: Conversation) -> None:
    out, back = talk.established()
    talk.app(replace(out, flags=FIN | ACK))
    talk.listener(replace(back, flags=FIN | ACK))
    talk.app(replace(talk.syn, seq=77_000))
    assert talk.events() == [("syn", 2)]
    talk.verdict(CONNECTED, 2)
    released = reference.read_tcp(talk.to_listener()[0])
    assert released.sport != back.dport  # another tuple for the listener


def test_a_packet_of_no_flow_is_reset(talk: Conversation) -> None:
    assert talk.app(replace(talk.syn, flags=ACK, ack=5)) is None
    assert reference.read_tcp(talk.to_app()[0]).seq == 5
    plan = talk.path.tcp.plan
    version = 4 if len(talk.syn.source) == 4 else 6
    stray = Segment(plan.listener(version), plan.peer(version, 9)[0], PORT, 32_777, flags=ACK, ack=6)
    assert talk.listener(stray) is None
    assert reference.read_tcp(talk.to_listener()[0]).seq == 6
    assert talk.path.counters["unknown-flow"] == 2


def test_a_syn_with_a_bad_checksum_is_not_dialled(talk: Conversation) -> None:
    packet = bytearray(talk.syn.pack())
    packet[-1] ^= 1
    assert talk.path.from_app(packet, len(packet), talk.now) != FORWARD
    assert (talk.events(), talk.path.counters) == ([], {"bad-checksum": 1})


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "MAX_FLOWS", 3)
    talk = Conversation()
    for port in range(5):
        talk.app(replace(talk.syn, sport=port))
    assert len(talk.path.tcp) == 3
    assert talk.path.counters["flows-full"] == 2


def test_a_living_tuple_is_never_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Conversation()
    talk.established()
    talk.path.tcp._next_number = held.SLOTS + 2  # all numbers used once: flow 1's slot comes round
    talk.app(replace(talk.syn, sport=1))
    assert talk.events() == [("syn", held.SLOTS + 3)]


@settings(deadline=None)  # a full machine is not a finding
@given(
    st.sampled_from([V4, V6]),
    st.binary(max_size=300),
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([ACK, ACK | PSH, ACK | FIN, ACK | RST, 0x18 | 0xC0]),
    st.sampled_from([b"", b"\x01\x01\x08\x0a" + bytes(8)]),
    st.booleans(),
    st.sampled_from([b"", b"\x01\x01\x01\x00"]),
)
def test_rewriting_changes_addresses_and_ports_and_nothing_else(
    pair: tuple[bytes, bytes],
    data: bytes,
    number: int,
    flags: int,
    options: bytes,
    from_app: bool,
    ip_options: bytes,
) -> None:
    """Every checksum of the result is verified by `read_tcp`, word by word."""
    talk = Conversation(pair)
    out, back = talk.established()
    changes = {"flags": flags, "data": data, "seq": number, "options": options}
    if len(pair[0]) == 4:
        changes["ip_options"] = ip_options
    sent = replace(out if from_app else back, **changes)
    seen = talk.app(sent) if from_app else talk.listener(sent)
    other = back.answer(0) if from_app else out.answer(0)
    assert seen == replace(
        sent, source=other.source, target=other.target, sport=other.sport, dport=other.dport
    )
