"""UDP associations and echo sequences, spoken to with packets."""

from __future__ import annotations

import struct

import packet_reference as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inroad.core import associations
from inroad.core.associations import DNS_IDLE, UDP_IDLE
from inroad.core.packet_path import DATAGRAM, ECHO, PacketPath
from inroad.core.reflect import Plan, Reflector

V4 = (bytes((246, 246, 0, 1)), bytes((10, 96, 0, 5)))
V6 = (bytes.fromhex("fd000000000002460000000000000001"), bytes.fromhex("fd000010009600000000000000000005"))
both = pytest.mark.parametrize("pair", [V4, V6], ids=["v4", "v6"])


class Talk:
    """A packet path with an application in front of it and a daemon behind it."""

    def __init__(self, mtu: int = 1500) -> None:
        self.path = PacketPath(Reflector(Plan(1), {}), mtu)
        self.table = self.path.associations
        self.now = 100.0

    def app(self, packet: bytes) -> tuple[int, bytes] | None:
        """Send from the application; return (flow, payload) if the daemon gets something."""
        number = self.table.fast(memoryview(packet), len(packet), self.now)
        if number:
            return number, packet[self.table.payload_start : self.table.payload_end]
        action = self.path.from_app(bytearray(packet), len(packet), self.now)
        if action not in (DATAGRAM, ECHO):
            return None
        return self.path.number, bytes(self.path.packet[self.table.payload_start : self.table.payload_end])

    def to_app(self) -> list[bytes]:
        taken, self.table.to_app[:] = list(self.table.to_app), []
        return taken

    def whole(self) -> bytes:
        """What the application's kernel makes of what we sent: one packet, reassembled."""
        kernel = PacketPath(Reflector(Plan(1), {}), 1500)
        packets = self.to_app()
        for packet in packets:
            kernel.from_app(bytearray(packet), len(packet), 0.0)
        return bytes(kernel.packet)

    def wait(self, seconds: float) -> list[int]:
        until = self.now + seconds
        while (deadline := self.path.deadline()) is not None and deadline <= until:
            self.now = max(deadline, self.now)
            self.path.tick(self.now)
        self.now = until
        taken, self.table.expired[:] = list(self.table.expired), []
        return taken


@both
def test_a_datagram_goes_up_and_its_answer_comes_back(pair: tuple[bytes, bytes]) -> None:
    talk = Talk()
    flow, payload = talk.app(reference.udp(*pair, 5000, 53, b"question"))
    assert payload == b"question"
    assert flow >= associations.FIRST_NUMBER
    head, ports = talk.table.opened
    assert (head.source, head.target, ports) == (*pair, struct.pack("!HH", 5000, 53))
    talk.table.datagram(flow, b"answer", talk.now)
    assert reference.read_udp(talk.to_app()[0]) == (pair[1], pair[0], 53, 5000, b"answer")


def test_one_association_per_tuple() -> None:
    talk = Talk()
    first, _ = talk.app(reference.udp(*V4, 5000, 7, b"a"))
    again, _ = talk.app(reference.udp(*V4, 5000, 7, b"b"))
    assert talk.table.opened is None
    other, _ = talk.app(reference.udp(*V4, 5000, 8, b"c"))
    assert first == again != other
    assert talk.table.opened is not None


@settings(deadline=None)  # a full machine is not a finding
@given(st.sampled_from([V4, V6]), st.integers(0, 65_487), st.sampled_from([1280, 1500, 65_535]))
def test_any_size_both_ways(pair: tuple[bytes, bytes], size: int, mtu: int) -> None:
    data = bytes(n % 251 for n in range(size))
    talk = Talk(mtu)
    flow, payload = talk.app(reference.udp(*pair, 5000, 7, data))
    assert payload == data
    talk.table.datagram(flow, data, talk.now)
    assert all(len(packet) <= mtu for packet in talk.table.to_app)
    assert reference.read_udp(talk.whole())[4] == data


