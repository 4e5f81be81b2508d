"""Two muxes in memory: what one is told to send, the other hands to its handlers, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inroad.core import frames
from inroad.core.flows import Quiet, Refusal
from inroad.core.frames import ProtocolError, frame
from inroad.core.lane import Lane
from inroad.core.mux import Mux
from inroad.core.mux_flow import MuxFlow
from inroad.core.mux_input import PeerClosed

FLOOD = bytes(range(256)) * 4096  # 1 MiB


class Wire:
    """One direction: takes as much as the test allows, delivers in pieces that the test chooses."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.kept: bytearray | None = None  # everything that was carried, if somebody wants to see it
        self.room = 1 << 62

    def take(self, parts) -> int:
        data = b"".join(parts)[: self.room]
        self.room -= len(data)
        self.content += data
        return len(data)


class Owner(Quiet):
    """Records what a flow tells; consumes at once unless told to wait."""

    __slots__ = ("eager", "flow", "log", "received")

    def __init__(self, flow=None, eager: bool = True) -> None:
        self.flow = flow
        self.eager = eager
        self.received = bytearray()
        self.log: list = []

    def flow_opened(self) -> None:
        self.log.append("opened")

    def flow_refused(self, reason, detail) -> None:
        self.log.append(("refused", reason, detail))

    def flow_data(self, data) -> None:
        self.received += data
        if self.eager:
            self.flow.consumed(len(data))

    def flow_datagram(self, data) -> None:
        self.log.append(("datagram", bytes(data)))

    def flow_eof(self) -> None:
        self.log.append("eof")

    def flow_reset(self) -> None:
        self.log.append("reset")

    def flow_writable(self) -> None:
        self.log.append("writable")


class Pair:
    """Client and server, and for each lane a wire each way. `run` carries bytes until nothing moves."""

    def __init__(self, eager: bool = True, accept: bool = True, **limits) -> None:
        self.woken: set[Lane] = set()
        self.now = 0.0
        self.up, self.down = Wire(), Wire()
        self.client = self.mux(True, self.up, **limits)
        self.server = self.mux(False, self.down, **limits)
        self.wires = [
            (self.up, self.client.main, self.server.main),
            (self.down, self.server.main, self.client.main),
        ]
        self.served: list[Owner] = []
        self.requests: list[bytes] = []
        self.errors: list[Exception] = []

        def on_open(flow: MuxFlow, request: bytes) -> Owner:
            self.requests.append(request)
            self.served.append(Owner(flow, eager))
            if accept:
                flow.accept()
            return self.served[-1]

        self.server.on_open = on_open
        for mux in (self.client, self.server):
            mux.on_handler_error = self.errors.append

    def mux(self, client: bool, wire: Wire, **limits) -> Mux:
        mux = Mux(client=client, send=wire.take, wake=lambda: self.woken.add(mux.main), **limits)
        return mux

    def add_bulk(self) -> None:
        up, down = Wire(), Wire()
        client, server = self.mux(True, up).main, self.mux(False, down).main
        # `wake` of the new lanes adds `mux.main`: of the mux that they were made for, so themselves.
        self.client.add_bulk(client)
        self.server.add_bulk(server)
        self.wires += [(up, client, server), (down, server, client)]

    def open(self, request: bytes = b"", eager: bool = True) -> Owner:
        owner = Owner(eager=eager)
        owner.flow = self.client.open(request, owner)
        return owner

    def flush(self) -> None:
        for lane in list(self.woken):
            self.woken.discard(lane)
            lane.flush(self.now)

    def carry(self, wire: Wire, lane: Lane, size: int | None = None) -> bool:
        """Deliver up to `size` bytes of the wire."""
        piece = bytes(wire.content[:size])
        del wire.content[:size]
        if wire.kept is not None:
            wire.kept += piece
        if piece:
            lane.receive(memoryview(piece), self.now)
            lane.flush(self.now)
        return bool(piece)

    def run(self) -> None:
        moved = True
        while moved:
            self.flush()
            moved = bool(sum(self.carry(wire, to) for wire, _, to in self.wires) or self.woken)

    def unblock(self) -> None:
        """Every wire takes everything from now on."""
        for wire, sender, _ in self.wires:
            wire.room = 1 << 60
            sender.writable(self.now)


def test_a_conversation() -> None:
    pair = Pair()
    client = pair.open(b"where to")
    assert not client.flow.write(b"early"), "nothing may go before OPENED"
    pair.run()
    server = pair.served[0]
    assert pair.requests == [b"where to"]
    assert client.log == ["opened", "writable"]
    assert server.received == b"early"
    assert server.flow.write(b"answer")
    client.flow.write_eof()
    pair.run()
    assert client.received == b"answer"
    assert server.log == ["eof"]
    server.flow.write(b" and more", True)
    pair.run()
    assert client.received == b"answer and more"
    assert client.log == ["opened", "writable", "eof"]
    assert not pair.client.flows and not pair.server.flows


