"""The sandbox's workstation on a narrow cable, with its bulk lane and without."""

from __future__ import annotations

import time

from bench.places import BenchFailed, Place, narrow

API_PORT = 6443


def narrow_cable(workstation: Place, control_plane: Place, mbit: int) -> None:
    """Shape the way between workstation and API server, each direction."""
    narrow(workstation, "eth0", mbit)
    narrow(control_plane, "office0", mbit)


def cut_bulk_lane(workstation: Place) -> None:
    """End the later one of the daemon's two connections with the API server, as a firewall would."""
    wait_for_forwards(workstation, 2)
    rule = f"tcp sport {max(forwards(workstation))} reject with tcp reset"
    workstation.run(
        "nft", f"table ip bench {{ chain cut {{ type filter hook output priority 0; {rule}; }}; }}"
    )
    wait_for_forwards(workstation, 1)  # the next PING meets the rule


def wait_for_forwards(workstation: Place, count: int, timeout: float = 20.0) -> None:
    """Return when the daemon has so many connections with the API server."""
    deadline = time.monotonic() + timeout
    while len(found := forwards(workstation)) != count:
        if time.monotonic() > deadline:
            raise BenchFailed(f"the daemon has {len(found)} connections with the API server, not {count}")
        time.sleep(0.1)


def forwards(workstation: Place) -> list[int]:
    """Return the local ports of the daemon's connections with the API server, all of them port-forwards."""
    lines = workstation.run("ss", "-Htn", "state", "established", "dport", "=", f":{API_PORT}").splitlines()
    return [int(line.split()[2].rpartition(":")[2]) for line in lines]
