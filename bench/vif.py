"""The VIF alone, in each mode, beside a direct path and two haproxy hops: `python -m bench.vif`.

Behind the VIF stands `vif_relay`, a splice relay in place of the tunnel.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import servers
from bench.measures import MEASURES
from bench.paths import OpenPath, Way, direct, haproxy
from bench.places import BenchFailed, Slow, chain


def vif(mode: str, mtu: int = 65_535) -> OpenPath:
    """Return the path through a VIF of that mode."""

    @contextlib.contextmanager
    def path(directory: Path, slow: Slow | None = None) -> Iterator[Way]:
        del slow  # nobody asks for it here
        with chain([f"{mode}{mtu}c", f"{mode}{mtu}s"]) as (client, server), contextlib.ExitStack() as stack:
            stack.enter_context(servers.targets(server, directory))
            log = directory / f"relay-{mode}-{mtu}.log"
            argv = (sys.executable, "-m", "bench.vif_relay", mode, "198.18.0.2", str(mtu))
            stack.enter_context(client.process(*argv, log=log))
            deadline = time.monotonic() + 10
            while "ready" not in log.read_text():
                if time.monotonic() > deadline:
                    raise BenchFailed(log.read_text())
                time.sleep(0.05)
            yield Way(f"{mode}", client, "10.96.0.5")

    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--paths", default="direct,haproxy,veth,tun")
    parser.add_argument("--measures", default="", help="some of them; all where empty")
    options = parser.parse_args()
    wanted = options.measures.split(",") if options.measures else []
    values: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        known: dict[str, OpenPath] = {"direct": direct, "haproxy": haproxy}
        ways = {}
        for path in options.paths.split(","):
            mode, _, mtu = path.partition(":")
            opener = known.get(path) or vif(mode, int(mtu or 65_535))
            ways[path] = stack.enter_context(opener(directory))
        for _ in range(options.rounds):
            for measure in MEASURES:
                if measure.name == "dns" or (wanted and measure.name not in wanted):
                    continue
                for path, way in ways.items():
                    for key, value in measure.run(way, options.seconds, directory).items():
                        values.setdefault((key, path), []).append(value)
    print(f"{'':12}" + "".join(f"{path:>14}" for path in ways))
    for key in dict.fromkeys(key for key, _ in values):
        found = (values.get((key, path)) for path in ways)
        print(f"{key:12}" + "".join(f"{statistics.median(v) if v else float('nan'):14.2f}" for v in found))


if __name__ == "__main__":
    main()