def test_refusal_carries_reason_and_detail() -> None:
    pair = Pair(accept=False)
    client = pair.open()
    pair.run()
    pair.served[0].flow.refuse(Refusal.TIMED_OUT, "slow")
    pair.run()
    assert client.log == [("refused", Refusal.TIMED_OUT, "slow")]
    assert not pair.client.flows and not pair.server.flows


def test_cancelled_before_it_was_opened() -> None:
    pair = Pair(accept=False)
    client = pair.open()
    pair.run()
    client.flow.reset()
    pair.served[0].flow.accept()  # crosses the reset
    pair.run()
    assert client.log == []
    assert pair.served[0].log == ["reset"]


def test_last_bytes_announce_the_end() -> None:
    pair = Pair()
    client = pair.open()
    pair.run()
    seen = []

    class Seer(Quiet):
        def flow_data(self, data) -> None:
            seen.append((bytes(data), flow.ending))

    flow = pair.served[0].flow
    flow.handler = Seer()
    client.flow.write(b"first")
    client.flow.write(b"last", True)
    pair.run()
    assert seen == [(b"first", False), (b"last", True)]


def test_a_stalled_reader_stops_its_writer_at_the_window_and_nobody_else() -> None:
    pair = Pair(eager=False, window=100_000)
    stalled, other = pair.open(), pair.open()
    pair.run()
    while stalled.flow.write(FLOOD[:50_000]):
        pair.run()
    pair.run()
    assert len(pair.served[0].received) == 100_000
    assert stalled.flow.pending_size <= 150_000
    assert other.flow.write(b"hello")
    pair.run()
    assert pair.served[1].received == b"hello"
    pair.served[0].flow.consumed(100_000)
    stalled.log.clear()
    pair.run()
    assert stalled.log == ["writable"]


def test_short_writes_overtake_bulk_and_bulk_flows_take_turns() -> None:
    pair = Pair()
    bulk = [pair.open(), pair.open()]
    small = pair.open()
    pair.run()
    pair.up.room = 0
    for owner in bulk:
        owner.flow.write(FLOOD[:500_000])
    pair.flush()
    small.flow.write(b"quick")
    pair.up.room = 1 << 30
    pair.client.main.writable(0.0)
    pair.up.kept = bytearray()
    pair.run()
    order = [flow_id for flow_id, kind, _ in parse(pair.up.kept) if kind == frames.DATA]
    first, second = (owner.flow.id for owner in bulk)
    begun = order.index(small.flow.id)
    assert begun <= 4, "overtakes all but what was already on its way"
    turns = order[begun + 1 :]
    assert turns[:8] == [first, second] * 4


def test_short_writes_take_turns_only_while_somebody_waits() -> None:
    """A flow that asks and answers all day sends little at a time, however much it is in the end."""
    pair = Pair()
    busy, other = pair.open(), pair.open()
    pair.run()
    for _ in range(100):
        assert busy.flow.write(b"x" * 1_000)
        assert not busy.flow.pending_size
        pair.flush()
    pair.up.room = 0
    other.flow.write(FLOOD[:500_000])
    pair.flush()
    busy.flow.write(b"x" * 1_000)
    assert busy.flow.pending_size == 1_000


def test_short_writes_keep_to_the_pace() -> None:
    pair = Pair()
    busy = pair.open()
    pair.run()
    lane = pair.client.main
    while not busy.flow.pending_size:
        busy.flow.write(b"x" * 1_000)
        pair.flush()
        assert lane.bytes_out - lane.pace.acked < lane.pace.cap + 2_000


def parse(content: bytearray) -> list[tuple[int, int, bytes]]:
    """Frames as (flow id, type, payload)."""
    found, position = [], 0
    while position < len(content):
        flow_id, word = frames.unpack_header(content, position)
        size = word & 0xFFFFFF
        found.append((flow_id, word >> 24, bytes(content[position + 8 : position + 8 + size])))
        position += 8 + size
    return found


def test_datagrams_beyond_the_queue_are_dropped_and_counted() -> None:
    pair = Pair()
    client = pair.open()
    pair.run()
    pair.up.room = 0
    sent = [client.flow.send_datagram(bytes(60_000)) for _ in range(10)]
    assert sent[:4] == [True] * 4 and sent[-1] is False
    assert pair.client.dropped_datagrams == sent.count(False)
    pair.up.room = 1 << 30
    pair.client.main.writable(0.0)
    pair.run()
    assert len(pair.served[0].log) == sent.count(True)


def test_a_handler_that_raises_costs_its_flow_only() -> None:
    pair = Pair()
    bad, good = pair.open(), pair.open()
    pair.run()
    pair.served[0].flow = None  # its flow_data fails
    bad.flow.write(b"x")
    good.flow.write(b"y")
    pair.run()
    assert len(pair.errors) == 1
    assert bad.log == ["opened", "reset"]
    assert pair.served[1].received == b"y"


