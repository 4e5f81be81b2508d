"""The VIFs of macOS and Windows on Linux: fakes of what only those systems have, over a real TUN.

    application --- inroad0 (a TUN) --- FakeMac: 4 bytes before each packet --------- Utun --- the VIF's loop
                                    --- FakeWintun: a ring, by real ctypes calls --- WintunDevice ---+

Commands (`ifconfig`, `netsh`, ...) are written down as text, and done with `ip` in this network namespace.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import select
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from ctypes import CFUNCTYPE, POINTER, c_uint32, c_void_p, c_wchar_p
from ipaddress import ip_address
from typing import Any

import pytest
from vif_stage import Daemon, Namespace, Stage, ip

from inroad.host.run import Completed
from inroad.host.vif.api import VifConfig
from inroad.host.vif.one_device import OneDeviceVif, Opened, begin
from inroad.host.vif.utun import open_macos
from inroad.host.vif.wintun import BUFFER_OVERFLOW, HANDLE_EOF, NO_MORE_ITEMS, Wintun, bind
from inroad.host.vif.wintun_setup import open_windows

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
ADDRESSES = (ip_address("246.246.0.1"), ip_address("fd00:0:0:246::1"))


def make_tun(fd: int, name: str) -> None:
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))


def open_tun() -> int:
    return os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


class Shell:
    """Runs the commands of another system: writes them down, and does here what they do there.

    `refuse`: parts of commands that fail, with what they say then.
    """

    def __init__(self) -> None:
        self.said: list[str] = []
        self.refuse: dict[str, str] = {}

    async def __call__(self, argv: Sequence[str]) -> Completed:
        line = " ".join(argv)
        self.said.append(line)
        for part, words in self.refuse.items():
            if part in line:
                return Completed(tuple(argv), 1, "", words)
        try:
            self.act(list(argv))
        except subprocess.CalledProcessError as refused:
            return Completed(tuple(argv), 1, "", refused.stderr)
        return Completed(tuple(argv), 0, "Ok.\n", "")

    def act(self, argv: list[str]) -> None:
        words = dict(word.split("=", 1) for word in argv if "=" in word)
        match argv:
            case ["/sbin/ifconfig", name, "inet", local, peer, "netmask", _, "mtu", mtu, "up"]:
                assert local == peer
                self.address(name, f"{local}/32")
                ip("link", "set", name, "mtu", mtu, "up")
            case ["/sbin/ifconfig", name, "inet6", local, "prefixlen", size, "alias"]:
                self.address(name, f"{local}/{size}")
            case ["/sbin/route", "-n", "add", _, "-net", network, "-interface", name]:
                ip("route", "add", network, "dev", name)
            case [_, "interface", "ipv4", "set", "address", *_]:
                self.address(words["name"], f"{words['address']}/32")
            case [_, "interface", "ipv6", "add", "address", *_]:
                self.address(words["interface"], words["address"])
            case [_, "interface", _, "set", "subinterface", *_]:
                ip("link", "set", words["interface"], "mtu", words["mtu"], "up")
            case [_, "interface", _, "add", "route", *_]:
                ip("route", "add", words["prefix"], "dev", words["interface"])
            case [_, "interface", _, "set", "interface", *_] | [_, "advfirewall", *_]:
                pass
            case _:
                raise AssertionError(f"nobody knows {argv}")

    def address(self, name: str, address: str) -> None:
        ip("address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))


class FakeMac:
    """Kernel control sockets; `calls` has what was asked, byte for byte."""

    def __init__(self, name: str = "utun7") -> None:
        self.name = name
        self.calls: list[str] = []
        self.refuse: dict[str, int] = {}

    def _call(self, name: str, *arguments: object) -> None:
        self.calls.append(f"{name}({', '.join(map(repr, arguments))})")
        if name in self.refuse:
            raise OSError(self.refuse[name], os.strerror(self.refuse[name]))

    def control_socket(self) -> int:
        self._call("control_socket")
        return open_tun()

    def ioctl(self, fd: int, request: int, argument: bytes) -> bytes:
        self._call("ioctl", hex(request), argument)
        return struct.pack("=I", 3) + argument[4:]

    def connect(self, fd: int, control: int, unit: int) -> None:
        self._call("connect", control, unit)
        make_tun(fd, self.name)

    def getsockopt(self, fd: int, level: int, option: int, size: int) -> bytes:
        self._call("getsockopt", level, option, size)
        return self.name.encode() + b"\0"

    def readv(self, fd: int, buffers: list[bytearray]) -> int:
        family, packet = buffers
        size = os.readv(fd, [packet])
        family[:] = struct.pack("!I", 2 if packet[0] >> 4 == 4 else 30)
        return size + len(family)

    def writev(self, fd: int, buffers: list[Any]) -> int:
        family, packet = buffers
        assert struct.unpack("!I", family) == (2 if packet[0] >> 4 == 4 else 30,)
        return 4 + os.write(fd, packet)

    def close(self, fd: int) -> None:
        self.calls.append("close()")
        os.close(fd)


class FakeWintun:
    """wintun.dll as its header describes it, called through ctypes as the real one is.

    A packet that was received stays the reader's until it is released; what was allocated is sent in the
    order of the allocations, by the call that completes the first of them.
    """

    ADAPTER, SESSION, EVENT = 0x7FF8_0000_1000, 0x7FF8_0000_2000, 0x7FF8_0000_3000

    def __init__(self, capacity: int = 0x400000) -> None:
        self.calls: list[str] = []
        self.fd = -1
        self.error = 0
        self.capacity = capacity
        self.lent: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.allocated: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.complete: set[int] = set()
        self.create = 0  # an error number
        self.faults: list[BaseException] = []
        for name, result, arguments in (
            ("CreateAdapter", c_void_p, (c_wchar_p, c_wchar_p, c_void_p)),
            ("CloseAdapter", None, (c_void_p,)),
            ("StartSession", c_void_p, (c_void_p, c_uint32)),
            ("EndSession", None, (c_void_p,)),
            ("GetReadWaitEvent", c_void_p, (c_void_p,)),
            ("ReceivePacket", c_void_p, (c_void_p, POINTER(c_uint32))),
            ("ReleaseReceivePacket", None, (c_void_p, c_void_p)),
            ("AllocateSendPacket", c_void_p, (c_void_p, c_uint32)),
            ("SendPacket", None, (c_void_p, c_void_p)),
        ):
            implementation = self._guarded(getattr(self, f"_{name}"))
            setattr(self, f"Wintun{name}", CFUNCTYPE(result, *arguments)(implementation))
        bind(self)

    def _guarded(self, implementation: Callable[..., Any]) -> Callable[..., Any]:
        """ctypes prints what a callback raises and goes on: keep it for the test."""

        def call(*arguments: Any) -> Any:
            try:
                return implementation(*arguments)
            except BaseException as fault:
                self.faults.append(fault)
                return None

        return call

    def library(self) -> Wintun:
        return Wintun(self, lambda: self.error)

    def _fail(self, number: int) -> None:
        self.error = number

    def _CreateAdapter(self, name: str, kind: str, guid: int | None) -> int | None:
        self.calls.append(f"WintunCreateAdapter({name!r}, {kind!r}, {guid})")
        if self.create:
            return self._fail(self.create)
        self.fd = open_tun()
        make_tun(self.fd, name)
        return self.ADAPTER

    def _CloseAdapter(self, adapter: int) -> None:
        assert adapter == self.ADAPTER
        self.calls.append("WintunCloseAdapter()")
        os.close(self.fd)
        self.fd = -1

    def _StartSession(self, adapter: int, capacity: int) -> int:
        assert adapter == self.ADAPTER
        assert capacity & (capacity - 1) == 0 and 0x20000 <= capacity <= 0x4000000
        self.calls.append(f"WintunStartSession(capacity={capacity:#x})")
        return self.SESSION

    def _EndSession(self, session: int) -> None:
        assert session == self.SESSION
        assert not self.lent, "packets that were never released"
        self.calls.append("WintunEndSession()")

    def _GetReadWaitEvent(self, session: int) -> int:
        assert session == self.SESSION
        return self.EVENT

    def _ReceivePacket(self, session: int, size: Any) -> int | None:
        assert session == self.SESSION
        if self.fd < 0:
            return self._fail(HANDLE_EOF)
        try:
            packet = os.read(self.fd, 65_536)
        except BlockingIOError:
            return self._fail(NO_MORE_ITEMS)
        except OSError:
            return self._fail(HANDLE_EOF)
        memory = ctypes.create_string_buffer(packet, len(packet))
        address = ctypes.addressof(memory)
        self.lent[address] = memory
        size[0] = len(packet)
        return address

    def _ReleaseReceivePacket(self, session: int, packet: int) -> None:
        del self.lent[packet]

    def _AllocateSendPacket(self, session: int, size: int) -> int | None:
        assert session == self.SESSION
        if size > 0xFFFF or sum(map(len, self.allocated.values())) + size > self.capacity:
            return self._fail(BUFFER_OVERFLOW)
        memory = ctypes.create_string_buffer(size)
        self.allocated[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def _SendPacket(self, session: int, packet: int) -> None:
        assert session == self.SESSION
        assert packet in self.allocated
        self.complete.add(packet)
        while self.allocated and (first := next(iter(self.allocated))) in self.complete:
            self.complete.discard(first)
            try:
                os.write(self.fd, self.allocated.pop(first).raw)
            except OSError as problem:
                assert problem.errno in (errno.EINVAL, errno.EIO)


class FakeWaits:
    """Events: those that we make are eventfds, the ring's is whether its TUN has a packet."""

    def __init__(self, wintun: FakeWintun) -> None:
        self.wintun = wintun

    def event(self) -> int:
        return os.eventfd(0)

    def set(self, event: int) -> None:
        os.eventfd_write(event, 1)

    def wait(self, events: Sequence[int], timeout: float | None) -> int:
        fds = [self.wintun.fd if event == FakeWintun.EVENT else event for event in events]
        ready = select.select(fds, [], [], timeout)[0]
        return min((fds.index(fd) for fd in ready), default=-1)

    def close(self, event: int) -> None:
        os.close(event)


