"""Entry point of the packet loop's process: `python -I -m inroad.host.vif.worker_linux CONFIG`.

CONFIG is JSON: `events` and `datagrams` (descriptors of the two SEQPACKET pairs), `parent` (pid),
`plane`, `name`, `mtu`, `addresses`. It answers READY with the listeners' descriptors, or FAILED with an
error's code, message and remedy. It ends when the daemon closes its ends. It imports little.
"""

from __future__ import annotations

import gc
import json
import signal
import socket
import sys

from inroad.core.errors import HostChangeFailed, InroadError
from inroad.host.vif import loop_linux, namespace_linux, one_tun_linux, tun_linux, veth_linux, wire

assert sys.platform == "linux"  # noqa: S101


OPENERS = {"veth": veth_linux.open_veth, "tun": tun_linux.open_two, "one-tun": one_tun_linux.open_one}


def main() -> int:
    """Open the devices, say so, and work."""
    config = json.loads(sys.argv[1])
    # Ctrl-C in the daemon's terminal is the daemon's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    namespace_linux.die_with_parent(config["parent"])
    events = socket.socket(fileno=config["events"])
    datagrams = socket.socket(fileno=config["datagrams"])
    try:
        opened = OPENERS[config["plane"]](config["name"], config["mtu"], config["addresses"])
    except (InroadError, OSError) as problem:
        error = (
            problem
            if isinstance(problem, InroadError)
            else HostChangeFailed(f"the VIF can't be made: {problem}")
        )
        body = json.dumps([error.code, error.message, error.remedy]).encode()
        events.send(wire.record(wire.FAILED, 0, body))
        return 1
    events.setblocking(False)
    datagrams.setblocking(False)
    ready = json.dumps({"notes": opened.notes, "mtu": opened.mtu}).encode()
    socket.send_fds(events, [wire.record(wire.READY, 0, ready)], [sock.fileno() for sock in opened.listeners])
    for sock in opened.listeners:
        sock.close()
    gc.freeze()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        loop_linux.PacketLoop(opened, events, datagrams).run()
    finally:
        opened.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
