"""A computer of the test cluster: one process in namespaces of its own, and what runs beside it.

Process 1 of the PID namespace holds everything: when it dies the kernel kills what runs there, and the
network, the mounts and the host name go with the last process. What the kernel does not remove, the cgroups
and the state directory, `destroy` removes. Nothing is visible from the host's own namespaces.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

CGROUPS = Path("/sys/fs/cgroup")
CGROUP_PARENT = "inroad-e2e"
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")

# The directories that a node's programs fill by fixed names, replaced by directories of the machine's state.
NODE_DIRECTORIES = ("/var/lib", "/var/log")

# Kernel settings that are the whole kernel's, not a namespace's, and that kubelet insists on writing: it gets
# ordinary files in their place, so that the host keeps its own (kubelet reads them back and is content).
GLOBAL_SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)

BOOT = """
set -eu
mount --make-rprivate /
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
for controller in $CONTROLLERS; do
    mkdir /sys/fs/cgroup/$controller
    if [ $controller = systemd ]; then options=none,name=systemd; else options=$controller; fi
    mount -t cgroup -o $options cgroup /sys/fs/cgroup/$controller
done
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/e2e/bin /run/e2e/state /run/lock
mount --bind "$BIN" /run/e2e/bin
mount --bind "$STATE" /run/e2e/state
mount --bind "$STATE/resolv.conf" /etc/resolv.conf
for directory in $DIRECTORIES; do
    mkdir -p "/run/e2e/state$directory"
    mount --bind "/run/e2e/state$directory" $directory
done
for setting in $SYSCTLS; do
    copy=/run/e2e/state/sysctl/$setting
    mkdir -p "$(dirname $copy)"
    cat /proc/sys/$setting > $copy
    mount --bind $copy /proc/sys/$setting
done
mount --make-rshared /
hostname "$NAME"
ip link set lo up
exec /run/e2e/bin/pause
"""


class MachineFailed(RuntimeError):
    """A machine, or a program on it, did not come up; the message holds the end of its log."""


def controllers() -> list[str]:
    """Return the cgroup v1 hierarchies of this host, as kubelet and runc need them."""
    if (CGROUPS / "cgroup.controllers").exists():
        raise MachineFailed(
            "this host has cgroup v2 only; the test cluster's machines are written for cgroup v1 (hybrid). "
            "Point INROAD_E2E_KUBECONFIG at an existing cluster instead"
        )
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return sorted(Path(m[1]).name for m in mounts if m[2] == "cgroup")


def wait_for(
    what: str, ready: Callable[[], object], timeout: float = 30.0, detail: Callable[[], str] | None = None
) -> None:
    """Poll `ready` until it is true; raise `MachineFailed` naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise MachineFailed(f"{what}: not within {timeout:.0f} s" + (f"\n{detail()}" if detail else ""))
        time.sleep(0.05)


