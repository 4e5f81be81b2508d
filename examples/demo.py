"""The main job on the screen: `make demo` (as root).

A little cluster is made in network namespaces. Its workstation, which sees nothing of the cluster but the
API server, connects as an ordinary user; real clients then talk to pods and services by name and by
address; and in the end the workstation is shown to be as it was before.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INROAD = [sys.executable, "-I", "-m", "inroad"]
DOWNLOAD = 100_000_000
WIDTHS = (45, 42, 34)
ON_TERMINAL = sys.stdout.isatty() and "NO_COLOR" not in os.environ


class DemoFailed(Exception):
    """Something did not work; the text is for the reader."""


def style(text: str, code: str) -> str:
    """Return the text in an ANSI style on a terminal, plain elsewhere."""
    return f"\x1b[{code}m{text}\x1b[0m" if ON_TERMINAL else text


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n{style(text, '1')}", flush=True)


RUNNER = """
import json, subprocess, sys, time
for line in sys.stdin:
    begin = time.monotonic()
    try:
        argv, silent = json.loads(line), subprocess.DEVNULL
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=silent)
        answer = [done.returncode, done.stdout, done.stderr]
    except (OSError, subprocess.TimeoutExpired) as error:
        answer = [-1, "", str(error)]
    print(json.dumps([*answer, (time.monotonic() - begin) * 1000]), flush=True)
