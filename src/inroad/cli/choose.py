"""What depends on the platform: how the daemon is reached and started, and whether we are root."""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path
    from typing import IO

if sys.platform == "win32":
    import msvcrt

    from inroad.cli.pipe import PipeSocket
    from inroad.cli.system_windows import close as close_process
    from inroad.cli.system_windows import is_root, run_elevated, wait_for
    from inroad.cli.system_windows import open_pipe as connect_socket
    from inroad.cli.system_windows import server_of as peer_process

    Connection = PipeSocket
    WITH_SUDO = False

    def lock(fd: int, *, wait: bool) -> None:
        """Lock an open file until it is closed; raises `BlockingIOError` when taken and not `wait`."""
        while True:
            try:
                # LK_LOCK tries for 10 s, then raises
                msvcrt.locking(fd, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError:
                if not wait:
                    raise BlockingIOError(fd) from None
            else:
                return

    def has_terminal() -> bool:
        """Say whether there is a terminal that a password can be asked on: Windows asks on the desktop."""
        return False

    def spawn_daemon(command: list[str], log: Path) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        """Start the daemon on its own, with its log; returns it and what it says when it serves."""
        import subprocess  # noqa: PLC0415 - most commands start nothing

        flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
        with log.open("ab") as file:
            process = subprocess.Popen(
                [*command, "--ready-fd", "1"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                creationflags=flags,
            )
        assert process.stdout is not None  # noqa: S101 - it was asked for
        return process, process.stdout

else:
    import fcntl
    import os
    import select

    Connection = socket.socket
    WITH_SUDO = True

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

    def wait_for(process: int, timeout: float) -> None:
        """Wait for the end of a process (of `peer_process`) for so many seconds at most."""
        select.select([process], [], [], timeout)

    def close_process(process: int) -> None:
        """Close what `peer_process` returned."""
        os.close(process)

    def run_elevated(command: list[str]) -> int | None:
        """Return None: sudo does that here."""
        return None

    def spawn_daemon(command: list[str], log: Path) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        """Start the daemon in a session of its own; returns it and what it says when it serves."""
        import subprocess  # noqa: PLC0415 - most commands start nothing

        ready, ready_write = os.pipe()
        with log.open("ab") as file:
            process = subprocess.Popen(
                [*command, "--ready-fd", str(ready_write)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                pass_fds=[ready_write],
                cwd="/",
                start_new_session=True,
            )
        os.close(ready_write)
        return process, os.fdopen(ready, "rb")

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


__all__ = [
    "Connection",
    "WITH_SUDO",
    "close_process",
    "connect_socket",
    "has_terminal",
    "is_root",
    "lock",
    "peer_process",
    "run_elevated",
    "spawn_daemon",
    "wait_for",
]
