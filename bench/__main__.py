"""`python -m bench`: open all paths, measure them in turn, print the table."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from bench.measures import MEASURES, Measure
from bench.paths import PATHS, Way
from bench.places import BenchFailed
from bench.report import Values, document, table

RESULTS = Path(__file__).parent / "results"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measure inroad beside other paths.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--paths", default=",".join(PATHS), help="some of %(default)s")
    names = ",".join(measure.name for measure in MEASURES)
    parser.add_argument("--measures", default=names, help="some of %(default)s")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> tuple[list[str], list[Measure]]:
    """Return the paths and measures that were asked for; raises `BenchFailed` for unknown ones."""
    paths, names = options.paths.split(","), options.measures.split(",")
    known = {measure.name: measure for measure in MEASURES}
    unknown = [name for name in paths if name not in PATHS] + [name for name in names if name not in known]
    if unknown:
        raise BenchFailed(f"unknown: {', '.join(unknown)}")
    return paths, [known[name] for name in names]


def rounds(ways: list[Way], measures: list[Measure], options: argparse.Namespace, directory: Path) -> Values:
    """Measure every path in every round, beginning with another one each time."""
    values: Values = {}
    for number in range(options.rounds):
        for measure in measures:
            for offset in range(len(ways)):
                way = ways[(offset + number) % len(ways)]
                for key, value in measure.run(way, options.seconds, directory).items():
                    values.setdefault(key, {}).setdefault(way.name, []).append(value)
        print(f"bench: round {number + 1} of {options.rounds} done", file=sys.stderr, flush=True)
    return values


def interrupt(number: int, frame: object) -> NoReturn:
    """Leave through the context managers."""
    raise KeyboardInterrupt


def main() -> int:
    """Measure and print; 0 when all could be measured."""
    options = arguments()
    if os.geteuid() != 0:
        print("bench: root is needed to make network namespaces", file=sys.stderr)
        return 10
    signal.signal(signal.SIGTERM, interrupt)
    try:
        names, measures = chosen(options)
        with tempfile.TemporaryDirectory(prefix="inroad-bench-") as scratch, contextlib.ExitStack() as stack:
            directory = Path(scratch)
            ways = [stack.enter_context(PATHS[name](directory)) for name in names]
            values = rounds(ways, measures, options, directory)
    except BenchFailed as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 1
    rows = [row for measure in measures for row in measure.rows]
    print(table(rows, ways, values))
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.write_text(
        json.dumps(document(rows, ways, values, options.rounds, options.seconds), indent=2) + "\n"
    )
    print(f"All numbers: {file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
