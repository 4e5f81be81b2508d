"""A place: the namespaces in which a workstation, a node or a pod lives, held by one small process.

The first process of a place is the `sleep` at the end of the script below. It is PID 1 of a PID namespace, so
the kernel ends everything in the place with it, and it ends when the supervisor does, even by
SIGKILL (parent-death signals along the chain setpriv -> nsenter -> unshare -> sleep). It ignores SIGCHLD, so
orphans are reaped (`env` sees to that: dash's `trap '' CHLD` does not).

In its mount namespace a place has a /run and a /sys of its own, and an /etc that is a writable layer over the
host's: a program in it may edit resolv.conf or add a user, and the host never sees it.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inroad.core.errors import SandboxFailed
from inroad.host.run import require, spawn
from inroad.sandbox.state import Home

SCRIPT = """
set -e
cd "$1"
shift
mount -t tmpfs -o mode=755 tmpfs /run
layer() {  # layer DIRECTORY NAME: our own writable layer over a directory of the host
    mkdir -p "/run/.layers/$2" "/run/.layers/$2.work"
    mount -t overlay -o "lowerdir=$1,upperdir=/run/.layers/$2,workdir=/run/.layers/$2.work" overlay "$1"
}
mkdir -m 700 /run/.layers
if ! layer /etc etc 2>/dev/null; then  # no overlayfs here: a copy does it
    mkdir -p /run/.layers/copy
    cp -a /etc/. /run/.layers/copy/
    mount --bind /run/.layers/copy /etc
fi
rm -f /etc/resolv.conf /etc/sudoers
cp -a etc/. /etc/
cp -a run/. /run/
for closed in "$@"; do  # directories on the way to our own code that only root may enter
    layer "$closed" "$(echo "$closed" | tr / -)"
    chmod a+x "$closed"
done
mount -t sysfs sysfs /sys
hostname "$(cat /etc/hostname)"
echo ready
exec env --ignore-signal=CHLD sleep infinity
"""


@dataclass(frozen=True, slots=True)
class FileSpec:
    """A file of a place: text, mode and owner."""

    text: str
    mode: int = 0o644
    owner: int = 0


def closed_directories() -> list[str]:
    """Return the top directories on the way to the interpreter and this package that others may not enter.

    A checkout below /root can't be run by an ordinary user; in a place, a layer with an `x` bit helps.
    """
    found: list[str] = []
    for start in (sys.prefix, sys.base_prefix, str(Path(__file__).resolve().parents[1])):
        parents = Path(start).resolve().parents
        found += [str(directory) for directory in parents if not directory.stat().st_mode & 0o001]
    return sorted(set(found))


class Place:
    """One place. `pid` is its first process as the supervisor sees it, 0 until `start` has returned."""

    def __init__(self, home: Home, name: str, namespace: str = "") -> None:
        self.name = name
        self.pid = 0
        self.namespace = namespace or home.namespace(name)
        self.files = home.directory / "places" / name
        self._holder: asyncio.subprocess.Process | None = None

    def stage(self, files: Mapping[str, FileSpec]) -> None:
        """Write the files that the place shall have: below /etc or /run; "/" at the end means a directory."""
        for base in ("etc", "run"):
            (self.files / base).mkdir(parents=True, exist_ok=True)
        for path, spec in files.items():
            target = self.files / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("/"):
                target.mkdir(exist_ok=True)
            else:
                target.write_text(spec.text)
            target.chmod(spec.mode)
            os.chown(target, spec.owner, spec.owner)

    async def start(self, hostname: str, files: Mapping[str, FileSpec]) -> None:
        """Make the namespaces and the first process; the network namespace must exist."""
        own = {
            "/etc/hostname": FileSpec(hostname + "\n"),
            "/etc/nsswitch.conf": FileSpec("passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"),
        }
        await asyncio.to_thread(self.stage, {**own, **files})
        self._holder = await spawn(
            [
                *(require("setpriv", "util-linux"), "--pdeathsig", "KILL"),
                *(require("nsenter", "util-linux"), f"--net=/run/netns/{self.namespace}"),
                *(require("unshare", "util-linux"), "--mount", "--uts", "--pid", "--fork", "--kill-child"),
                *("--mount-proc", "/bin/sh", "-c", SCRIPT, "place", str(self.files), *closed_directories()),
            ],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            new_session=True,
        )
        out, err = self._holder.stdout, self._holder.stderr
        if out is None or err is None or await out.readline() != b"ready\n":
            why = (await err.read()).decode(errors="replace").strip() if err else ""
            raise SandboxFailed(f"could not make the namespaces of {self.name}: {why}")
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        self.pid = int(children[0])

    async def stop(self) -> None:
        """End every process in the place, at once, and forget its files.

        Its first process goes first and takes the others along; the one that holds it reaps it.
        """
        with contextlib.suppress(ProcessLookupError):
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)
            elif self._holder is not None:
                self._holder.kill()
        if self._holder is not None:
            await self._holder.wait()
        self.pid = 0
        await asyncio.to_thread(shutil.rmtree, self.files, ignore_errors=True)

    def command(self, argv: list[str], *, uid: int = 0, gid: int = 0) -> list[str]:
        """Return the command line that runs `argv` in the place and dies with the caller's thread."""
        identity = ["--setuid", str(uid), "--setgid", str(gid)] if uid or gid else []
        return [
            *(require("setpriv", "util-linux"), "--pdeathsig", "KILL"),
            *(
                require("nsenter", "util-linux"),
                "--target",
                str(self.pid),
                "--mount",
                "--uts",
                "--net",
                "--pid",
            ),
            *(*identity, "--", *argv),
        ]
