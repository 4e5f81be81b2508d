"""The mux beside a slow, obvious model: a list of bytes for each direction of each flow, and no frames.

Hypothesis chooses what both owners do and how the wires behave. Whatever happens, each owner must have
been told what the model says, in that order, and the books about credit and memory must balance.
"""

from __future__ import annotations

from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_mux import FLOOD, Owner, Pair

from inroad.core import mux_flow
from inroad.core.flows import Refusal

WINDOW = 3_000


class Direction:
    """What one end said to the other, in the model."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.ended = False


class Call:
    """One flow in the model: two directions, and whether somebody cut it short."""

    def __init__(self, client: Owner) -> None:
        self.client = client
        self.server: Owner | None = None
        self.said = {"client": Direction(), "server": Direction()}
        self.refused = False
        self.reset_by: set[str] = set()

    def end(self, side: str) -> Owner | None:
        return self.client if side == "client" else self.server


MOST_CALLS = 3
RARELY = st.sampled_from([False] * 11 + [True])
SIDES = st.sampled_from(["client", "server"])


class MuxMachine(RuleBasedStateMachine):
    @initialize(lanes=st.integers(1, 2))
    def begin(self, lanes: int) -> None:
        self.patch = mock.patch.object(mux_flow, "BULK_AFTER", 2_000)  # else no flow would change lanes
        self.patch.start()
        self.pair = Pair(eager=False, accept=False, window=WINDOW)
        if lanes == 2:
            self.pair.add_bulk()
        self.calls: list[Call] = []
        self.connect()

    def pick(self, data: st.DataObject) -> Call:
        return data.draw(st.sampled_from(self.calls))

    @precondition(lambda self: len(self.calls) < MOST_CALLS)
    @rule()
    def open(self) -> None:
        self.calls.append(Call(self.pair.open(b"%d" % len(self.calls), eager=False)))

    @precondition(lambda self: len(self.calls) < MOST_CALLS)
    @rule()
    def connect(self) -> None:
        """Open, and let the far side accept: most of what follows needs a flow that is open."""
        self.open()
        self.settle()
        self.calls[-1].server.flow.accept()
        self.settle()

    @rule()
    def settle(self) -> None:
        """Carry what the wires took, and let them take everything."""
        self.pair.unblock()
        self.pair.run()
        self.meet()

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), refuse=RARELY)
    def answer(self, data: st.DataObject, refuse: bool) -> None:
        call = self.pick(data)
        if call.server is None or call.server.flow.opened or call.server.flow.gone:
            return
        if refuse:
            call.refused = True
            call.server.flow.refuse(Refusal.REFUSED, "no")
        else:
            call.server.flow.accept()

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), side=SIDES, size=st.sampled_from([0, 1, 900, 2_000, 9_000]), eof=RARELY)
    def write(self, data: st.DataObject, side: str, size: int, eof: bool) -> None:
        call = self.pick(data)
        end, said = call.end(side), call.said[side]
        if end is None or end.flow.gone or said.ended or (side == "server" and not end.flow.opened):
            return
        end.flow.write(FLOOD[:size], eof)
        said.sent += FLOOD[:size]
        said.ended = eof

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), side=SIDES, really=RARELY)
    def reset(self, data: st.DataObject, side: str, really: bool) -> None:
        call = self.pick(data)
        end = call.end(side)
        if really and end is not None and not end.flow.gone:
            end.flow.reset()
            call.reset_by.add(side)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), size=st.sampled_from([1, WINDOW // 2, WINDOW]))
    def read(self, data: st.DataObject, size: int) -> None:
        call = self.pick(data)
        for end in (call.client, call.server):
            if end is not None:
                end.flow.consumed(size)

    @rule(data=st.data(), size=st.integers(1, 4_000))
    def carry(self, data: st.DataObject, size: int) -> None:
        wire, _, to = data.draw(st.sampled_from(self.pair.wires))
        self.pair.carry(wire, to, size)
        self.meet()

    @rule(data=st.data(), room=st.integers(0, 20_000))
    def give_room(self, data: st.DataObject, room: int) -> None:
        wire, sender, _ = data.draw(st.sampled_from(self.pair.wires))
        wire.room = room
        sender.writable(self.pair.now)

    @rule(seconds=st.floats(0, 4))
    def wait(self, seconds: float) -> None:
        self.pair.now += seconds
        self.pair.flush()
        for mux in (self.pair.client, self.pair.server):
            mux.tick(self.pair.now)

    def meet(self) -> None:
        """Tell the calls which end the server made for them."""
        for owner, request in zip(self.pair.served, self.pair.requests, strict=True):
            self.calls[int(request)].server = owner

    @invariant()
    def owners_were_told_the_truth(self) -> None:
        for call in getattr(self, "calls", []):
            for side, other in (("client", "server"), ("server", "client")):
                end, said = call.end(side), call.said[other]
                if end is None:
                    continue
                assert said.sent.startswith(end.received)
                if "eof" in end.log:
                    assert said.ended and end.received == said.sent
                if "reset" in end.log:
                    assert other in call.reset_by
                if end.log and end.log[-1] == "reset":
                    assert end.flow.gone

    @invariant()
    def the_books_balance(self) -> None:
        for mux in (self.pair.client, self.pair.server) if hasattr(self, "pair") else ():
            flows = mux.flows.values()
            assert mux.pending_size == sum(flow.pending_size for flow in flows)
            assert mux.held >= sum(flow.held for flow in flows)
            assert mux.peer_flows == sum(not flow.ours for flow in flows)
            for flow in flows:
                if not flow.eof_received:
                    assert flow.receive_credit + flow.held + flow.owed + self.coming(flow) == flow.window

    def coming(self, flow) -> int:
        """Bytes of a frame that has begun to arrive: paid for, and not yet handed on."""
        lanes = [flow.mux.main, *([flow.mux.bulk] if flow.mux.bulk else [])]
        inputs = [lane.receive.__self__ for lane in lanes]
        return sum(each._left for each in inputs if each._left_flow is flow)

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            try:
                self.finish()
            finally:
                self.patch.stop()

    def finish(self) -> None:
        """Once everybody reads and the wires are free, every call ends as the model says."""
        pair = self.pair
        pair.unblock()
        while True:
            pair.run()
            self.meet()
            before = [len(end.received) for call in self.calls for end in (call.client, call.server) if end]
            for call in self.calls:
                for end in (call.client, call.server):
                    if end is None:
                        continue
                    if end is call.server and not end.flow.opened:
                        end.flow.accept()
                    end.flow.consumed(1 << 30)
            pair.run()
            after = [len(end.received) for call in self.calls for end in (call.client, call.server) if end]
            if before == after:
                break
        for call in self.calls:
            if call.refused or call.reset_by:
                assert call.client.flow.gone and (call.server is None or call.server.flow.gone)
                continue
            assert call.client.received == call.said["server"].sent
            assert call.server.received == call.said["client"].sent
            assert ("eof" in call.client.log) == call.said["server"].ended
            assert ("eof" in call.server.log) == call.said["client"].ended
        assert not pair.errors


TestMuxMachine = MuxMachine.TestCase
TestMuxMachine.settings = settings(max_examples=150, stateful_step_count=80, deadline=None)
