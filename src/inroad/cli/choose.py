"""What depends on the platform: how the daemon's socket is reached, and whether we are root."""

from __future__ import annotations

import socket
import struct
import sys

from inroad.core.errors import NoPrivilege

if sys.platform == "win32":

    def is_root() -> bool:
        """Say whether this process may start the daemon itself."""
        return False

    def connect_socket(path: str, timeout: float | None) -> socket.socket:
        """Raise: Python on Windows has no Unix sockets."""
        raise NoPrivilege(f"no daemon can be reached at {path} on Windows", "run inroad in WSL")

    def peer_process(sock: socket.socket) -> int | None:
        """Return None: there is no peer."""
        return None

    def lock(fd: int, *, wait: bool) -> None:
        """Raise: nothing is started here."""
        raise NoPrivilege("no daemon can be started on Windows", "run inroad in WSL")

    def has_terminal() -> bool:
        """Say whether there is a terminal that a password can be asked on."""
        return False

else:
    import fcntl
    import os

    def is_root() -> bool:
        """Say whether this process may start the daemon itself."""
        return os.geteuid() == 0

    def connect_socket(path: str, timeout: float | None) -> socket.socket:
        """Return a socket connected to the daemon; raises `OSError`. `timeout` in seconds."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            raise
        return sock

    def peer_process(sock: socket.socket) -> int | None:
        """Return a descriptor that becomes readable when the process at the other end has ended.

        None where the kernel can't say (macOS), or when that process is not to be seen from here.
        """
        if sys.platform != "linux":
            return None
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        try:
            return os.pidfd_open(struct.unpack("3i", credentials)[0])
        except OSError:
            return None

    def lock(fd: int, *, wait: bool) -> None:
        """Lock an open file until it is closed; raises `BlockingIOError` when taken and not `wait`."""
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)

    def has_terminal() -> bool:
        """Say whether there is a terminal that a password can be asked on."""
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError:
            return False
        return True
