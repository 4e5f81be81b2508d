"""Throws frames that a hostile peer might send at both ends of a mux, one and two lanes, cut at random.

    python tests/fuzz/fuzz_tunnel.py [--inputs 1000000] [--seed 0]

Anything but `ProtocolError` and `PeerClosed` is a finding, and so is a bound that does not hold. The
seed of the input is printed: `--seed N --inputs 1` repeats it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from inroad.core import frames
from inroad.core.flows import Quiet, Refusal
from inroad.core.frames import ProtocolError
from inroad.core.lane import Lane
from inroad.core.mux import Mux
from inroad.core.mux_flow import MuxFlow
from inroad.core.mux_input import PeerClosed

WINDOW = 2000
FLOWS = 4
OUTPUT = 64 * 1024
"""What a peer may make us say with one input; inputs are some kilobytes."""


class Victim:
    """One end, with an owner that accepts, refuses, answers, consumes or resets as the dice fall."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.said = 0
        self.mux = Mux(
            client=dice.random() < 0.5, send=self.take, wake=lambda: None, window=WINDOW, max_flows=FLOWS
        )
        self.mux.on_open = self.on_open
        self.mux.on_handler_error = self.failed
        self.lanes = [self.mux.main]
        if dice.random() < 0.5:
            other = Mux(client=True, send=self.take, wake=lambda: None)
            self.mux.add_bulk(other.main)
            self.lanes.append(other.main)
        for _ in range(dice.randrange(3)):
            owner = Owner(self)
            owner.flow = self.mux.open(b"request", owner)
        self.lanes[0].ping(0.0)

    def failed(self, error: Exception) -> None:
        raise AssertionError("a handler of the fuzzer failed") from error

    def take(self, parts) -> int:
        size = sum(map(len, parts))
        self.said += size
        return size if self.dice.random() < 0.9 else self.dice.randrange(size + 1)

    def on_open(self, flow: MuxFlow, request: bytes) -> Owner:
        assert len(request) <= frames.MAX_REQUEST
        owner = Owner(self, flow)
        fate = self.dice.random()
        if fate < 0.7:
            flow.accept()
        elif fate < 0.8:
            flow.refuse(Refusal.REFUSED, "no")
        return owner

    def receive(self, lane: Lane, data: bytes) -> None:
        lane.receive(memoryview(data), 1.0)
        for one in self.lanes:
            one.writable(1.0)

    def check(self) -> None:
        mux = self.mux
        assert mux.peer_flows <= FLOWS
        assert len(mux.flows) <= FLOWS + 3
        assert 0 <= mux.held <= WINDOW * 8 * (len(mux.flows) + 40)
        assert self.said <= OUTPUT
        for flow in mux.flows.values():
            assert 0 <= flow.receive_credit <= flow.window
            assert flow.held >= 0 and 0 <= flow.credit <= frames.MAX_CREDIT
            assert sum(len(data) for _, data in flow.parked or ()) <= flow.window
            assert len(flow.parked or ()) <= 20


class Owner(Quiet):
    __slots__ = ("flow", "victim")

    def __init__(self, victim: Victim, flow: MuxFlow | None = None) -> None:
        self.victim = victim
        self.flow = flow

    def flow_data(self, data) -> None:
        assert len(data)
        flow, dice = self.flow, self.victim.dice
        fate = dice.random()
        if fate < 0.5:
            flow.consumed(len(data))
        elif fate < 0.6:
            flow.write(b"x" * dice.randrange(100))
        elif fate < 0.65:
            flow.reset()

    def flow_eof(self) -> None:
        if self.victim.dice.random() < 0.5:
            self.flow.write_eof()


class Peer:
    """Says mostly what it may; now and then a wrong id, type, length or payload."""

    def __init__(self, dice: random.Random, ours: int) -> None:
        self.dice = dice
        self.next_id = 2 if ours & 1 else 1
        self.theirs = list(range(1 if ours & 1 else 2, ours, 2))
        self.known: list[int] = []

    def frame(self) -> bytes:
        dice = self.dice
        if dice.random() < 0.02:
            kind, flow_id = dice.randrange(14), dice.choice((0, 1, 2, 3, 4, 4_000_000_000))
            payload = dice.randbytes(dice.choice((0, 1, 4, 8, 30)))
        else:
            kind, flow_id, payload = self.honest()
        size = len(payload)
        if dice.random() < 0.003:
            size = dice.choice((0, size + 1, 70_000, frames.MAX_LENGTH))
        return frames.pack_header(flow_id, kind << 24 | size) + payload

    def honest(self) -> tuple[int, int, bytes]:
        dice = self.dice
        kinds = [frames.OPEN, frames.CONTROL, frames.PING]
        kinds += [frames.OPENED, frames.REFUSED] * bool(self.theirs)
        kinds += (
            [frames.DATA] * 6 + [frames.CREDIT, frames.DATAGRAM, frames.FIN, frames.RESET]
            if self.known
            else []
        )
        kinds += [frames.LANE] * 2 if self.known else []
        kind = dice.choice(kinds)
        if kind in (frames.CONTROL, frames.PING):
            return kind, 0, bytes(8)
        if kind == frames.OPEN:
            self.known.append(self.next_id)
            self.next_id += 2
            return kind, self.known[-1], bytes(3) + b"\xff" + bytes(dice.randrange(50))
        if kind in (frames.OPENED, frames.REFUSED):
            flow_id = self.theirs.pop()
            if kind == frames.REFUSED:
                return kind, flow_id, bytes((dice.randrange(12),)) + b"text"
            self.known.append(flow_id)
            return kind, flow_id, bytes(2) + b"\x10\x00"
        flow_id = dice.choice(self.known)
        if kind in (frames.FIN, frames.RESET) and dice.random() < 0.9:
            self.known.remove(flow_id)
        if kind == frames.CREDIT:
            return kind, flow_id, dice.choice((1, 100, 5000)).to_bytes(4, "big")
        empty = kind in (frames.RESET, frames.LANE)
        return kind, flow_id, b"" if empty else bytes(dice.choice((0, 1, 5, 40, 400)))


def one(seed: int) -> bool:
    """Run one input; whether the peer was cut off."""
    dice = random.Random(seed)
    victim = Victim(dice)
    streams = [bytearray() for _ in victim.lanes]
    peer = Peer(dice, victim.mux.next_id)
    for _ in range(dice.randrange(1, 25)):
        streams[0 if dice.random() < 0.8 else -1].extend(peer.frame())
    try:
        while any(streams):
            index = dice.randrange(len(streams))
            size = dice.choice((1, 7, 8, 9, 100, 5000))
            piece, streams[index] = bytes(streams[index][:size]), streams[index][size:]
            victim.receive(victim.lanes[index], piece)
            victim.check()
    except (ProtocolError, PeerClosed):
        victim.check()
        return True
    return False


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start, cut = time.monotonic(), 0
    for seed in range(options.seed, options.seed + options.inputs):
        try:
            cut += one(seed)
        except Exception:
            print(f"finding: --seed {seed} --inputs 1", file=sys.stderr)
            raise
    took = time.monotonic() - start
    print(f"tunnel decoder: {options.inputs} inputs, {cut} cut off, {took:.0f} s, no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main())
