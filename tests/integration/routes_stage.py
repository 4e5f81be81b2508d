"""A workstation's network for tests of routes, in a namespace that vanishes with the test.

the test's thread ── namespace of its own: lo, inroad0 (TUN), eth0 (TUN, default route)
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

from inroad.core.host_config import Network, RouteConfig
from inroad.host.journal import Journal
from inroad.host.routes.choose import open_routes
from inroad.host.routes.linux import LinuxRoutes

_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


def ip(words: str) -> str:
    """Run `ip`; an assertion failure with its words when it fails."""
    done = subprocess.run(["ip", *words.split()], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {words}: {done.stderr}"
    return done.stdout


def nets(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


def dump() -> str:
    """Everything that `routes` could change, as text."""
    commands = ("rule", "-6 rule", "route show table all", "-6 route show table all", "addr")
    return "".join(ip(command) for command in commands)


def way(address: str, more: str = "") -> str:
    """The interface a packet to `address` leaves by."""
    words = ip(f"route get {address} {more}").split()
    return words[words.index("dev") + 1]


WANTED = RouteConfig(
    interface="inroad0",
    subnets=nets("10.96.0.0/16", "10.244.1.0/24", "10.9.9.9/32", "fd00:10:96::/112", "fd00:10:244:1::/64"),
    never=nets("10.96.7.0/24", "fd00:10:244:1::53/128"),
    mtu=65_535,
)


async def settled(condition: Callable[[], bool], seconds: float = 1.0) -> None:
    """What the kernel tells arrives on the event loop: wait for it, as long as the promise allows."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


class Host:
    """The workstation: makes devices, opens route back ends, and closes all of them."""

    def __init__(self, directory: Path) -> None:
        self.journal = directory / "journal"
        self._devices: dict[str, int] = {}
        self._routes: list[LinuxRoutes] = []

    def device(self, name: str) -> None:
        """Make a TUN device that is up."""
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1001))
        self._devices[name] = fd
        ip(f"link set {name} addrgenmode none")  # its address would come at a time of its own
        ip(f"link set {name} up")

    def remove(self, name: str) -> None:
        """Remove a device, as the end of a VPN's process does."""
        os.close(self._devices.pop(name))

    async def routes(self) -> LinuxRoutes:
        """Open the back end, with the journal that a crash would leave."""
        opened = await open_routes(Journal(self.journal))
        assert isinstance(opened, LinuxRoutes)
        self._routes.append(opened)
        return opened

    async def close(self) -> None:
        for opened in self._routes:
            await opened.close()
        for name in list(self._devices):
            self.remove(name)


@asynccontextmanager
async def workstation(directory: Path) -> AsyncIterator[Host]:
    """Put this thread into a network namespace of its own, with a wire and a VIF, while it lasts."""
    with Path("/proc/thread-self/ns/net").open() as before:
        assert _libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        host = Host(directory)
        try:
            wire(host)
            await settled(lambda: "local fd00:0:0:246::1" in dump() and "local 2001:db8::2" in dump())
            yield host
        finally:
            await host.close()
            assert _libc.setns(before.fileno(), CLONE_NEWNET) == 0


def wire(host: Host) -> None:
    """Give the workstation its wire and a VIF."""
    ip("link set lo up")
    host.device("eth0")
    host.device("inroad0")
    ip("addr add 192.168.7.2/24 dev eth0")
    ip("route add default via 192.168.7.1")
    ip("-6 addr add 2001:db8::2/64 dev eth0 nodad")
    ip("-6 route add default via 2001:db8::1")
    ip("addr add 246.246.0.1/32 dev inroad0")
    ip("-6 addr add fd00:0:0:246::1/128 dev inroad0 nodad")