class ForeignStage(Stage):
    """A stage whose VIF is that of another system."""

    def __init__(self, mode: str) -> None:
        super().__init__(mode)
        self.shell = Shell()
        self.mac = FakeMac()
        self.wintun = FakeWintun()

    async def opened(self, config: VifConfig) -> Opened:
        if self.mode == "utun":
            return await open_macos(config, self.mac, self.shell)
        return await open_windows(config, self.wintun.library(), FakeWaits(self.wintun), self.shell, None)

    async def open(self) -> None:
        config = VifConfig(addresses=ADDRESSES)
        self.vif: OneDeviceVif = await begin(
            await self.opened(config), config, self.daemon, self.mode, "test"
        )
        self.daemon.vif = self.vif
        for network in ("10.96.0.0/16", "10.244.0.0/16", "fd00:10:96::/112"):
            ip("route", "add", network, "dev", self.vif.name)

    async def close(self) -> None:
        await super().close()
        assert self.wintun.faults == []

    @property
    def worker(self) -> int:
        return os.getpid()


@pytest.fixture(params=["utun", "wintun"])
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[ForeignStage]:
    with Namespace():
        stage = ForeignStage(request.param)
        try:
            await stage.open()
            yield stage
        finally:
            await stage.close()
            await asyncio.sleep(0)


__all__ = ["ADDRESSES", "Daemon", "FakeMac", "FakeWaits", "FakeWintun", "ForeignStage", "Shell", "stage"]
