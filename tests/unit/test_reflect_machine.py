"""Held and reflected connections under random histories, beside a model that is slow and obvious.

The model keeps every flow that ever was in a list and looks through it each time. It knows nothing of
tables, slots, timers or packets; after each step both must have said and sent the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import packet_reference as reference
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from packet_reference import ACK, FIN, PSH, RST, SYN, Segment

from inroad.core import held
from inroad.core.held import Syn
from inroad.core.packet_path import FORWARD, PacketPath
from inroad.core.reflect import LINGER, Plan, Reflector, fast

PORT = 15_700
PAIRS = [
    (bytes((246, 246, 0, 1)), bytes((10, 96, 0, 5))),
    (bytes.fromhex("fd000000000002460000000000000001"), bytes.fromhex("fd000010009600000000000000000005")),
]


@dataclass
class ModelFlow:
    """One connection as a person would describe it."""

    number: int
    tuple: int  # which of the application's tuples
    isn: int
    state: str = "held"  # held, opening, open, closed, gone
    until: float = 0.0
    last_syn: float = 0.0
    fin_app: bool = False
    fin_listener: bool = False


class Model:
    def __init__(self) -> None:
        self.flows: list[ModelFlow] = []
        self.now = 0.0
        self.said: list[tuple[str, int]] = []

    def of(self, which: int) -> ModelFlow | None:
        living = [flow for flow in self.flows if flow.tuple == which and flow.state != "gone"]
        assert len(living) <= 1
        return living[0] if living else None

    def cancel(self, flow: ModelFlow) -> None:
        self.said.append(("cancelled", flow.number))
        flow.state = "gone"

    def syn(self, which: int, isn: int) -> str:
        """Return what becomes of it: swallowed or passed."""
        flow = self.of(which)
        if flow is not None and flow.isn == isn:
            if flow.state != "held":
                return "passed"
            flow.until = self.now + 2 * max(self.now - flow.last_syn, 1.0) + 0.6
            flow.last_syn = self.now
            return "swallowed"
        if flow is not None and flow.state == "open":
            return "passed"
        if flow is not None and flow.state == "closed":
            flow.state = "gone"
        elif flow is not None:
            self.cancel(flow)
        number = len(self.flows) + 1
        self.flows.append(ModelFlow(number, which, isn, until=self.now + 1.6, last_syn=self.now))
        self.said.append(("syn", number))
        return "swallowed"

    def segment(self, which: int, flags: int, from_app: bool) -> str:
        """Return passed, swallowed or reset (a RST answers)."""
        flow = self.of(which)
        if flow is None:
            return "swallowed" if flags & RST else "reset"
        if flow.state == "held":
            if flags & RST:
                self.cancel(flow)
            return "swallowed"
        if flow.state == "opening":
            if flags & RST:
                self.said.append(("cancelled", flow.number))
            elif from_app and flags & ACK:
                flow.state = "open"
        if flags & FIN:
            flow.fin_app |= from_app
            flow.fin_listener |= not from_app
        if flags & RST or (flow.fin_app and flow.fin_listener):
            flow.state = "closed"
        if flow.state == "closed":
            flow.until = self.now + LINGER
        return "passed"

    def wait(self, seconds: float) -> int:
        """Return how many flows were reset on both sides meanwhile."""
        resets = 0
        self.now += seconds
        for flow in sorted(self.flows, key=lambda flow: flow.until):
            # It may take up to a tick to be noticed; histories below never land in between.
            if flow.until > self.now:
                continue
            if flow.state == "opening":
                resets += 1
            if flow.state in ("held", "opening"):
                self.cancel(flow)
            elif flow.state == "closed":
                flow.state = "gone"
        return resets


class Histories(RuleBasedStateMachine):
    """Random histories of three tuples of one application."""

    @initialize(pair=st.sampled_from(PAIRS))
    def begin(self, pair: tuple[bytes, bytes]) -> None:
        self.tcp = Reflector(Plan(PORT), {})
        self.path = PacketPath(self.tcp, 1500)
        self.model = Model()
        self.pair = pair
        self.listener_tuple: dict[int, Segment] = {}

    def app_segment(self, which: int, flags: int, **other: object) -> Segment:
        return Segment(*self.pair, 40_000 + which // 2, 80 + which % 2, flags=flags, **other)

    def send(self, segment: Segment, from_app: bool) -> Segment | None:
        raw = segment.pack()
        packet = bytearray(raw) + bytes(100)
        ways = self.tcp.app_ways if from_app else self.tcp.listener_ways
        slow = self.path.from_app if from_app else self.path.from_listener
        if fast(ways, memoryview(packet), len(raw)) or slow(packet, len(raw), self.model.now) == FORWARD:
            return reference.read_tcp(packet[: len(raw)])
        return None

    def agree(self) -> None:
        said = [("syn", e.number) if isinstance(e, Syn) else ("cancelled", e) for e in self.tcp.events]
        for event in self.tcp.events:
            if isinstance(event, Syn):
                plan = self.tcp.plan
                version = 4 if len(self.pair[0]) == 4 else 6
                self.listener_tuple[event.number] = Segment(
                    event.peer, plan.listener(version), event.peer_port, PORT, flags=0
                )
        assert sorted(said) == sorted(self.model.said)
        self.tcp.events.clear()
        self.model.said.clear()

    def answers(self, expected: str, seen: Segment | None, out: list[bytes]) -> None:
        assert (seen is not None) == (expected == "passed")
        assert len(out) == (expected == "reset")
        for packet in out:
            assert reference.read_tcp(packet).flags & RST
        out.clear()
        self.agree()

    @rule(which=st.integers(0, 2), isn=st.integers(0, 1))
    def application_asks(self, which: int, isn: int) -> None:
        expected = self.model.syn(which, isn)
        flow = self.model.of(which)
        seen = self.send(self.app_segment(which, SYN, seq=isn), from_app=True)
        self.answers(expected, seen, self.tcp.to_app)
        if seen is not None:
            self.check_mapping(flow, seen)

    @rule(which=st.integers(0, 2), flags=st.sampled_from([ACK, ACK | PSH, ACK | FIN, RST, RST | ACK]))
    def application_says(self, which: int, flags: int) -> None:
        flow = self.model.of(which)
        expected = self.model.segment(which, flags, from_app=True)
        seen = self.send(self.app_segment(which, flags, data=b"x"), from_app=True)
        self.answers(expected, seen, self.tcp.to_app)
        if seen is not None:
            self.check_mapping(flow, seen)

    @precondition(lambda self: self.listener_tuple)
    @rule(data=st.data(), flags=st.sampled_from([SYN | ACK, ACK | PSH, ACK | FIN, RST]))
    def listener_says(self, data: st.DataObject, flags: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.listener_tuple)))
        flow = self.model.flows[number - 1]
        if flow.state in ("gone", "held"):
            expected = "swallowed" if flags & RST else "reset"
        else:
            expected = self.model.segment(flow.tuple, flags, from_app=False)
        seen = self.send(self.listener_tuple[number].answer(flags, data=b"y"), from_app=False)
        self.answers(expected, seen, self.tcp.to_listener)
        if seen is not None:
            there = self.app_segment(flow.tuple, 0)
            assert (seen.source, seen.target, seen.sport, seen.dport) == (
                there.target,
                there.source,
                there.dport,
                there.sport,
            )

    @rule(which=st.integers(0, 2))
    def application_connects(self, which: int) -> None:
        """What a random history seldom does by itself."""
        self.application_asks(which, 0)
        flow = self.model.of(which)
        assert flow is not None
        self.verdict(flow.number, held.CONNECTED)
        self.application_says(which, ACK)

    @precondition(lambda self: self.model.flows)
    @rule(data=st.data(), verdict=st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5]))
    def daemon_decides(self, data: st.DataObject, verdict: int) -> None:
        self.verdict(data.draw(st.integers(1, len(self.model.flows))), verdict)

    def verdict(self, number: int, verdict: int) -> None:
        flow = self.model.flows[number - 1]
        self.tcp.verdict(number, verdict, self.model.now)
        if flow.state != "held":
            assert not self.tcp.to_app + self.tcp.to_listener
            return
        assert len(self.tcp.to_listener) == (verdict == held.CONNECTED)
        assert len(self.tcp.to_app) == (verdict not in (held.CONNECTED, held.TIMED_OUT))
        if verdict == held.CONNECTED:
            flow.state, flow.until = "opening", self.model.now + held.OPENING_LIMIT
            self.check_mapping(flow, reference.read_tcp(self.tcp.to_listener[0]))
        else:
            flow.state = "gone"
        self.tcp.to_app.clear()
        self.tcp.to_listener.clear()

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 1.1, 3.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        # Deadlines are noticed within a tick: leave more than that after every one.
        before = self.model.now
        resets = self.model.wait(seconds)
        now = before
        while (deadline := self.path.deadline()) is not None and deadline <= self.model.now:
            now = max(now, deadline)
            self.path.tick(now)
        if any(
            abs(flow.until - self.model.now) <= held.TICK for flow in self.model.flows if flow.state != "gone"
        ):
            resets += self.model.wait(held.TICK * 1.5)
        self.path.tick(self.model.now + held.TICK)
        assert (len(self.tcp.to_app), len(self.tcp.to_listener)) == (resets, resets)
        self.tcp.to_app.clear()
        self.tcp.to_listener.clear()
        self.agree()

    def check_mapping(self, flow: ModelFlow | None, seen: Segment) -> None:
        assert flow is not None
        there = self.listener_tuple[flow.number]
        assert replace(there, flags=seen.flags, seq=seen.seq, ack=seen.ack, data=seen.data) == seen

    @invariant()
    def the_tables_hold_the_living(self) -> None:
        if hasattr(self, "model"):
            living = [flow for flow in self.model.flows if flow.state != "gone"]
            assert len(self.tcp) == len(self.tcp.app_ways) == len(self.tcp.listener_ways) == len(living)
            tuples = [self.listener_tuple[flow.number] for flow in living]
            assert len(set(tuples)) == len(tuples)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
