"""One container of a pod: a process (and its children) in the pod's namespaces, started again when it ends.

There are no images. `command` and `args` are run with the host's programs; where a container has no
`command`, the name of its image says what an image of that name would start: `inroad` is this program.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from inroad.host.run import require, run_async, spawn
from inroad.sandbox.place import Place

Json = dict[str, Any]
ENTRYPOINTS: Mapping[str, tuple[str, ...]] = {"inroad": (sys.executable, "-m", "inroad")}
"""What an image starts, by the last part of its name without tag."""
NO_CAPABILITIES = ("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds between restarts; they double. A kubelet takes 10 to 300: nobody here wants to wait for that."""
PATH = f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NotRunnable(Exception):
    """The container can't be started at all; `reason` as a kubelet names it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def command_line(spec: Json, environment: Mapping[str, str]) -> list[str]:
    """Return what a container runs, `$(NAME)` expanded; raise `NotRunnable` when there is nothing to run."""
    image = str(spec.get("image", ""))
    base = image.rpartition("/")[2].partition("@")[0].partition(":")[0]
    entry = list(spec.get("command") or ENTRYPOINTS.get(base, ()))
    argv = [expand(part, environment) for part in [*entry, *(spec.get("args") or ())]]
    if not entry:
        raise NotRunnable("ErrImagePull", f"there are no images here: {image!r} needs a command")
    if argv[0] in ("python", "python3"):
        argv[0] = sys.executable
    if shutil.which(argv[0], path=environment.get("PATH", PATH)) is None:
        raise NotRunnable("RunContainerError", f"exec: {argv[0]!r}: executable file not found in $PATH")
    return argv


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Replace `$(NAME)` where the name is known; `$$(NAME)` stays `$(NAME)`."""
    out, rest = "", text
    while "$" in rest:
        before, _, rest = rest.partition("$")
        out += before
        if rest.startswith("$"):
            out, rest = out + "$", rest[1:]
        elif rest.startswith("(") and ")" in rest:
            name, _, after = rest[1:].partition(")")
            out += environment.get(name, f"$({name})")
            rest = after
        else:
            out += "$"
    return out + rest


class Container:
    """Runs one container until `stop`. `changed` is called whenever `status` has changed."""

    def __init__(self, spec: Json, place: Place, log: Path, changed: Callable[[], None]) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.place = place
        self.log = log
        self.state: Json = {"waiting": {"reason": "ContainerCreating"}}
        self.last: Json = {}
        self.restarts = 0
        self.ready = False
        self.exit_code: int | None = None
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._environment: Mapping[str, str] = {}
        self._stopping = asyncio.Event()
        self.running = asyncio.Event()
        self.ended = asyncio.Event()

    async def run(self, environment: Mapping[str, str], policy: str, stamp: Callable[[], str]) -> None:
        """Run it, again and again as the restart policy (Always, OnFailure, Never) says."""
        self._environment = environment
        delay = FIRST_DELAY
        while not self._stopping.is_set():
            loop = asyncio.get_running_loop()
            started = loop.time()
            try:
                await self._once(environment, stamp)
            except NotRunnable as error:
                self._become({"waiting": {"reason": error.reason, "message": str(error)}})
                self.exit_code = 128
            if self._stopping.is_set() or policy == "Never" or (policy == "OnFailure" and not self.exit_code):
                return
            if loop.time() - started > 10 * delay:
                delay = FIRST_DELAY
            if "terminated" in self.state:
                self.last = self.state
                waiting = {"reason": "CrashLoopBackOff", "message": f"back-off {delay:.0f}s restarting"}
                self._become({"waiting": waiting})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            self.restarts += 1
            delay = min(2 * delay, LONGEST_DELAY)

    async def _once(self, environment: Mapping[str, str], stamp: Callable[[], str]) -> None:
        argv = command_line(self.spec, environment)
        context = self.spec.get("securityContext") or {}
        uid = int(context.get("runAsUser", 0))
        if uid == 0 and context.get("runAsNonRoot"):
            raise NotRunnable(
                "CreateContainerConfigError", "container has runAsNonRoot and would run as root"
            )
        if "ALL" in (context.get("capabilities") or {}).get("drop", ()):
            argv = [require("setpriv", "util-linux"), *NO_CAPABILITIES, *argv]
        started = stamp()
        with self.log.open("ab") as output:
            self._process = await spawn(
                self.place.command(argv, uid=uid, gid=int(context.get("runAsGroup", uid))),
                stdout=output.fileno(),
                stderr=output.fileno(),
                env=environment,
                cwd="/",
                new_session=True,
            )
        self.ended.clear()
        self.running.set()
        self._become({"running": {"startedAt": started}})
        try:
            status = await self._process.wait()
        finally:
            self._signal_group(signal.SIGKILL)
        self.running.clear()
        self.ended.set()
        self.ready = False
        self.exit_code = status if status >= 0 else 128 - status
        ended = {"exitCode": self.exit_code, "startedAt": started, "finishedAt": stamp()}
        reason = "Completed" if self.exit_code == 0 else "Error"
        self._become({"terminated": {**ended, "reason": reason}})

    def _become(self, state: Json) -> None:
        self.state = state
        self._changed()

    async def stop(self, grace: float) -> None:
        """Ask it to end (SIGTERM), and end it when `grace` seconds are over."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            async with asyncio.timeout(max(grace, 0.001)):
                await self._before_stop()
                self._signal_main(signal.SIGTERM)
                await process.wait()
        except TimeoutError:
            self._signal_main(signal.SIGKILL)
            self._signal_group(signal.SIGKILL)
            await process.wait()

    async def _before_stop(self) -> None:
        """Do what `lifecycle.preStop` says; a hook that fails does not keep the container from ending."""
        hook = (self.spec.get("lifecycle") or {}).get("preStop") or {}
        if "sleep" in hook:
            await asyncio.sleep(float(hook["sleep"].get("seconds", 0)))
        elif "exec" in hook:
            variables = [f"{key}={value}" for key, value in self._environment.items()]
            argv = ["/usr/bin/env", "-i", *variables, *hook["exec"]["command"]]
            await run_async(self.place.command(argv), timeout=3600)

    def restart(self) -> None:
        """End the process; the restart policy says what then."""
        self._signal_main(signal.SIGKILL)

    def _signal_main(self, number: int) -> None:
        """Signal the container's own process: the child of the `nsenter` that we started."""
        if self._process is None:
            return
        pid = self._process.pid
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), number)

    def _signal_group(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, number)

    def status(self) -> Json:
        """Return its entry in the pod's `containerStatuses`."""
        image = self.spec.get("image", "")
        return {
            "name": self.name,
            "image": image,
            "imageID": "",
            "containerID": f"sandbox://{self._process.pid}" if self._process else "",
            "ready": self.ready,
            "started": "running" in self.state,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last,
        }
