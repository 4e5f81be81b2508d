"""Measures of a session in the sandbox: how long connecting takes, and following the cluster."""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path

from bench.paths import INROAD, Way
from bench.places import BenchFailed

CONNECTS = 3
CHANGES_PER_SECOND = 20
_STEP = re.compile(r"^ *(\d+) ms  (.+)$", re.MULTILINE)


def connect(way: Way, seconds: int, directory: Path) -> dict[str, float]:
    """Measure `inroad connect` from the command to its end, and how long the changes to the host take.

    The daemon is started anew each time, as for a user who connects in the morning.
    """
    del seconds, directory
    if way.name != "sandbox":
        return {}
    inroad = " ".join(INROAD)
    script = f"{inroad} quit >/dev/null; date +%s%N; {inroad} connect -n shop 2>&1; date +%s%N"
    found: dict[str, list[float]] = {"connect": [], "connect_host": []}
    for _ in range(CONNECTS):
        text = way.client.run("sh", "-c", script)
        lines = text.splitlines()
        steps = {words: int(at) for at, words in _STEP.findall(text)}
        begun = [at for words, at in steps.items() if words.startswith("leading the cluster's names")]
        ended = [at for words, at in steps.items() if words.startswith("looking up and dialling")]
        if not begun or not ended or not lines[-1].isdigit():
            raise BenchFailed(f"inroad connect told no steps: {text[-300:]}")
        found["connect"].append((int(lines[-1]) - int(lines[0])) / 1e6)
        found["connect_host"].append(ended[0] - begun[0])
    return {key: statistics.median(values) for key, values in found.items()}


def node_changes(way: Way, seconds: int, directory: Path) -> dict[str, float]:
    """Measure how long a node's coming and going takes to become a route here."""
    del directory
    if way.name != "sandbox":
        return {}
    argv = (sys.executable, "-m", "bench.node_changes", str(seconds * CHANGES_PER_SECOND))
    took = sorted(json.loads(way.client.run(*argv)))
    return {"node_p50": statistics.median(took), "node_p99": took[-(len(took) // 100) - 1]}
