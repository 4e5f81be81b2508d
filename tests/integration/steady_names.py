"""A client that asks for names a thousand times a second, and what else stories about names need."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stage import Stage

STEADY = ["web.shop.svc.cluster.local", "web.shop", "web.default.svc", "www.example"]
"""Names that mean the same whatever the tests change."""
ASKER = """
import asyncio, collections, json, socket, struct, sys, time

PATIENCE = 5.0
BURST = 20

def overflows():
    keys, values = [line.split() for line in open("/proc/net/snmp") if line.startswith("Udp:")]
    return int(dict(zip(keys, values))["RcvbufErrors"])

class Asker(asyncio.DatagramProtocol):
    def __init__(self):
        self.waiting, self.counts = {}, collections.Counter()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        name = self.waiting.pop(data[:2], None)
        answers = int.from_bytes(data[6:8], "big")
        if name is not None:
            self.counts["answered" if data[3] & 15 == 0 and answers else "refused " + name] += 1

    def error_received(self, error):
        self.counts[str(error)] += 1

async def main(server, *names):
    loop = asyncio.get_running_loop()
    asked = [b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) for name in names]
    # A socket of its own for every query, as programs do, would run out of ports: 16 take turns.
    askers = [(await loop.create_datagram_endpoint(Asker, remote_addr=(server, 53)))[1] for _ in range(16)]
    stop = asyncio.Event()
    loop.add_reader(sys.stdin, stop.set)
    print("asking", flush=True)
    number, due, before, then = 0, 0.0, overflows(), loop.time()
    while not stop.is_set():
        now = loop.time()
        due, then = min(due + (now - then) * 1000, BURST), now  # who was held up does not make up for it
        while due >= 1:
            due -= 1
            number += 1
            asker, name = askers[number % 16], number // 16 % len(names)
            ident = struct.pack("!H", number // 16 % 65536)
            asker.waiting[ident] = names[name]
            header = ident + bytes([1, 0, 0, 1, 0, 0, 0, 0, 0, 0])
            asker.transport.sendto(header + asked[name] + bytes([0, 0, 1, 0, 1]))
        await asyncio.sleep(0.001)
    end = loop.time() + PATIENCE
    while any(asker.waiting for asker in askers) and loop.time() < end:
        await asyncio.sleep(0.01)
    counts = sum((asker.counts for asker in askers), collections.Counter())
    for asker in askers:
        for name in asker.waiting.values():
            counts["no answer " + name] += 1
    print(json.dumps({"asked": number, "counts": counts, "lost": overflows() - before}), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def resolves(stage: Stage, name: str) -> bool:
    return stage.run("getent", "ahostsv4", name, status=None).returncode == 0


@contextmanager
def running(stage: Stage, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program on the workstation, as its user; its stdin and stdout are pipes."""
    line = stage.command([sys.executable, "-c", program, *arguments], "dev", "workstation")
    process = subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def asking(stage: Stage, server: str) -> Iterator[dict[str, int]]:
    """Ask a server for the steady names 1,000 times a second; the counts are in what it yields, after it."""
    counts: dict[str, int] = {}
    with running(stage, ASKER, server, *STEADY) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        yield counts
        out, err = process.communicate("stop\n", timeout=30)
        assert out, err
        report = json.loads(out)
        counts.update(report["counts"], asked=report["asked"], lost=report["lost"])


def assert_all_answered(counts: dict[str, int]) -> None:
    """Every query got its answer, but for those that the kernel had no room for on a busy machine."""
    answered, asked, lost = counts.pop("answered"), counts.pop("asked"), counts.pop("lost")
    assert all(what.startswith("no answer") for what in counts), counts
    assert asked - answered == sum(counts.values()) <= lost, (counts, lost)
