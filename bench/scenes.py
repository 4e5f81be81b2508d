"""Cables that are not fast: what a long way or a narrow one makes of the paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.measures import Measure, Row, beside_bulk, iperf
from bench.paths import Way
from bench.places import Slow

ONLY_HERE = ("one-lane",)
"""Paths that are measured over slow cables alone: elsewhere they are as another one."""
LONGER = 3
"""Seconds more than elsewhere, and as many of warming up: TCP needs round trips to grow."""


@dataclass(frozen=True)
class Scene:
    """A slow cable and what is measured over it, on those paths that can have one."""

    name: str
    slow: Slow
    measure: Measure
    paths: tuple[str, ...] = ("direct", "haproxy", "inroad")
    extra_seconds: int = 0


def far(milliseconds: int) -> Scene:
    """One bulk flow where the way is long."""
    key = f"tcp_{milliseconds}ms"
    row = Row(key, f"TCP one flow, {milliseconds} ms round trip", "Gbit/s")
    name = f"rtt-{milliseconds}"
    measure = Measure(name, (row,), iperf(key, warm_up=LONGER))
    return Scene(name, Slow(name, round_trip_ms=milliseconds), measure, extra_seconds=LONGER)


def narrow(mbit: int) -> Scene:
    """Small requests where a bulk flow each way fills the cable."""
    alone, beside = f"alone_{mbit}", f"beside_{mbit}"
    rows = (
        Row(alone, f"HTTP p99 on {mbit} Mbit/s, alone", "ms", more_is_better=False),
        Row(beside, f"HTTP p99 on {mbit} Mbit/s, beside bulk", "ms", more_is_better=False),
    )
    name = f"narrow-{mbit}"

    def run(way: Way, seconds: int, directory: Path) -> dict[str, float]:
        found = beside_bulk(way, seconds, directory)
        return {alone: found["alone"], beside: found["beside"]}

    paths = ("direct", "haproxy", "inroad", "sandbox", "one-lane")
    return Scene(name, Slow(name, mbit=mbit), Measure(name, rows, run), paths, extra_seconds=2)


SCENES = (far(20), far(80), narrow(20), narrow(50))
