"""Idle connections of a soak: open many, prove that each works, say so, and hold them until stdin ends.

python soak_idle.py SERVICE COUNT
"""

from __future__ import annotations

import resource
import socket
import sys

from soak_data import PORT

_, HARD = resource.getrlimit(resource.RLIMIT_NOFILE)


def main(host: str, count: int) -> None:
    """Open, prove, hold."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (HARD, HARD))
    held = []
    for number in range(count):
        sock = socket.create_connection((host, PORT), 30)
        sock.sendall(b"echo %d 0\nhello" % number)
        held.append(sock)
        if number >= 100:  # the answers of a hundred are on their way meanwhile
            answered(held[number - 100])
    for sock in held[-100:]:
        answered(sock)
    print(len(held), flush=True)
    sys.stdin.read()


def answered(sock: socket.socket) -> None:
    """Take the echo."""
    if (got := sock.recv(100)) != b"hello":
        raise SystemExit(f"{got!r} came back")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
