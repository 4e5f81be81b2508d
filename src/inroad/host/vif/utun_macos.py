"""The system calls behind `utun.Kernel` on a Mac."""

from __future__ import annotations

import fcntl
import os
import socket
import sys

from inroad.core.checksum import Buffer

assert sys.platform == "darwin"  # noqa: S101 - tells mypy

_PF_SYSTEM, _SYSPROTO_CONTROL = 32, 2


class Mac:
    """See `utun.Kernel`."""

    readv = staticmethod(os.readv)

    def control_socket(self) -> int:
        """See `Kernel`."""
        return socket.socket(_PF_SYSTEM, socket.SOCK_DGRAM, _SYSPROTO_CONTROL).detach()

    def ioctl(self, fd: int, request: int, argument: bytes) -> bytes:
        """See `Kernel`."""
        return fcntl.ioctl(fd, request, argument)

    def connect(self, fd: int, control: int, unit: int) -> None:
        """See `Kernel`."""
        sock = socket.socket(_PF_SYSTEM, socket.SOCK_DGRAM, _SYSPROTO_CONTROL, fileno=fd)
        try:
            sock.connect((control, unit))
            sock.setblocking(False)
        finally:
            sock.detach()

    def getsockopt(self, fd: int, level: int, option: int, size: int) -> bytes:
        """See `Kernel`."""
        sock = socket.socket(_PF_SYSTEM, socket.SOCK_DGRAM, _SYSPROTO_CONTROL, fileno=fd)
        try:
            return sock.getsockopt(level, option, size)
        finally:
            sock.detach()

    def writev(self, fd: int, buffers: list[Buffer]) -> int:
        """See `Kernel`."""
        return os.writev(fd, buffers)

    def close(self, fd: int) -> None:
        """See `Kernel`."""
        os.close(fd)
