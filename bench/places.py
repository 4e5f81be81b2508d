"""Network namespaces for the benchmark, wired by veth pairs, and processes in them."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SYSCTLS = {
    "net.ipv4.tcp_tw_reuse": "1",
    "net.ipv4.ip_local_port_range": "1024 65535",
    "net.core.somaxconn": "4096",
    "net.ipv4.tcp_max_syn_backlog": "4096",
    "net.ipv4.tcp_syncookies": "0",
}
"""The same for every path; connections come and go by the ten thousand."""


class BenchFailed(Exception):
    """The benchmark can't be run; the text says why."""


def ip(*arguments: str) -> None:
    """Run `ip`; raises `BenchFailed`."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchFailed(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that was started here, if need be by force."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Place:
    """Somewhere to run commands: `prefix` is put before them."""

    name: str
    prefix: tuple[str, ...]

    def run(self, *argv: str, timeout: float = 120.0) -> str:
        """Run a command to its end and return its stdout; raises `BenchFailed`."""
        done = subprocess.run(
            [*self.prefix, *argv],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            said = (done.stderr + done.stdout).strip()[-500:]
            raise BenchFailed(f"{' '.join(argv)} in {self.name} ended with {done.returncode}: {said}")
        return done.stdout

    def tune(self) -> None:
        """Set the sysctls that every path has."""
        self.run("sysctl", "-q", "-w", *(f"{name}={value}" for name, value in SYSCTLS.items()))

    @contextlib.contextmanager
    def process(self, *argv: str, log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command until the block ends."""
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(log.open("wb")) if log else subprocess.DEVNULL
            process = subprocess.Popen(
                [*self.prefix, *argv], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                yield process
            finally:
                end(process)

    @contextlib.contextmanager
    def ready(self, *argv: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command that prints `ready` when it is, until the block ends."""
        process = subprocess.Popen(
            [*self.prefix, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        try:
            for line in process.stdout or ():
                if line.strip() == "ready":
                    break
            else:
                raise BenchFailed(f"{' '.join(argv)} in {self.name} ended before it was ready")
            yield process
        finally:
            end(process)

    def wait_listening(self, port: int, kind: str = "tcp", timeout: float = 10.0) -> None:
        """Return when something listens on the port."""
        deadline = time.monotonic() + timeout
        while f":{port} " not in self.run("ss", "-Hln", f"--{kind}"):
            if time.monotonic() > deadline:
                raise BenchFailed(f"nothing listens on port {port} ({kind}) in {self.name}")
            time.sleep(0.05)

    def wait_answering(self, host: str, port: int, timeout: float = 20.0) -> None:
        """Return when a connection from here succeeds."""
        deadline = time.monotonic() + timeout
        probe = [*self.prefix, "nc", "-z", "-w", "1", host, str(port)]
        while subprocess.run(probe, capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise BenchFailed(f"{host}:{port} does not answer to {self.name}")
            time.sleep(0.1)


@dataclass(frozen=True)
class Slow:
    """What is the matter with a cable: added round trip in ms, or a rate in Mbit/s (0: nothing)."""

    name: str = ""
    round_trip_ms: float = 0
    mbit: int = 0


QUEUE_MS = 20
"""What a shaped cable's queue holds; beyond it packets are lost, and senders slow down."""


@contextlib.contextmanager
def chain(names: Sequence[str], slow: Slow | None = None, slow_cable: int = 0) -> Iterator[list[Place]]:
    """Make namespaces wired in a row: between the n-th and the next is the network 198.18.n.0/24.

    The n-th namespace has the address .1 there, its right neighbour .2. One cable may be slow.
    """
    full = [f"iv-bench-{os.getpid()}-{name}" for name in names]
    places = [Place(name, ("ip", "netns", "exec", whole)) for name, whole in zip(names, full, strict=True)]
    with contextlib.ExitStack() as stack:
        for name in full:
            ip("netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
            ip("-n", name, "link", "set", "lo", "up")
        for number, (left, right) in enumerate(itertools.pairwise(full)):
            if slow and slow.round_trip_ms and number == slow_cable:
                stack.enter_context(delayed(places[number], right, slow.round_trip_ms / 2))
            else:
                pair = ["type", "veth", "peer", "name", "left0", "netns", right]
                ip("link", "add", "right0", "netns", left, *pair)
            for end, interface, host in ((left, "right0", 1), (right, "left0", 2)):
                ip("-n", end, "address", "add", f"198.18.{number}.{host}/24", "dev", interface)
                ip("-n", end, "link", "set", interface, "up")
        if slow and slow.mbit:
            narrow(places[slow_cable], "right0", slow.mbit)
            narrow(places[slow_cable + 1], "left0", slow.mbit)
        for place in places:
            place.tune()
        yield places


def narrow(place: Place, interface: str, mbit: int) -> None:
    """Shape what leaves a place by an interface."""
    queue = f"rate {mbit}mbit burst 16kb latency {QUEUE_MS}ms".split()
    place.run("tc", "qdisc", "replace", "dev", interface, "root", "tbf", *queue)


@contextlib.contextmanager
def delayed(left: Place, right: str, one_way_ms: float) -> Iterator[None]:
    """Make a cable from `left` to the namespace `right` of two TUN devices with a timed queue between."""
    argv = [sys.executable, "-m", "bench.delay_line", "right0", "far0", str(one_way_ms)]
    with left.ready(*argv):
        left.run("ip", "link", "set", "far0", "netns", right, "name", "left0")
        yield
