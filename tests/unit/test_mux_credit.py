"""Windows that grow with use and shrink under pressure, and the bounds on what waits."""

from __future__ import annotations

from collections import deque

import pytest
from test_mux import FLOOD, Pair

from inroad.core import mux, mux_input
from inroad.core.flows import Quiet

MIB = 1 << 20


class Delayed(Pair):
    """A pair whose wires have a delay (seconds, each way) and no other limit."""

    def __init__(self, delay: float, **limits) -> None:
        super().__init__(**limits)
        self.delay = delay
        self.travelling: deque[tuple[float, object, bytes]] = deque()

    def advance(self, seconds: float, step: float = 0.001) -> None:
        end = self.now + seconds
        while self.now < end:
            self.flush()
            for wire, _, to in self.wires:
                if wire.content:
                    self.travelling.append((self.now + self.delay, to, bytes(wire.content)))
                    wire.content.clear()
            while self.travelling and self.travelling[0][0] <= self.now:
                _, lane, data = self.travelling.popleft()
                lane.receive(memoryview(data), self.now)
                lane.flush(self.now)
            self.now += step


class Writer(Quiet):
    """A handler that always has more to write."""

    __slots__ = ("flow",)

    def __init__(self, flow) -> None:
        self.flow = flow

    def flow_writable(self) -> None:
        while self.flow.write(FLOOD[: 256 * 1024]):
            pass


@pytest.mark.parametrize(("round_trip", "least"), [(0.02, 200), (0.08, 100)])
def test_a_new_flow_is_fast_from_its_first_moments(round_trip: float, least: float) -> None:
    """A fixed window of 64 KiB makes 26 Mbit/s at 20 ms; ten times what the field reports is 200."""
    pair = Delayed(round_trip / 2)
    client = pair.open()
    client.flow.mux.main.ping(0.0)
    pair.advance(2.5 * round_trip)
    client.flow.handler = writer = Writer(client.flow)
    writer.flow_writable()
    before = len(pair.served[0].received)
    pair.advance(10 * round_trip)
    mbits = (len(pair.served[0].received) - before) * 8e-6 / (10 * round_trip)
    assert mbits > least


def test_the_window_grows_while_it_is_what_limits_and_stays_otherwise() -> None:
    pair = Delayed(0.01)
    fast, slow = pair.open(), pair.open()
    pair.advance(0.1)
    fast.flow.handler = Writer(fast.flow)
    fast.flow.handler.flow_writable()
    for _ in range(200):
        slow.flow.write(FLOOD[:2_000])
        pair.advance(0.01)
    assert pair.served[0].flow.window == mux.MAX_WINDOW
    assert pair.served[1].flow.window == mux.WINDOW


def test_growth_is_bounded_in_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux, "GROWTH_TOTAL", 3 * MIB)
    pair = Delayed(0.01)
    clients = [pair.open() for _ in range(3)]
    pair.advance(0.1)
    for client in clients:
        client.flow.handler = Writer(client.flow)
        client.flow.handler.flow_writable()
    pair.advance(1.0)
    assert sum(owner.flow.window for owner in pair.served) == (3 + 3) * MIB
    for client in clients:
        client.flow.reset()
    pair.advance(0.1)
    assert pair.server._grown == 0


def test_under_pressure_windows_shrink_and_new_ones_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux, "HELD_SOFT", MIB)
    pair = Pair(eager=False)
    clients = [pair.open(eager=False) for _ in range(3)]
    pair.run()
    for client in clients[:2]:
        for _ in range(5):
            client.flow.write(FLOOD[:200_000])
            pair.run()
    assert pair.server.held > MIB
    clients[2].flow.write(FLOOD[:600_000])
    pair.run()
    pair.served[2].flow.consumed(600_000)
    assert pair.served[2].flow.window < mux.WINDOW
    late = pair.open()
    pair.run()
    assert pair.served[3].flow.window == mux.SMALL_WINDOW
    assert late.flow.credit == mux.SMALL_WINDOW


def test_too_much_that_nobody_reads_costs_the_flow_that_holds_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux_input, "HELD_HARD", MIB)
    pair = Pair(eager=False)
    hoarder, modest = pair.open(eager=False), pair.open(eager=False)
    pair.run()
    for client, times in ((modest, 2), (hoarder, 7), (modest, 2)):
        for _ in range(times):
            client.flow.write(FLOOD[:100_000])
            pair.run()
    assert pair.server.shed_flows == 1
    assert hoarder.log[-1] == pair.served[0].log[-1] == "reset"
    assert not modest.flow.gone
    assert pair.server.held <= MIB


def test_what_waits_to_be_sent_is_bounded_in_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux, "PENDING_SOFT", MIB)
    monkeypatch.setattr(mux, "PENDING_HARD", 2 * MIB)
    pair = Pair()
    clients = [pair.open() for _ in range(500)]
    pair.run()
    pair.up.room = 0
    sizes = []
    for client in clients:
        size = client.flow.read_size()
        sizes.append(size)
        if size:
            client.flow.write(FLOOD[:size])
    assert set(sizes) == {mux.READ, mux.SMALL_READ, 0}
    assert pair.client.pending_size <= 2 * MIB + mux.SMALL_READ
    hungry = clients[sizes.index(0)]
    hungry.log.clear()
    pair.unblock()
    pair.run()
    assert hungry.log == ["writable"]


def test_many_flows_begin_with_smaller_windows() -> None:
    pair = Pair()
    windows = [pair.open().flow.window for _ in range(1200)]
    assert windows[0] == mux.WINDOW and windows[600] == mux.WINDOW // 4 and windows[-1] == mux.SMALL_WINDOW
