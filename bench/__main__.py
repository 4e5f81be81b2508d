"""`python -m bench`: open all paths, measure them in turn, print the table."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from bench import agents, cluster, fleet
from bench.measures import MEASURES as PLAIN_MEASURES
from bench.measures import Measure, Row
from bench.paths import PATHS as PLAIN_PATHS
from bench.places import BenchFailed, Slow
from bench.report import Values, document, table
from bench.scenes import ONLY_HERE, SCENES, Scene

PATHS = PLAIN_PATHS | agents.PATHS
MEASURES = (*PLAIN_MEASURES, agents.SWITCH, fleet.FLEET)
RESULTS = Path(__file__).parent / "results"
CLUSTER = "cluster"
"""The measure that has no paths: the traffic-manager's own part, on a generated cluster."""
EVENTS, CHANGES = 10_000, 200
"""Enough of them for a median and a 99th percentile; `python -m bench.cluster` alone takes more."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measure inroad beside other paths.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--paths", default=",".join(PATHS), help="some of %(default)s")
    measures = (*(measure.name for measure in MEASURES), *(scene.name for scene in SCENES), CLUSTER)
    names = ",".join(measures)
    parser.add_argument("--measures", default=names, help="some of %(default)s")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> tuple[list[str], list[Measure], list[Scene]]:
    """Return the paths, measures and scenes that were asked for; raises `BenchFailed` for unknown ones."""
    paths, names = options.paths.split(","), options.measures.split(",")
    measures = {measure.name: measure for measure in MEASURES}
    scenes = {scene.name: scene for scene in SCENES}
    known = measures.keys() | scenes.keys() | {CLUSTER}
    unknown = [name for name in paths if name not in PATHS] + [name for name in names if name not in known]
    if unknown:
        raise BenchFailed(f"unknown: {', '.join(unknown)}")
    found = [measures[name] for name in names if name in measures]
    return paths, found, [scenes[name] for name in names if name in scenes]


class Run:
    """One run: what was asked for, and every value so far."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self.options = options
        self.directory = directory
        self.paths, self.measures, self.scenes = chosen(options)
        self.values: Values = {}
        self.notes: dict[str, str] = {}
        self.cluster: dict[str, float] = {}

    @property
    def rows(self) -> list[Row]:
        """The rows of all that is measured, in order."""
        measures = [*self.measures, *(scene.measure for scene in self.scenes)]
        return [row for measure in measures for row in measure.rows]

    def measure(self, paths: list[str], measures: list[Measure], slow: Slow | None, seconds: int) -> None:
        """Open the paths and measure each in every round, beginning with another one each time."""
        with contextlib.ExitStack() as stack:
            ways = [stack.enter_context(PATHS[name](self.directory, slow)) for name in paths]
            for way in ways:
                self.notes.setdefault(way.name, way.note)
            for number, measure in itertools.product(range(self.options.rounds), measures):
                for offset in range(len(ways)):
                    way = ways[(offset + number) % len(ways)]
                    if not measure.applies(way):
                        continue
                    for key, value in measure.run(way, seconds, self.directory).items():
                        self.values.setdefault(key, {}).setdefault(way.name, []).append(value)
                print(f"bench: {measure.name}, round {number + 1}", file=sys.stderr, flush=True)

    def all(self) -> None:
        """Measure everything."""
        if self.measures:
            paths = [name for name in self.paths if name not in ONLY_HERE]
            self.measure(paths, self.measures, None, self.options.seconds)
        for scene in self.scenes:
            paths = [name for name in self.paths if name in scene.paths]
            self.measure(paths, [scene.measure], scene.slow, self.options.seconds + scene.extra_seconds)
        if CLUSTER in self.options.measures.split(","):
            self.cluster = cluster.measured(events=EVENTS, changes=CHANGES)
            print(f"bench: {CLUSTER}", file=sys.stderr, flush=True)


def interrupt(number: int, frame: object) -> NoReturn:
    """Leave through the context managers."""
    raise KeyboardInterrupt


def main() -> int:
    """Measure and print; 0 when all could be measured, 130 with what there is when interrupted."""
    options = arguments()
    if os.geteuid() != 0:
        print("bench: root is needed to make network namespaces", file=sys.stderr)
        return 10
    signal.signal(signal.SIGTERM, interrupt)
    interrupted = False
    try:
        with tempfile.TemporaryDirectory(prefix="inroad-bench-") as scratch:
            run = Run(options, Path(scratch))
            try:
                run.all()
            except KeyboardInterrupt:
                interrupted = True
    except BenchFailed as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 1
    rows = [row for row in run.rows if row.key in run.values]
    if rows:
        print(table(rows, run.paths, run.notes, run.values))
    print(cluster.text(run.cluster))
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    told = document(rows, run.paths, run.notes, run.values) | {"seconds": options.seconds}
    told |= {"cluster": {"figures": run.cluster, "limits": cluster.LIMITS}} if run.cluster else {}
    file.write_text(json.dumps(told, indent=2) + "\n")
    print(f"All numbers: {file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}")
    return 130 if interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
