"""UDP measured from outside: `python -m bench.udp_tool echo PORT` answers, `... ask HOST PORT SECONDS` asks.

`ask` sends a datagram of 64 bytes, waits for it to come back, and prints round trips per second.
`flood HOST PORT SECONDS RATE` sends datagrams of 1,200 bytes, which `echo` only counts, and
prints how many were sent and how many arrived.
"""

from __future__ import annotations

import json
import socket
import sys
import time

SIZE = 1200
REPORT = b"report"


def echo(port: int) -> None:
    """Answer for ever."""
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind(("", port))
    buffer = bytearray(65_536)
    received = 0
    while True:
        size, sender = sock.recvfrom_into(buffer)
        if size != SIZE:
            if buffer[:size] == REPORT:
                sock.sendto(str(received).encode(), sender)
                received = 0
            else:
                sock.sendto(buffer[:size], sender)
        else:
            received += 1


def ask(host: str, port: int, seconds: float) -> float:
    """Return round trips per second; a lost datagram is sent again after a second."""
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.settimeout(1)
    sock.connect((host, port))
    payload, trips = b"x" * 64, 0
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        sock.send(payload)
        try:
            sock.recv(2048)
        except TimeoutError:
            continue
        trips += 1
    return trips / (time.monotonic() - begin)


def flood(host: str, port: int, seconds: float, rate: float) -> dict[str, float]:
    """Send at `rate` datagrams a second; returns how many were sent and how many arrived."""
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    sock.connect((host, port))
    sock.settimeout(2)
    sock.send(REPORT)  # forget what came before
    sock.recv(64)
    payload, sent = b"x" * SIZE, 0
    begin = time.monotonic()
    while (elapsed := time.monotonic() - begin) < seconds:
        for _ in range(int(elapsed * rate) - sent):
            sock.send(payload)
            sent += 1
        time.sleep(0.0005)
    time.sleep(0.3)  # what is on its way
    sock.send(REPORT)
    return {"sent": sent, "received": int(sock.recv(64)), "rate": sent / elapsed}


def main() -> None:
    """Run one of the three."""
    verb, *rest = sys.argv[1:]
    if verb == "echo":
        echo(int(rest[0]))
    elif verb == "ask":
        print(ask(rest[0], int(rest[1]), float(rest[2])))
    else:
        print(json.dumps(flood(rest[0], int(rest[1]), float(rest[2]), float(rest[3]))))


if __name__ == "__main__":
    main()
