"""What the platform decides for the daemon: its lock, its socket, and who calls there. Linux so far."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

if sys.platform == "linux":
    import contextlib
    import fcntl
    import grp
    import os
    import struct

    END_SIGNALS: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def is_root() -> bool:
        """Say whether this process may change the host."""
        return os.geteuid() == 0

    def lock(descriptor: int) -> None:
        """Lock an open file for as long as it is open; raises `BlockingIOError` when another has it."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def caller(sock: socket.socket) -> tuple[int, int]:
        """Return uid and gid of the process at the other end of a Unix socket, as the kernel knows them."""
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, gid = struct.unpack("3i", raw)
        return uid, gid

    def bind_socket(path: Path, owner: int, group: str) -> socket.socket:
        """Bind a Unix socket for `owner` and root to connect to; for owner 0 also for a group's members."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        previous = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(previous)
        if owner:
            os.chown(path, owner, -1)
        else:
            with contextlib.suppress(KeyError):
                os.chown(path, 0, grp.getgrnam(group).gr_gid)
                path.chmod(0o660)
        return listener

else:
    END_SIGNALS: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)

    def is_root() -> bool:
        """Say no: there is no daemon here."""
        return False

    def lock(descriptor: int) -> None:
        """Raise: there is no daemon here."""
        raise BlockingIOError(descriptor)

    def caller(sock: socket.socket) -> tuple[int, int]:
        """Raise: who calls is not known here, so nobody is served."""
        raise PermissionError(sock.fileno())

    def bind_socket(path: Path, owner: int, group: str) -> socket.socket:
        """Raise: there is no daemon here."""
        raise PermissionError(f"{path} for {owner} and {group}")
