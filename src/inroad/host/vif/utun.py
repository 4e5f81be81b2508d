"""utun, the TUN device of macOS: a kernel control socket, and `ifconfig` and `route` for its settings.

Source: net/if_utun.h and sys/kern_control.h of xnu, ifconfig(8). Each packet is preceded by its address
family, a number of 4 bytes in network order. Everything that only a Mac has is behind `Kernel` and `Run`.
"""

from __future__ import annotations

import asyncio
import errno
import select
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_network
from struct import Struct
from typing import Protocol

from inroad.core.checksum import Buffer
from inroad.core.errors import HostChangeFailed, InroadError, NoPrivilege, NoTunDevice
from inroad.core.host_config import Address
from inroad.core.reflect import POOLS
from inroad.host.routes.commands import Way
from inroad.host.routes.macos import MacRoutes
from inroad.host.run import Completed
from inroad.host.vif.api import VifConfig
from inroad.host.vif.one_device import MTU, Opened

IFCONFIG = "/sbin/ifconfig"
CONTROL = b"com.apple.net.utun_control"
CTLIOCGINFO = 0xC0644E03
"""_IOWR('N', 3, struct ctl_info): find a kernel control's number by its name."""
CTL_INFO = Struct("=I96s")
SYSPROTO_CONTROL = 2
UTUN_OPT_IFNAME = 2
IFNAMSIZ = 16
FAMILIES = {4: b"\0\0\0\x02", 6: b"\0\0\0\x1e"}
"""AF_INET and AF_INET6 (30) of macOS, as they precede a packet."""
FIREWALL = "let connections in on that interface: pfctl -s rules, and System Settings, Network, Firewall"

Run = Callable[[Sequence[str]], Awaitable[Completed]]


class Kernel(Protocol):
    """The system calls. Each raises `OSError`."""

    def control_socket(self) -> int:
        """`socket(PF_SYSTEM, SOCK_DGRAM, SYSPROTO_CONTROL)`, not inherited by children."""

    def ioctl(self, fd: int, request: int, argument: bytes) -> bytes:
        """`ioctl`, with the argument as the kernel leaves it."""

    def connect(self, fd: int, control: int, unit: int) -> None:
        """`connect` to a kernel control: unit n + 1 is utun n, 0 the first free one. Non-blocking after."""

    def getsockopt(self, fd: int, level: int, option: int, size: int) -> bytes:
        """`getsockopt`."""

    def readv(self, fd: int, buffers: list[bytearray]) -> int:
        """`readv`."""

    def writev(self, fd: int, buffers: list[Buffer]) -> int:
        """`writev`."""

    def close(self, fd: int) -> None:
        """`close`."""


class Utun:
    """See `one_device.Device`."""

    def __init__(self, kernel: Kernel, fd: int, name: str) -> None:
        self.name = name
        packet = bytearray(65_536)
        self.buffer = memoryview(packet)
        self._kernel = kernel
        self._readv, self._writev = kernel.readv, kernel.writev
        self._fd = fd
        self._buffers = [bytearray(4), packet]
        self._loop: asyncio.AbstractEventLoop | None = None

    def receive(self) -> int:
        """See `Device`."""
        try:
            return max(0, self._readv(self._fd, self._buffers) - 4)
        except (BlockingIOError, InterruptedError):
            return 0

    def send(self, packet: Buffer) -> None:
        """See `Device`. ENOBUFS: the queue is full; EMSGSIZE, EINVAL: the kernel dislikes the packet."""
        try:
            self._writev(self._fd, [FAMILIES[packet[0] >> 4], packet])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as problem:
            if problem.errno not in (errno.ENOBUFS, errno.EMSGSIZE, errno.EINVAL):
                raise

    def wait(self, timeout: float) -> bool:
        """See `Device`."""
        return bool(select.select([self._fd], [], [], timeout)[0])

    def watch(self, drain: Callable[[], bool]) -> None:
        """See `Device`; what is left makes the descriptor readable again."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, drain)

    def close(self) -> None:
        """See `Device`."""
        if self._fd < 0:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
        self._kernel.close(self._fd)
        self._fd = -1


def open_utun(kernel: Kernel, unit: int = 0) -> Utun:
    """Make a utun; raises `NoTunDevice`, `NoPrivilege` or `HostChangeFailed`."""
    try:
        fd = kernel.control_socket()
    except OSError as problem:
        raise NoTunDevice(f"the kernel has no control sockets: {problem.strerror}") from problem
    try:
        info = kernel.ioctl(fd, CTLIOCGINFO, CTL_INFO.pack(0, CONTROL))
        kernel.connect(fd, CTL_INFO.unpack(info)[0], unit)
        name = kernel.getsockopt(fd, SYSPROTO_CONTROL, UTUN_OPT_IFNAME, IFNAMSIZ)
    except OSError as problem:
        kernel.close(fd)
        raise _refused(problem, unit) from problem
    return Utun(kernel, fd, name.partition(b"\0")[0].decode())


def _refused(problem: OSError, unit: int) -> InroadError:
    if problem.errno in (errno.EPERM, errno.EACCES):
        return NoPrivilege("a utun device may not be made", "the daemon needs root")
    if problem.errno == errno.EBUSY:
        return HostChangeFailed(f"utun{unit - 1} is taken", "ifconfig lists the devices there are")
    if problem.errno == errno.ENOENT:
        return NoTunDevice("the kernel offers no utun devices")
    return HostChangeFailed(f"a utun device can't be made: {problem.strerror}")


def address_command(name: str, address: Address, mtu: int) -> tuple[str, ...]:
    """Return the command that gives a utun an address; a point-to-point one, so it names both ends."""
    if address.version == 4:
        ends = (str(address), str(address), "netmask", "255.255.255.255")
        return (IFCONFIG, name, "inet", *ends, "mtu", str(mtu), "up")
    return (IFCONFIG, name, "inet6", str(address), "prefixlen", "128", "alias")


async def open_macos(config: VifConfig, kernel: Kernel, run: Run) -> Opened:
    """Make the device with its addresses and the routes that reflection needs.

    Its name is the kernel's choice: only utun<n> are possible.
    """
    device, mtu = open_utun(kernel), min(config.mtu, MTU)
    versions, notes = [], []
    try:
        for address in config.addresses:
            pool = Way(ip_network(POOLS[address.version]), device.name)
            commands = [address_command(device.name, address, mtu)]
            if address.version not in versions:
                commands.append(MacRoutes().add(pool))
            problem = await _first_refusal(run, commands)
            if not problem:
                versions.append(address.version)
            elif address.version == 4:
                raise HostChangeFailed(f"{device.name} can't be configured: {problem}")
            else:
                notes.append(f"no IPv6 on this host ({problem})")
    except BaseException:
        device.close()
        raise
    return Opened(device, mtu, tuple(dict.fromkeys(versions)), tuple(notes), FIREWALL)


async def _first_refusal(run: Run, commands: Sequence[Sequence[str]]) -> str:
    """Run commands until one fails; return what that one said, "" when all did well."""
    for argv in commands:
        try:
            done = await run(argv)
        except OSError as problem:  # TimeoutError among them
            return f"{argv[0]} did not run: {problem}"
        if not done.ok:
            return " ".join((done.stderr or done.stdout).split()) or f"status {done.status}"
    return ""
