"""A cable with a long way: `python -m bench.delay_line NEAR FAR MILLISECONDS`.

Two TUN devices of the namespace it runs in, NEAR and FAR (whoever started it may move FAR to another
namespace once `ready` was printed). What enters one leaves the other that much later, in order. Kernels
without netem have nothing for this. Packets are taken with their offload headers (up to 64 KiB each), so that
the line itself carries several Gbit/s; `make bench` shows how much beside what was measured through it.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
OFFLOADS = 0x01 | 0x02 | 0x04 | 0x08  # checksums, TSO for IPv4, for IPv6, ECN
HEADER = 10
LARGEST = 65_536 + HEADER
MAX_HELD = 64 << 20
"""Bytes on the way in one direction; beyond it the line drops, as a router would."""


def open_tun(name: str) -> int:
    """Make a TUN device that takes large segments; returns its descriptor, which does not block."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(descriptor, TUNSETVNETHDRSZ, struct.pack("i", HEADER))
    fcntl.ioctl(descriptor, TUNSETOFFLOAD, OFFLOADS)
    return descriptor


class Direction:
    """One way of the line: packets that entered `source` and are due at `sink`."""

    def __init__(self, source: int, sink: int, delay: float) -> None:
        self.source, self.sink, self.delay = source, sink, delay
        self.held: deque[tuple[float, bytes]] = deque()
        self.size = 0

    def take(self) -> None:
        """Read what is there, at most a few dozen packets."""
        for _ in range(64):
            try:
                packet = os.read(self.source, LARGEST)
            except BlockingIOError:
                return
            if self.size + len(packet) <= MAX_HELD:
                self.held.append((time.monotonic() + self.delay, packet))
                self.size += len(packet)

    def give(self, now: float) -> None:
        """Write what is due."""
        while self.held and self.held[0][0] <= now:
            _, packet = self.held.popleft()
            self.size -= len(packet)
            try:
                os.write(self.sink, packet)
            except OSError:
                continue  # the interface is down, or its queue is full: lost, as on any cable


def main() -> None:
    """Run the line until it is killed."""
    near, far = open_tun(sys.argv[1]), open_tun(sys.argv[2])
    delay = float(sys.argv[3]) / 1000
    ways = {near: Direction(near, far, delay), far: Direction(far, near, delay)}
    poll = select.epoll()
    for descriptor in ways:
        poll.register(descriptor, select.EPOLLIN)
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        for way in ways.values():
            way.give(now)
        due = min((way.held[0][0] for way in ways.values() if way.held), default=now + 1)
        for descriptor, _ in poll.poll(max(0.0, due - time.monotonic())):
            ways[descriptor].take()


if __name__ == "__main__":
    main()