"""
"""Runs commands inside the workstation and times them there: entering it costs more than most answers."""


@dataclass
class Ran:
    """A finished command and how long it took, in milliseconds."""

    status: int
    out: str
    err: str
    ms: float


class Workstation:
    """Runs commands on the sandbox's workstation, as one user."""

    def __init__(self, enter: list[str]) -> None:
        self.process = subprocess.Popen(
            [*enter, sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *argv: str) -> Ran:
        """Run a command to its end (60 s at most)."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(argv) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise DemoFailed("the workstation is gone")
        return Ran(*json.loads(answer))

    def close(self) -> None:
        """End the process inside."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Sandbox:
    """The cluster, through the `inroad sandbox` command."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: dict[str, Any] = {}

    def up(self) -> None:
        """Make the cluster."""
        argv = [*INROAD, "sandbox", "up", "--name", self.name, "--json"]
        came: list[int] = []
        before = {number: signal.signal(number, lambda got, _: came.append(got)) for number in INTERRUPTS}
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as command:
            for number, handler in before.items():  # an interrupt inside Popen would lose the process
                signal.signal(number, handler)
            try:
                if came:
                    raise KeyboardInterrupt
                written, _ = command.communicate()
            except KeyboardInterrupt:
                command.terminate()  # it takes down what it began; killed, it could not
                command.communicate()
                raise
        if command.returncode:
            raise DemoFailed("the sandbox did not come up")
        self.state = json.loads(written)

    def down(self) -> None:
        """Remove it, whatever state it is in."""
        argv = [*INROAD, "sandbox", "down", "--name", self.name]
        subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def enter(self, user: str = "dev") -> list[str]:
        """Return the beginning of a command line that runs on the workstation."""
        return [*INROAD, "sandbox", "exec", "--name", self.name, "--user", user, "--"]

    def owner(self, address: str) -> str:
        """Say whose address it is."""
        for place, about in self.state["places"].items():
            if address in about["addresses"]:
                return str(place.rpartition("/")[2])
        return address

    def pod(self, prefix: str) -> tuple[str, str]:
        """Return the place's name and the address of the first pod that begins with `prefix`."""
        for place, about in sorted(self.state["places"].items()):
            if place.startswith(f"pod/{prefix}"):
                return place, about["addresses"][0]
        raise DemoFailed(f"the sandbox has no pod {prefix}")


@dataclass
class Ask:
    """A thing that is tried: what is typed, what is run, and what must come (`check` returns two columns)."""

    typed: str
    argv: list[str]
    check: Callable[[Ran], tuple[str, str]]


def expect(condition: bool, ran: Ran, wanted: str) -> None:
    """Raise `DemoFailed` unless the condition holds."""
    if not condition:
        said = (ran.err or ran.out).strip().splitlines()[-1:] or ["nothing"]
        raise DemoFailed(f"wanted {wanted}; exit status {ran.status}, it said: {said[0]}")


def curl(sandbox: Sandbox, url: str, namespace: str) -> Ask:
    """Ask a web pod who it is and whom it saw."""

    def check(ran: Ran) -> tuple[str, str]:
        expect(ran.status == 0, ran, f"a page from {namespace}")
        body, _, seconds = ran.out.rpartition("\n")
        page = json.loads(body)
        ran.ms = float(seconds) * 1000
        expect(page["namespace"] == namespace, ran, f"a pod of {namespace}")
        return f"{page['namespace']}/{page['pod']} on {page['node']}", sandbox.owner(page["client_ip"])

    return Ask(f"curl {url}", ["curl", "-sS", "-m", "10", "-w", "\n%{time_total}", url], check)


def refused(url: str) -> Ask:
    """Ask where nobody listens: the connection must be refused, and at once."""

    def check(ran: Ran) -> tuple[str, str]:
        expect(ran.status == 7 and ran.ms < 1000, ran, "a refusal within a second (curl: 7)")
        return "connection refused", ""

    return Ask(f"curl {url}", ["curl", "-sS", "-m", "10", url], check)


def name(argv: list[str], wanted: str) -> Ask:
    """Resolve a name; the first word of the answer must be an address that matches `wanted`."""

    def check(ran: Ran) -> tuple[str, str]:
        found = ran.out.split()
        expect(
            bool(ran.status == 0 and found and re.fullmatch(wanted, found[0])),
            ran,
            f"an address like {wanted}",
        )
        return found[0], ""

    return Ask(" ".join(argv), argv, check)


def udp_echo(host: str) -> Ask:
    """Send a datagram and get it back."""
    program = f"""
import socket
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    sock.settimeout(3)
    sock.connect(({host!r}, 7))
    sock.send(b"over UDP")
    print(sock.recv(99).decode())
"""

    def check(ran: Ran) -> tuple[str, str]:
        expect(ran.out == "over UDP\n", ran, "the same datagram back")
        return "the same datagram", ""

    return Ask(f"UDP to {host}:7", [sys.executable, "-I", "-c", program], check)


def download(host: str) -> Ask:
    """Fetch 100 MB and compare the checksum with the server's."""
    url = f"http://{host}/bytes/{DOWNLOAD}"
    shell = f"curl -sS -m 60 -D /dev/stderr -w '%{{stderr}}speed %{{speed_download}}' {url} | sha256sum"

    def check(ran: Ran) -> tuple[str, str]:
        sums = re.findall(r"[0-9a-f]{64}", ran.out + ran.err)
        expect(len(sums) == 2 and sums[0] == sums[1], ran, "the server's checksum")
        speed = float(re.findall(r"speed (\d+)", ran.err)[-1]) * 8 / 1e9
        return f"as it was sent, {speed:.1f} Gbit/s", ""

    return Ask(f"curl {url} | sha256sum", ["sh", "-c", shell], check)


def asks(sandbox: Sandbox, service: str) -> list[Ask]:
    """Return everything that is tried while connected to namespace `shop`. `service`: an address of web."""
    _, pod = sandbox.pod("shop/web")
    address = r"10\.96\.\d+\.\d+|fd00:10:96::[0-9a-f]+"
    outside = "|".join(map(re.escape, sandbox.state["places"]["lan"]["addresses"]))
    return [
        curl(sandbox, "http://web/", "shop"),
        curl(sandbox, "http://web.default/", "default"),
        curl(sandbox, "http://web.shop.svc.cluster.local/", "shop"),
        curl(sandbox, f"http://{service}/", "shop"),
        curl(sandbox, f"http://{pod}:8080/", "shop"),
        name(["getent", "hosts", "web"], address),
        name(["dig", "+short", "web.shop.svc.cluster.local"], address),
        udp_echo("echo"),
        download("web"),
        refused("http://web:81/"),
        refused("http://empty/"),
        name(["getent", "hosts", "intranet.example"], outside),
        name(["dig", "+short", "intranet.example"], outside),
    ]


def show(ask: Ask, workstation: Workstation) -> bool:
    """Try one thing and print its row; return whether it went as it should."""
    ran = workstation.run(*ask.argv)
    try:
        answer, origin = ask.check(ran)
    except (DemoFailed, ValueError, KeyError) as problem:
        print(f"  {ask.typed:<{WIDTHS[0]}} {style(f'FAILED: {problem}', '31')}", flush=True)
        return False
    row = f"  {ask.typed:<{WIDTHS[0]}} {style(f'{answer:<{WIDTHS[1]}}', '32')} {origin:<{WIDTHS[2]}}"
    print(f"{row} {ran.ms:8.1f} ms", flush=True)
    return True


def dump(root: Workstation) -> str:
    """Return everything about the workstation's network that a connection could change."""
    return root.run(sys.executable, str(ROOT / "tools/host_dump.py")).out


def inroad(sandbox: Sandbox, *arguments: str) -> None:
    """Run `inroad ...` on the workstation as its ordinary user, on this terminal."""
    print(style(f"$ inroad {' '.join(arguments)}", "2"), flush=True)
    done = subprocess.run([*sandbox.enter(), *INROAD, *arguments], check=False)
    if done.returncode:
        raise DemoFailed(f"inroad {arguments[0]} ended with {done.returncode}")


def story(sandbox: Sandbox) -> None:
    """Connect, use the cluster, quit, and compare the host with what it was."""
    with contextlib.ExitStack() as stack:
        root, user = Workstation(sandbox.enter("root")), Workstation(sandbox.enter())
        stack.callback(root.close)
        stack.callback(user.close)
        before = dump(root)
        title("Connect, as an ordinary user")
        print(f"{style('$ whoami', '2')}\n{user.run('whoami').out.strip()}")
        refusal = user.run("curl", "-sS", "-m", "3", "http://web/").err.strip()
        print(f"{style('$ curl http://web/', '2')}\n{refusal}", flush=True)
        inroad(sandbox, "connect", "-n", "shop")
        title("From the workstation, connected to namespace shop")
        asked, answered, origin = WIDTHS
        head = f"  {'asked':<{asked}} {'answered':<{answered}} {'origin, as it saw it':<{origin}}     took"
        print(style(head, "2"))
        service = user.run("dig", "+short", "web.shop.svc.cluster.local").out.strip()
        results = [show(ask, user) for ask in asks(sandbox, service)]
        title("How it is done")
        inroad(sandbox, "status")
        title("Disconnect")
        inroad(sandbox, "quit")
        after = dump(root)
        if before != after:
            print(
                "\n".join(
                    difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", "")
                )
            )
            raise DemoFailed("the host is not as it was")
        lines = before.count("\n")
        print(f"The host is as it was: {lines} lines of links, addresses, routes, rules, firewall and names.")
        if not all(results):
            raise DemoFailed(f"{results.count(False)} of {len(results)} did not go as they should")


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Turn a signal into what Ctrl-C is, so that everything is put back."""
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo; 0 when everything went as it should."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="demo", help="the sandbox's name")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("demo: root is needed to make network namespaces; run: sudo make demo", file=sys.stderr)
        return 10
    for number in INTERRUPTS:
        signal.signal(number, interrupt)
    sandbox = Sandbox(options.name)
    try:
        title("A cluster in network namespaces of this machine")
        sandbox.up()
        pods = [place.removeprefix("pod/") for place in sandbox.state["places"] if place.startswith("pod/")]
        print(f"  API server  {sandbox.state['api_server']}")
        print(f"  pods        {', '.join(sorted(pods))}")
        story(sandbox)
    except DemoFailed as problem:
        print(style(f"demo: {problem}", "31"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted, cleaning up", file=sys.stderr)
        return 130
    finally:
        sandbox.down()
    print(style("Done; the cluster is gone too.", "1"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