@settings(deadline=None)  # a full machine is not a finding
@given(st.sampled_from([V4, V6]), st.binary(max_size=100), st.integers(0, 200), st.integers(0, 255))
def test_the_fast_way_takes_nothing_that_the_slow_one_would_not(pair, data, at, value) -> None:
    talk = Talk()
    talk.app(reference.udp(*pair, 5000, 7, b""))
    packet = bytearray(reference.udp(*pair, 5000, 7, data))
    at %= len(packet)
    packet[at] = value
    number = talk.table.fast(memoryview(packet), len(packet), talk.now)
    taken = talk.table.payload_start, talk.table.payload_end
    slow = PacketPath(Reflector(Plan(1), {}), 1500)
    if number and not (at in (10, 11) and pair is V4):  # the kernel has seen to the header's checksum
        packet[10:12] = bytes(2) if pair is V4 else packet[10:12]
        if pair is V4:
            packet[10:12] = struct.pack("!H", reference.checksum(bytes(packet[:20])))
        assert slow.from_app(packet, len(packet), 0.0) == DATAGRAM
        assert taken == (slow.associations.payload_start, slow.associations.payload_end)


@pytest.mark.parametrize(("port", "limit"), [(7, UDP_IDLE), (53, DNS_IDLE)])
def test_idle_associations_end(port: int, limit: float) -> None:
    talk = Talk()
    flow, _ = talk.app(reference.udp(*V4, 5000, port, b"a"))
    assert talk.wait(limit - 1) == []
    talk.table.datagram(flow, b"answer", talk.now)  # this is use as well
    assert talk.wait(limit - 1) == []
    assert talk.wait(2) == [flow]
    assert talk.path.deadline() is None
    talk.to_app()
    talk.table.datagram(flow, b"late", talk.now)
    assert talk.to_app() == []
    again, _ = talk.app(reference.udp(*V4, 5000, port, b"a"))
    assert again != flow


@both
@pytest.mark.parametrize(("verdict", "four", "six"), [(1, 3, 4), (2, 0, 0), (3, 1, 3), (4, 13, 1)])
def test_unreachable(pair: tuple[bytes, bytes], verdict: int, four: int, six: int) -> None:
    talk = Talk()
    packet = reference.udp(*pair, 5000, 7, b"anyone?")
    flow, _ = talk.app(packet)
    talk.table.unreachable(flow, verdict)
    source, target, kind, code, _, quote = reference.read_icmp(talk.to_app()[0])
    assert (source, target) == (pair[1], pair[0])
    assert (kind, code) == ((3, four) if pair is V4 else (1, six))
    ports = 20 if pair is V4 else 40
    assert reference.read_ip(quote)[:3] == (*pair, 17)
    assert quote[ports : ports + 4] == packet[ports : ports + 4]


def icmp(source: bytes, target: bytes, kind: int, code: int, word: bytes, body: bytes) -> bytes:
    protocol = 1 if len(source) == 4 else 58
    bare = bytes((kind, code, 0, 0)) + word + body
    initial = reference.pseudo(source, target, 58, len(bare)) if protocol == 58 else b""
    value = reference.checksum(initial + bare)
    return reference.ip(source, target, protocol, bare[:2] + struct.pack("!H", value) + bare[4:])


@both
@settings(deadline=None)  # a full machine is not a finding
@given(payload=st.binary(max_size=2000), sequence=st.integers(0, 0xFFFF))
def test_echo(pair: tuple[bytes, bytes], payload: bytes, sequence: int) -> None:
    request, reply = (8, 0) if pair is V4 else (128, 129)
    talk = Talk()
    word = struct.pack("!HH", 77, sequence)
    flow, got = talk.app(icmp(*pair, request, 0, word, payload))
    assert (got, talk.table.sequence) == (payload, sequence)
    talk.table.reply(flow, sequence, payload, talk.now)
    source, target, kind, code, numbers, body = reference.read_icmp(talk.whole())
    assert (source, target) == (pair[1], pair[0])
    assert (kind, code, numbers, body) == (reply, 0, word, payload)


def test_echoes_of_two_programs_are_two_flows() -> None:
    talk = Talk()
    flows = {talk.app(icmp(*V4, 8, 0, struct.pack("!HH", ident, 1), b""))[0] for ident in (1, 2, 1)}
    assert len(flows) == 2


@both
def test_packet_too_big_is_honoured(pair: tuple[bytes, bytes]) -> None:
    talk = Talk()
    flow, _ = talk.app(reference.udp(*pair, 5000, 7, b"a"))
    talk.table.datagram(flow, bytes(1400), talk.now)
    [sent] = talk.to_app()
    told = 1300 if pair is V4 else 1290
    word = struct.pack("!HH", 0, told) if pair is V4 else struct.pack("!I", told)
    router = bytes(len(pair[0]) - 1) + b"\x09"
    assert (
        talk.app(icmp(router, pair[1], 3 if pair is V4 else 2, 4 if pair is V4 else 0, word, sent[:500]))
        is None
    )
    talk.table.datagram(flow, bytes(1400), talk.now)
    assert max(map(len, talk.table.to_app)) <= told
    assert reference.read_udp(talk.whole())[4] == bytes(1400)
    assert talk.path.counters == {"too-big": 1}


