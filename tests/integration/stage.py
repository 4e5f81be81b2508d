"""A sandbox as tests use it: commands on its workstation, as its ordinary user, and inroad itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
INROAD = [sys.executable, "-I", "-m", "inroad"]


@dataclass
class Stage:
    """A running sandbox. Commands run on its workstation as `dev`, who may use sudo; `guest` may not."""

    name: str
    state: dict[str, Any] = field(default_factory=dict)

    def sandbox(self, *arguments: str) -> str:
        """Run `inroad sandbox VERB --name ...` on this machine and return its stdout."""
        verb, *rest = arguments
        argv = [*INROAD, "sandbox", verb, "--name", self.name, *rest]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, done
        return done.stdout

    def up(self, *arguments: str) -> None:
        """Make the sandbox; what an earlier run left is replaced."""
        self.state = json.loads(self.sandbox("up", "--json", *arguments))

    def refresh(self) -> Stage:
        """Read again what the sandbox tells about itself, after a test that replaced pods."""
        self.state = json.loads(self.sandbox("status", "-o", "json"))
        return self

    def down(self) -> None:
        """Remove it."""
        self.sandbox("down")

    def command(self, argv: list[str], user: str, place: str) -> list[str]:
        """Return the command line that runs `argv` in a place."""
        who = ["--user", user] if place == "workstation" else []
        return [*INROAD, "sandbox", "exec", "--name", self.name, "--in", place, *who, "--", *argv]

    def run(
        self,
        *argv: str,
        user: str = "dev",
        place: str = "workstation",
        status: int | None = 0,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its exit status must be `status` (None: any)."""
        line = self.command(list(argv), user, place)
        done = subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=90, check=False)
        assert status is None or done.returncode == status, done
        return done

    def start(self, *argv: str, user: str = "dev") -> subprocess.Popen[str]:
        """Start a command and return it running, with its stdout and stderr as pipes."""
        line = self.command(list(argv), user, "workstation")
        pipe = subprocess.PIPE
        return subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)

    def inroad(
        self, *arguments: str, user: str = "dev", status: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run `inroad ...` on the workstation."""
        return self.run(*INROAD, *arguments, user=user, status=status)

    def ask(self, *arguments: str, user: str = "dev", status: int = 0) -> dict[str, Any]:
        """Run `inroad ... -o json` on the workstation and return what it printed."""
        answer: dict[str, Any] = json.loads(
            self.inroad(*arguments, "-o", "json", user=user, status=status).stdout
        )
        return answer

    def curl(self, url: str, *flags: str) -> dict[str, Any]:
        """Fetch a page of the `web` workload."""
        page: dict[str, Any] = json.loads(self.run("curl", "-sS", "-m", "10", *flags, url).stdout)
        return page

    def dump(self) -> str:
        """Return everything about the workstation's network that inroad could change, as text."""
        return self.run(sys.executable, str(ROOT / "tools/host_dump.py"), user="root").stdout

    def pods(self, prefix: str) -> list[str]:
        """Return the places of the pods whose `NAMESPACE/NAME` begins with `prefix`."""
        return sorted(place for place in self.state["places"] if place.startswith(f"pod/{prefix}"))

    def address(self, place: str) -> str:
        """Return a place's first address."""
        return str(self.state["places"][place]["addresses"][0])

    def addresses(self, place: str) -> list[str]:
        """Return all addresses of a place."""
        return list(self.state["places"][place]["addresses"])

    def daemon_pids(self) -> list[int]:
        """Return the process ids, as the workstation sees them, of its daemon."""
        found = self.run("pgrep", "-f", "inroad serve daemon", user="root", status=None).stdout
        return [int(line) for line in found.split()]

    def kubeconfig(self) -> str:
        """Return the text of the sandbox's kubeconfig."""
        return Path(self.state["kubeconfig"]).read_text()

    def write(self, path: str, text: str, mode: str = "600") -> str:
        """Write a file of the ordinary user's on the workstation; returns its path."""
        self.run("sh", "-c", f'cat > "{path}" && chmod {mode} "{path}"', stdin=text)
        return path


@contextmanager
def connected_stage(name: str, *options: str) -> Iterator[Stage]:
    """Make a sandbox whose workstation is connected to namespace `shop`, and take both down in the end."""
    stage = Stage(f"{name}-{os.getpid()}")
    stage.up(*options)
    try:
        stage.ask("connect", "-n", "shop")
        yield stage
        stage.inroad("quit")
    finally:
        stage.down()