def test_too_many_flows_are_refused_not_fatal() -> None:
    pair = Pair(max_flows=2)
    owners = [pair.open() for _ in range(3)]
    pair.run()
    assert [owner.log[0] for owner in owners[:2]] == ["opened"] * 2
    assert owners[2].log[0][1] is Refusal.BUSY
    owners[0].flow.reset()
    fourth = pair.open()
    pair.run()
    assert fourth.log == ["opened"]


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


HOSTILE = {
    "unknown type": [frame(1, 99)],
    "HTTP": [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    "wrong parity": [frame(2, frames.OPEN, number(1))],
    "id twice": [frame(1, frames.OPEN, number(1)), frame(1, frames.OPEN, number(1))],
    "id goes back": [frame(5, frames.OPEN, number(1)), frame(3, frames.OPEN, number(1))],
    "flow zero": [frame(0, frames.DATA, b"x")],
    "control on a flow": [frame(1, frames.OPEN, number(1)), frame(1, frames.CONTROL, b"x")],
    "data for nothing": [frame(1, frames.DATA, b"x")],
    "data of ours": [frame(2, frames.DATA, b"x")],
    "beyond credit": [frame(1, frames.OPEN, number(1)), frame(1, frames.DATA, bytes(1001))],
    "beyond credit, in one header": [
        frame(1, frames.OPEN, number(1)),
        frames.pack_header(1, frames.DATA << 24 | 1001),
    ],
    "after FIN": [frame(1, frames.OPEN, number(1)), frame(1, frames.FIN), frame(1, frames.DATA, b"x")],
    "FIN twice": [frame(1, frames.OPEN, number(1)), frame(1, frames.FIN), frame(1, frames.FIN)],
    "too much credit": [
        frame(1, frames.OPEN, number(1 << 31)),
        frame(1, frames.CREDIT, number((1 << 32) - 1)),
    ],
    "credit of 3 bytes": [frame(1, frames.OPEN, number(1)), frame(1, frames.CREDIT, b"abc")],
    "OPENED from the opener": [frame(1, frames.OPEN, number(1)), frame(1, frames.OPENED, number(1))],
    "PONG unasked": [frame(0, frames.PONG, bytes(8))],
    "long control": [frames.pack_header(0, frames.CONTROL << 24 | frames.MAX_CONTROL + 1)],
    "long request": [frames.pack_header(1, frames.OPEN << 24 | frames.MAX_REQUEST + 5)],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_peers_are_cut_off(name: str) -> None:
    pair = Pair(eager=False, window=1000)
    with pytest.raises(ProtocolError) as caught:
        for piece in HOSTILE[name]:
            pair.server.main.receive(memoryview(piece), 0.0)
    assert str(caught.value)


def test_frames_of_a_flow_that_is_over_are_ignored() -> None:
    pair = Pair()
    client = pair.open()
    pair.run()
    pair.served[0].flow.reset()
    client.flow.write(b"on its way")
    client.flow.write_eof()
    pair.run()
    assert client.log == ["opened", "reset"]


def test_goodbye_carries_the_reason() -> None:
    pair = Pair()
    pair.client.goodbye("quit")
    with pytest.raises(PeerClosed, match="quit"):
        pair.run()


def test_a_peer_that_asks_and_does_not_read_is_cut_off() -> None:
    pair = Pair()
    pair.down.room = 0
    pings = memoryview(frame(0, frames.PING, bytes(8)) * 100_000)
    with pytest.raises(ProtocolError, match="does not read"):
        for _ in range(20):
            pair.server.main.receive(pings, 0.0)
            pair.server.main.flush(0.0)


def test_bulk_moves_to_the_second_lane_and_returns_when_it_is_quiet() -> None:
    pair = Pair()
    pair.add_bulk()
    (bulk_up, *_) = pair.wires[2]
    pair.up.kept, bulk_up.kept = bytearray(), bytearray()
    big, small = pair.open(), pair.open()
    pair.run()
    for _ in range(8):
        big.flow.write(FLOOD[:100_000])
        small.flow.write(b"small")
        pair.run()
    big.flow.write(b"still bulk")
    pair.run()
    assert pair.served[0].received == FLOOD[:100_000] * 8 + b"still bulk"
    assert pair.served[1].received == b"small" * 8
    on_bulk = {flow_id for flow_id, kind, _ in parse(bulk_up.kept) if kind == frames.DATA}
    assert on_bulk == {big.flow.id}
    assert len(pair.up.kept) < 400_000 < len(bulk_up.kept)
    assert [kind for _, kind, _ in parse(pair.up.kept)].count(frames.LANE) == 1
    pair.up.kept.clear()
    pair.now = 10.0
    pair.client.tick(pair.now)
    big.flow.write(b"quiet again")
    pair.run()
    assert (big.flow.id, frames.DATA, b"quiet again") in parse(pair.up.kept)
    assert bytes(pair.served[0].received).endswith(b"still bulkquiet again")


def test_bytes_that_overtake_the_change_of_lane_wait_for_it() -> None:
    pair = Pair()
    pair.add_bulk()
    (bulk_up, _, bulk_in) = pair.wires[2]
    client = pair.open()
    pair.run()
    for piece in (FLOOD[:300_000], b"tail"):
        client.flow.write(piece, piece == b"tail")
    pair.flush()
    assert bulk_up.content
    while pair.carry(bulk_up, bulk_in, 1000):
        pass
    assert pair.served[0].received == b"" and pair.served[0].log == []
    pair.run()
    assert pair.served[0].received == FLOOD[:300_000] + b"tail"
    assert pair.served[0].log == ["eof"]


def test_losing_the_bulk_lane_costs_the_flows_on_it() -> None:
    pair = Pair()
    pair.add_bulk()
    big, small = pair.open(), pair.open()
    pair.run()
    big.flow.write(FLOOD[:300_000])
    pair.run()
    assert [flow.id for flow in pair.client.lose_bulk()] == [big.flow.id]
    assert [flow.id for flow in pair.server.lose_bulk()] == [big.flow.id]
    del pair.wires[2:]
    small.flow.write(FLOOD[:300_000])
    pair.run()
    assert pair.served[1].received == FLOOD[:300_000]
    assert list(pair.client.flows) == [small.flow.id]


@pytest.mark.parametrize("lanes", [1, 2])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_every_byte_arrives_in_order_whatever_the_pieces(lanes: int, data: st.DataObject) -> None:
    """Random writes on several flows both ways, random fragmentation, random room, random readers."""
    pair = Pair(eager=False, window=data.draw(st.integers(1, 5000) | st.just(600_000), "window"))
    if lanes == 2:
        pair.add_bulk()
    clients = [pair.open(eager=False) for _ in range(data.draw(st.integers(1, 4), "flows"))]
    pair.run()
    ends = [*clients, *pair.served]
    sent = {id(end): bytearray() for end in ends}
    steps = st.sampled_from(["write", "flood", "carry", "consume", "room", "flush", "time"])
    for step in data.draw(st.lists(steps, max_size=60), "steps"):
        end = data.draw(st.sampled_from(ends))
        if step in ("write", "flood") and not end.flow.waiting:
            piece = FLOOD[: data.draw(st.integers(0, 20_000 if step == "write" else 400_000))]
            end.flow.write(piece)
            sent[id(end)] += piece
        elif step == "carry":
            wire, _, to = data.draw(st.sampled_from(pair.wires))
            pair.carry(wire, to, data.draw(st.integers(1, 9000) | st.just(300_000)))
        elif step == "consume":
            end.flow.consumed(end.flow.held)
        elif step == "room":
            wire, sender, _ = data.draw(st.sampled_from(pair.wires))
            wire.room = data.draw(st.integers(0, 3000) | st.just(500_000))
            sender.writable(pair.now)
        elif step == "time":
            pair.now += data.draw(st.floats(0, 5))
            data.draw(st.sampled_from([pair.client, pair.server])).tick(pair.now)
        else:
            pair.flush()
    for end in ends:
        end.flow.write_eof()
    pair.unblock()
    pair.run()
    while any("eof" not in end.log for end in ends):
        before = [len(end.received) for end in ends]
        for end in ends:
            end.flow.consumed(end.flow.held)
        pair.run()
        done = all("eof" in end.log for end in ends)
        assert done or before != [len(end.received) for end in ends], "stuck"
    for client, server in zip(clients, pair.served, strict=True):
        assert client.received == sent[id(server)]
        assert server.received == sent[id(client)]
    for mux in (pair.client, pair.server):
        assert not mux.flows and not mux.pending_size
        assert mux.held == sum(end.flow.held for end in ends if end.flow.mux is mux)


def test_a_state_takes_the_place_of_one_that_has_not_gone_out() -> None:
    pair = Pair()
    heard: list[bytes] = []
    pair.client.on_control = heard.append
    lane = pair.server.main
    pair.down.room = 10
    lane.send_control(b"begun to go out", "cluster")
    pair.flush()
    for number in range(5):
        lane.send_control(b"agents %d" % number, "agents")
        lane.send_control(b"cluster %d" % number, "cluster")
    lane.send_control(b"in its turn")
    assert not lane.drained()
    pair.unblock()
    pair.run()
    assert heard[0] == b"begun to go out"
    assert sorted(heard[1:]) == [b"agents 4", b"cluster 4", b"in its turn"]
    assert lane.drained()
