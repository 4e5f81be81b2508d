"""Where a sandbox keeps what outlives one command: names of its namespaces, files under /run, its lock.

Everything can be found again by the sandbox's name alone, so that `down` works after any crash:

    /run/netns/inroad-NAME.PLACE           one network namespace per place; a name has no dots, so the
                                           first one ends it ("a" never matches "a-b")
    /run/inroad-sandbox/NAME/lock          held (flock) by the supervisor as long as it lives
    /run/inroad-sandbox/NAME/state.json    what `up` printed, plus the process ids that `exec` needs
    /run/inroad-sandbox/NAME/kubeconfig    also at the same path inside the workstation
    /run/inroad-sandbox/NAME/log           of the supervisor; containers log under logs/
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import contextlib
import fcntl
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from inroad.core.errors import SandboxFailed

ROOT = Path("/run/inroad-sandbox")
NETNS = Path("/run/netns")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


class PlaceState(msgspec.Struct, frozen=True):
    """One place of the sandbox. `pid`: its first process, by which `exec` enters its namespaces."""

    namespace: str
    pid: int
    addresses: tuple[str, ...]


class SandboxState(msgspec.Struct, frozen=True):
    """What a running sandbox tells about itself; the keys of `places` are what `exec --in` takes."""

    name: str
    supervisor: int
    kubeconfig: str
    api_server: str
    places: Mapping[str, PlaceState]
    users: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    service_cidrs: tuple[str, ...] = ()
    cluster_dns: tuple[str, ...] = ()
    unready: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Home:
    """The paths and names that belong to the sandbox `name`."""

    name: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise SandboxFailed(
                f"{self.name!r} can't name a sandbox",
                "use lower-case letters, digits and dashes, at most 32",
            )

    @property
    def directory(self) -> Path:
        """Where its files are."""
        return ROOT / self.name

    @property
    def state_file(self) -> Path:
        """What `up` printed."""
        return self.directory / "state.json"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.directory / "kubeconfig"

    @property
    def log(self) -> Path:
        """The supervisor's log."""
        return self.directory / "log"

    def namespace(self, place: str) -> str:
        """Return the network namespace's name for a place such as `node-1` or `pod/shop/web-1`."""
        return f"inroad-{self.name}.{place.replace('/', '.')}"

    def namespace_path(self, place: str) -> Path:
        """Return the file by which that network namespace is entered."""
        return NETNS / self.namespace(place)

    def namespaces(self) -> list[Path]:
        """Return the files of all network namespaces of this sandbox that exist now."""
        return sorted(NETNS.glob(f"inroad-{self.name}.*"))

    def read(self) -> SandboxState:
        """Return the state of the running sandbox; raise `SandboxFailed` when there is none."""
        try:
            raw = self.state_file.read_bytes()
        except FileNotFoundError:
            raise SandboxFailed(
                f"sandbox {self.name} is not up", f"inroad sandbox up --name {self.name}"
            ) from None
        if not self.alive():
            raise SandboxFailed(
                f"sandbox {self.name} has crashed", f"inroad sandbox up --name {self.name}, or down"
            )
        return msgspec.json.decode(raw, type=SandboxState)

    def write(self, state: SandboxState) -> None:
        """Replace the state file in one step."""
        draft = self.directory / "state.json.new"
        draft.write_bytes(msgspec.json.encode(state))
        draft.replace(self.state_file)

    def lock(self) -> int | None:
        """Take the sandbox's lock: the descriptor that holds it, or None while a supervisor lives."""
        self.directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def alive(self) -> bool:
        """Tell whether a supervisor holds the lock; the kernel frees it however that process ends."""
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(descriptor)
        return False


def known() -> list[str]:
    """Return the names of all sandboxes that left anything on this host, running or not."""
    names = {path.name for path in ROOT.glob("*") if path.is_dir()}
    names |= {path.name[len("inroad-") :].partition(".")[0] for path in NETNS.glob("inroad-*.*")}
    return sorted(names)