def start_time(pid: int) -> str | None:
    """Return a process's start time, which with its id names it for ever; None when it is gone.

    A killed process whose first thread has ended already still holds its sockets until all have.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        threads = len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208
    except OSError:
        return None
    return None if fields[0] == "Z" and threads <= 1 else fields[19]


def only_child(pid: int) -> int | None:
    """Return the one child of a process, or None while there is none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def run_to_end(
    where: str,
    argv: Sequence[str],
    line: Sequence[str],
    stdin: str | None,
    env: Mapping[str, str] | None,
    check: bool,
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    """Run `line`, which is how `argv` runs on the machine `where`; `MachineFailed` when it fails and `check`.

    `env` is added to this process's environment; without `stdin` there is nothing to read.
    """
    done = subprocess.run(
        line,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        env={**os.environ, **env} if env else None,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode:
        raise MachineFailed(
            f"{where}: {' '.join(argv)}: exit {done.returncode}: {done.stderr or done.stdout}"
        )
    return done


@dataclass
class Program:
    """A long-running program on a machine. `pid` is the host's number for it."""

    name: str
    pid: int
    started: str
    log: Path
    argv: tuple[str, ...] = ()

    def alive(self) -> bool:
        """True while it runs."""
        return start_time(self.pid) == self.started

    def tail(self, lines: int = 25) -> str:
        """Return the end of its log, for error messages."""
        text = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([f"--- end of {self.log} ---", *text[-lines:]])

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 20.0) -> None:
        """Send a signal and wait for the end; after `timeout` seconds it is killed."""
        if self.alive():
            os.kill(self.pid, number)
        try:
            wait_for(f"{self.name} to end", lambda: not self.alive(), timeout)
        except MachineFailed:
            os.kill(self.pid, signal.SIGKILL)
            wait_for(f"{self.name} to be killed", lambda: not self.alive(), 5)


@dataclass
class Machine:
    """One computer. `pid` is the host's number for its process 1; `state` its directory on the host."""

    cluster: str
    name: str
    state: Path
    pid: int
    started: str
    programs: dict[str, Program] = field(default_factory=dict)

    @property
    def cgroup(self) -> str:
        """Its cgroup, relative to each hierarchy."""
        return f"{CGROUP_PARENT}/{self.cluster}/{self.name}"

    def alive(self) -> bool:
        """True while its process 1 runs."""
        return start_time(self.pid) == self.started

    def enter(self, argv: Sequence[str], namespaces: Sequence[str] = NAMESPACES) -> list[str]:
        """Return the command that runs `argv` on this machine."""
        return ["nsenter", "--target", str(self.pid), *namespaces, "--", *argv]

    def run(
        self,
        *argv: str,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end on this machine; with `check`, raise `MachineFailed` when it fails."""
        return run_to_end(self.name, argv, self.enter(argv), stdin, env, check, timeout)

    def start(self, name: str, *argv: str, env: Mapping[str, str] | None = None) -> Program:
        """Start a long-running program; its output goes to `<state>/<name>.log`."""
        log = self.state / f"{name}.log"
        groups = [CGROUPS / controller / self.cgroup for controller in controllers()]
        with log.open("ab") as output:
            process = _detached(joining(groups, self.enter(argv)), output, env)
        pid: int | None = None

        def entered() -> bool:
            nonlocal pid
            pid = only_child(process.pid)
            return pid is not None or process.poll() is not None

        wait_for(f"{name} on {self.name} to start", entered, 10)
        started = start_time(pid) if pid else None
        program = Program(name, pid or 0, started or "", log, argv)
        if not program.alive():
            raise MachineFailed(f"{name} on {self.name} ended at once\n{program.tail()}")
        self.programs[name] = program
        return program

    def restart(self, name: str, number: signal.Signals = signal.SIGTERM) -> Program:
        """End a program by a signal and start it again."""
        program = self.programs[name]
        program.stop(number)
        return self.start(name, *program.argv)

    def destroy(self) -> None:
        """End everything that runs here and remove what the kernel does not."""
        destroy_machine(self.cluster, self.name, self.state)


def joining(cgroups: Sequence[Path], argv: Sequence[str]) -> list[str]:
    """Return the command that enters cgroups, which `nsenter` does not, and then becomes `argv`."""
    join = "".join(f"echo $$ > {cgroup}/cgroup.procs; " for cgroup in cgroups)
    return ["sh", "-c", f'set -eu; {join} exec "$@"', "sh", *argv]


def _detached(argv: list[str], output: IO[bytes], env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **env} if env else None,
        start_new_session=True,
    )


def boot(cluster: str, name: str, state: Path, binaries: Path, *, node: bool, resolv_conf: str) -> Machine:
    """Make a machine. `node` gives it directories of its own where Kubernetes's programs keep their state."""
    state.mkdir(parents=True)
    (state / "resolv.conf").write_text(resolv_conf)
    hierarchies = controllers()
    cgroups = [make_cgroup(CGROUPS / c, f"{CGROUP_PARENT}/{cluster}/{name}") for c in hierarchies]
    unshare = ["unshare", "--fork", "--kill-child", "--mount-proc", *NAMESPACES, "sh", "-c", BOOT]
    log = state / "boot.log"
    with log.open("ab") as output:
        parent = _detached(
            joining(cgroups, unshare),
            output,
            {
                "NAME": name,
                "BIN": str(binaries),
                "STATE": str(state),
                "CONTROLLERS": " ".join(hierarchies),
                "DIRECTORIES": " ".join(NODE_DIRECTORIES) if node else "",
                "SYSCTLS": " ".join(GLOBAL_SYSCTLS) if node else "",
            },
        )

    def booted() -> bool:
        child = only_child(parent.pid)
        if parent.poll() is not None:
            raise MachineFailed(f"{name} did not boot\n{log.read_text()}")
        return child is not None and Path(f"/proc/{child}/comm").read_text().strip() == "pause"

    wait_for(f"{name} to boot", booted, 20, log.read_text)
    pid = only_child(parent.pid) or 0
    return Machine(cluster, name, state, pid, start_time(pid) or "")


def make_cgroup(hierarchy: Path, path: str) -> Path:
    """Make a cgroup v1 path; made anew when another cluster's end takes the common parent away meanwhile."""
    for _ in range(20):
        with contextlib.suppress(FileNotFoundError):
            return _make_levels(hierarchy, path)
    return _make_levels(hierarchy, path)


def _make_levels(hierarchy: Path, path: str) -> Path:
    """Make the path level by level: a cpuset takes no process before it has processors and memory."""
    here = hierarchy
    for part in path.split("/"):
        parent, here = here, here / part
        here.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (here / setting).exists():
                (here / setting).write_text((parent / setting).read_text())
    return here


def cgroup_processes(cgroup: Path) -> set[int]:
    """Return the processes of a cgroup and of those below it."""
    found: set[int] = set()
    for procs in cgroup.rglob("cgroup.procs"):
        found.update(int(pid) for pid in procs.read_text().split())
    return found


def destroy_machine(cluster: str, name: str, state: Path) -> None:
    """Remove a machine by its name alone, so that one left by a crash goes too.

    Its cgroup says which processes are its own: nobody else's are in there.
    """
    path = f"{CGROUP_PARENT}/{cluster}/{name}"
    roots = [CGROUPS / c / path for c in controllers()]

    def processes() -> set[int]:
        return set().union(*(cgroup_processes(root) for root in roots)) - {0}

    def killed() -> bool:
        alive = processes()
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not alive

    wait_for(f"the processes of {name} to end", killed, 30, lambda: f"still there: {processes()}")
    for root in roots:
        remove_cgroup(root)
    if state.exists():
        shutil.rmtree(state)


def remove_cgroup(root: Path) -> None:
    """Remove a cgroup and those below it, and parents of ours that are empty then."""
    if not root.exists():
        return
    for directory, _, _ in os.walk(root, topdown=False):
        wait_for(f"cgroup {directory} to be empty", functools.partial(_removed, Path(directory)), 10)
    for parent in (root.parent, root.parent.parent):
        if not _removed(parent):
            return


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError:
        return not directory.exists()
    return True