@both
def test_a_lie_about_the_mtu_is_not_believed(pair: tuple[bytes, bytes]) -> None:
    talk = Talk()
    flow, _ = talk.app(reference.udp(*pair, 5000, 7, b"a"))
    talk.table.datagram(flow, bytes(1400), talk.now)
    [sent] = talk.to_app()
    talk.app(icmp(pair[0], pair[1], 3 if pair is V4 else 2, 4 if pair is V4 else 0, bytes(4), sent[:500]))
    talk.table.datagram(flow, bytes(1400), talk.now)
    assert len(talk.to_app()) <= 3


@both
def test_an_application_that_is_gone_ends_its_association(pair: tuple[bytes, bytes]) -> None:
    talk = Talk()
    flow, _ = talk.app(reference.udp(*pair, 5000, 7, b"a"))
    talk.table.datagram(flow, b"answer", talk.now)
    [sent] = talk.to_app()
    talk.app(icmp(*pair, 3 if pair is V4 else 1, 3 if pair is V4 else 4, bytes(4), sent))
    assert talk.wait(0) == [flow]


def flipped(packet: bytes, at: int) -> bytes:
    return packet[:at] + bytes((packet[at] ^ 1,)) + packet[at + 1 :]


@pytest.mark.parametrize(
    ("packet", "counter"),
    [
        (flipped(reference.udp(*V4, 1, 7, b"a"), 28), "bad-checksum"),
        (flipped(reference.udp(*V6, 1, 7, b"a"), 48), "bad-checksum"),
        (flipped(icmp(*V4, 8, 0, bytes(4), b"a"), 28), "bad-checksum"),
        (reference.ip(*V4, 17, b"\0\1\0\7\0"), "truncated"),
        (reference.ip(*V4, 17, struct.pack("!HHHH", 1, 7, 90, 0)), "truncated"),
        (reference.ip(*V4, 17, struct.pack("!HHHH", 1, 7, 7, 0)), "truncated"),
        (reference.ip(*V4, 6, bytes(19)), "truncated"),
        (reference.ip(*V4, 1, bytes(7)), "truncated"),
        (reference.udp(*V4, 1, 137, b"a"), "netbios"),
        (reference.udp(V4[0], bytes((224, 0, 0, 251)), 1, 5353, b"a"), "multicast"),
        (reference.udp(V4[0], bytes((255, 255, 255, 255)), 1, 67, b"a"), "broadcast"),
        (reference.udp(V6[0], bytes.fromhex("ff02" + "00" * 13 + "fb"), 1, 5353, b"a"), "multicast"),
        (reference.ip(*V4, 132, bytes(20)), "protocol-other"),
        (icmp(*V4, 13, 0, bytes(4), b""), "icmp-other"),
        (icmp(*V4, 3, 3, bytes(4), b"\x45"), "icmp-other"),
        (icmp(*V6, 2, 0, bytes(4), bytes(60)), "icmp-other"),
    ],
)
def test_odd_packets_are_counted_by_kind(packet: bytes, counter: str) -> None:
    talk = Talk()
    assert talk.app(packet) is None
    assert talk.path.counters == {counter: 1}
    assert talk.to_app() == []


def test_ipv4_without_a_checksum_is_taken() -> None:
    packet = bytearray(reference.udp(*V4, 1, 7, b"a"))
    packet[26:28] = b"\0\0"
    assert Talk().app(bytes(packet))[1] == b"a"


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(associations, "MAX_ASSOCIATIONS", 2)
    talk = Talk()
    assert [bool(talk.app(reference.udp(*V4, port, 7, b""))) for port in range(3)] == [True, True, False]
    assert talk.path.counters == {"flows-full": 1}


def test_an_association_of_which_nobody_heard_is_forgotten() -> None:
    talk = Talk()
    flow, _ = talk.app(reference.udp(*V4, 5000, 7, b"a"))
    talk.table.forget(flow)
    assert talk.app(reference.udp(*V4, 5000, 7, b"a"))[0] != flow
    assert talk.table.opened is not None
