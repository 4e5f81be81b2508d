"""`python -m tests.e2e.cluster up|down|exec|status`: the test cluster by hand."""

from __future__ import annotations

import argparse
import sys

from tests.e2e.cluster import cluster as clusters
from tests.e2e.cluster.build import BuildFailed, binaries
from tests.e2e.cluster.machine import MachineFailed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.cluster", description=__doc__)
    parser.add_argument("--name", default="e2e")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="compile the programs (once per machine)")
    up = commands.add_parser("up", help="bring the cluster up; prints its kubeconfig")
    up.add_argument("--nodes", type=int, default=2)
    commands.add_parser("down", help="remove it")
    commands.add_parser("status", help="list its machines and programs")
    run = commands.add_parser("exec", help="run a command on a machine")
    run.add_argument("--in", dest="machine", default=clusters.WORKSTATION)
    run.add_argument("argv", nargs=argparse.REMAINDER)
    return parser.parse_args()


def _status(name: str) -> int:
    for machine in clusters.load(name).machines.values():
        print(f"{machine.name}: {'up' if machine.alive() else 'GONE'}, process {machine.pid}")
        for program in machine.programs.values():
            print(f"  {program.name}: {'running' if program.alive() else 'ENDED'}, {program.log}")
    return 0


def main() -> int:
    """Run one command; returns the exit status."""
    arguments = _arguments()
    try:
        if arguments.command == "build":
            print(binaries())
        elif arguments.command == "up":
            print(clusters.up(arguments.name, node_count=arguments.nodes).kubeconfig)
        elif arguments.command == "down":
            clusters.down(arguments.name)
        elif arguments.command == "status":
            return _status(arguments.name)
        else:
            argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
            return clusters.execute(clusters.load(arguments.name), arguments.machine, argv)
    except (MachineFailed, BuildFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
