"""Network namespaces for the benchmark, wired by veth pairs, and processes in them."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def wait_listening(self, port: int, kind: str = "tcp", timeout: float = 10.0) -> None:
        """Return when something listens on the port."""
        deadline = time.monotonic() + timeout
        while f":{port} " not in self.run("ss", "-Hln", f"--{kind}"):
            if time.monotonic() > deadline:
                raise BenchFailed(f"nothing listens on port {port} ({kind}) in {self.name}")
            time.sleep(0.05)


@contextlib.contextmanager
def chain(names: Sequence[str]) -> Iterator[list[Place]]:
    """Make namespaces wired in a row: between the n-th and the next is the network 198.18.n.0/24.

    The n-th namespace has the address .1 there, its right neighbour .2.
    """
    full = [f"iv-bench-{os.getpid()}-{name}" for name in names]
    with contextlib.ExitStack() as stack:
        for name in full:
            ip("netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
            ip("-n", name, "link", "set", "lo", "up")
        for number, (left, right) in enumerate(itertools.pairwise(full)):
            pair = ["type", "veth", "peer", "name", "left0", "netns", right]
            ip("link", "add", "right0", "netns", left, *pair)
            for place, interface, host in ((left, "right0", 1), (right, "left0", 2)):
                ip("-n", place, "address", "add", f"198.18.{number}.{host}/24", "dev", interface)
                ip("-n", place, "link", "set", interface, "up")
        places = [
            Place(name, ("ip", "netns", "exec", whole)) for name, whole in zip(names, full, strict=True)
        ]
        for place in places:
            place.tune()
        yield places
