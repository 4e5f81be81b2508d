"""A real systemd-resolved on a bus of its own, in the network namespace that the caller is in.

programs --> 127.0.0.53 (systemd-resolved) --+-- uplink's server 10.99.0.53   all other names
                                             +-- link inroad0: our server     names that are routed
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from tests.integration.debian import program
from tests.integration.names_stage import run, sh

from inroad.host.resolver.places import Places

BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/><allow user="*"/>
  </policy>
</busconfig>
"""
SETUP = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus /run/systemd/resolved.conf.d /run/etc/upper /run/etc/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc
echo systemd-resolve:x:64321:64321::/run/systemd:/usr/sbin/nologin >> /etc/passwd
echo systemd-resolve:x:64321: >> /etc/group
echo 'hosts: files dns' > /etc/nsswitch.conf
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
{ echo '[Resolve]'; echo FallbackDNS=; printf "$OPTIONS"; } > /run/systemd/resolved.conf.d/test.conf
exec dbus-daemon --config-file="$CONFIG" --nofork --nopidfile
"""


class ResolvedHost:
    """The processes, and how to run programs on this host."""

    def __init__(self, here: Path) -> None:
        self.here = here
        self.resolved: asyncio.subprocess.Process | None = None
        self._binary, env = program("systemd-resolved", "lib/systemd/systemd-resolved")
        self._libraries = f"LD_LIBRARY_PATH={env['LD_LIBRARY_PATH']}"
        self._ctl, _ = program("systemd-resolved", "usr/bin/resolvectl")

    @property
    def bus(self) -> str:
        return f"unix:path=/proc/{self.dbus.pid}/root/run/dbus/system_bus_socket"

    @property
    def resolv_conf(self) -> Path:
        return Path(f"/proc/{self.dbus.pid}/root/etc/resolv.conf")

    @property
    def places(self) -> Places:
        root = Path(f"/proc/{self.dbus.pid}/root")
        uplinks = root / "run/systemd/resolve/resolv.conf"
        return Places(self.resolv_conf, root / "etc/nsswitch.conf", bus=self.bus, uplinks=uplinks)

    async def start_bus(self, options: str) -> None:
        config = self.here / "bus.conf"
        config.write_text(BUS_CONFIG)
        env = {**os.environ, "OPTIONS": options, "CONFIG": str(config)}
        self.dbus = await asyncio.create_subprocess_exec("unshare", "-m", "sh", "-c", SETUP, env=env)
        await self._until(lambda: Path(self.bus.removeprefix("unix:path=")).exists())

    async def _until(self, condition) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)

    async def start_resolved(self) -> None:
        argv = ["nsenter", "-t", str(self.dbus.pid), "-m", "env", self._libraries, self._binary]
        with (self.here / "resolved.log").open("a") as log:
            self.resolved = await asyncio.create_subprocess_exec(*argv, stdout=log, stderr=log)
        async with asyncio.timeout(10):
            while "127.0.0.53" not in sh("ss -lnu") or "Global" not in await self.ctl("status"):
                await asyncio.sleep(0.02)

    async def stop_resolved(self) -> None:
        if self.resolved is not None and self.resolved.returncode is None:
            self.resolved.terminate()
            await self.resolved.wait()
        self.resolved = None

    async def run(self, *argv: str) -> str:
        """Run a program that sees this host's files."""
        return await run("nsenter", "-t", str(self.dbus.pid), "-m", *argv)

    async def ctl(self, *words: str) -> str:
        return await self.run("env", self._libraries, self._ctl, "--no-pager", *words)

    async def getent(self, name: str, database: str = "ahostsv4") -> list[str]:
        """Look a name up as programs do; returns the addresses."""
        lines = (await self.run("getent", database, name)).splitlines()
        return list(dict.fromkeys(line.split()[0] for line in lines))

    async def close(self) -> None:
        await self.stop_resolved()
        if self.dbus.returncode is None:
            self.dbus.terminate()
            await self.dbus.wait()


@contextlib.asynccontextmanager
async def resolved_host(here: Path, options: str = "") -> AsyncIterator[ResolvedHost]:
    """Start bus and systemd-resolved; `options` are lines of resolved.conf, separated by `\\n`."""
    host = ResolvedHost(here)
    await host.start_bus(options)
    try:
        await host.start_resolved()
        yield host
    finally:
        await host.close()
