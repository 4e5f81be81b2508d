"""tun mode on Linux: the VIF is a TUN, a second TUN leads into the private namespace."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from struct import pack

from inroad.core.errors import HostChangeFailed, InroadError, NoPrivilege, NoTunDevice
from inroad.core.held import SynTable
from inroad.core.reflect import POOLS, Plan, Reflector
from inroad.host.vif import namespace_linux, netlink_linux

assert sys.platform == "linux"  # noqa: S101

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
QUEUE = 4096
"""Packets that may wait in a TUN; the default of 500 loses bursts of datagrams."""
PORT = 15_700
BACKLOG = 4096


@dataclass(slots=True)
class Opened:
    """What the packet loop works with.

    `mtu`: of the VIF, in bytes. `vif`, `inner`: descriptors of the devices (the same one twice where
    there is one). `hops`: by how much TTLs were lowered on the way to `vif`. `outer`: a route socket of
    the host's namespace, where the link `name` has to be removed at the end (a TUN goes by itself).
    """

    mtu: int
    vif: int
    inner: int
    tcp: SynTable
    listeners: list[socket.socket]
    notes: list[str]
    hops: int = 0
    outer: netlink_linux.Netlink | None = None
    name: str = ""

    def close(self) -> None:
        """Remove from the host what does not go with this process."""
        if self.outer is not None:
            index = self.outer.index(self.name)
            if index is not None:
                self.outer.delete_link(index)


def open_tun(name: str) -> int:
    """Make a TUN device and return its file descriptor; it lives as long as that."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as problem:
        if problem.errno in (errno.EPERM, errno.EACCES):
            raise NoPrivilege("/dev/net/tun may not be opened", "run the daemon as root") from problem
        raise NoTunDevice(
            f"the kernel offers no TUN device (/dev/net/tun: {problem.strerror})",
            "load it: modprobe tun; in a container: --device /dev/net/tun --cap-add NET_ADMIN",
        ) from problem
    try:
        fcntl.ioctl(fd, _TUNSETIFF, pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as problem:
        os.close(fd)
        raise _refused(f"a TUN device {name}", problem) from problem
    return fd


def _refused(what: str, problem: OSError) -> InroadError:
    if problem.errno == errno.EPERM:
        return NoPrivilege(f"{what} may not be made", "the daemon needs CAP_NET_ADMIN")
    if problem.errno in (errno.EBUSY, errno.EINVAL):
        return HostChangeFailed(f"{what} can't be made: the name is taken", "ip link show")
    return HostChangeFailed(f"{what} can't be made: {problem.strerror}")


def configure(
    netlink: netlink_linux.Netlink, name: str, mtu: int, addresses: list[str], queue: int = QUEUE
) -> list[str]:
    """Give a link its MTU, queue and addresses and bring it up; return what was not possible."""
    index = netlink.index(name)
    if index is None:
        raise HostChangeFailed(f"the interface {name} vanished while it was made")
    notes = []
    try:
        with contextlib.suppress(OSError):  # a kernel without IPv6
            netlink.no_link_local(index)
        netlink.set_link(index, mtu=mtu, queue=queue, up=True)
        for text in addresses:
            address = ip_address(text)
            try:
                if address.version == 6:
                    namespace_linux.set_sysctls({f"net/ipv6/conf/{name}/disable_ipv6": "0"})
                netlink.add_address(index, address)
            except OSError as problem:
                if address.version == 4:
                    raise
                notes.append(f"no IPv6 on this host ({problem.strerror})")
    except OSError as problem:
        raise HostChangeFailed(f"{name} can't be configured: {problem.strerror}") from problem
    return notes


def listener(address: str, port: int, device: str = "") -> socket.socket:
    """Open a listening socket. Accepted ones inherit what is set here, the device included."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 300)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 30)
    if device:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    sock.bind((address, port))
    sock.listen(BACKLOG)
    return sock


def _listen(plan: Plan) -> list[socket.socket]:
    listeners = [listener(str(ip_address(plan.listener4)), plan.port)]
    with contextlib.suppress(OSError):  # a kernel without IPv6
        listeners.append(listener(str(ip_address(plan.listener6)), plan.port))
    return listeners


def open_two(name: str, mtu: int, addresses: list[str]) -> Opened:
    """Make the VIF here and its counterpart in a private namespace, where this process then is."""
    vif = open_tun(name)
    outer = netlink_linux.Netlink()
    notes = configure(outer, name, mtu, addresses)
    outer.close()
    namespace_linux.enter_private()
    refused = namespace_linux.set_sysctls(namespace_linux.SYSCTLS)
    if refused:
        notes.append(f"sysctls not set: {', '.join(refused)}")
    plan = Plan(port=PORT)
    inner = open_tun("inner")
    netlink = netlink_linux.Netlink()
    listeners6 = str(ip_address(plan.listener6))
    notes += configure(netlink, "inner", mtu, [str(ip_address(plan.listener4)), listeners6])
    index = netlink.index("inner")
    for network in map(ip_network, POOLS.values()):
        with contextlib.suppress(OSError) if network.version == 6 else contextlib.nullcontext():
            netlink.add_route(network, index or 0)
    loopback = netlink.index("lo")
    netlink.set_link(loopback or 0, up=True)
    netlink.close()
    return Opened(mtu, vif, inner, Reflector(plan, {}), _listen(plan), notes)
