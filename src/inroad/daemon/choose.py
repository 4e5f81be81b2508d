"""What the platform decides for the daemon: its event loop, its lock, its endpoint, and who calls there."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inroad.daemon.user_child import Peer

if TYPE_CHECKING:
    from aiohttp import web

Close = Callable[[], Awaitable[None]]

if sys.platform == "win32":
    import ctypes
    import msvcrt

    END_SIGNALS: tuple[int, ...] = (signal.SIGINT, signal.SIGBREAK)

    def run(main: Coroutine[Any, Any, None]) -> None:
        """Run the daemon: libuv has `add_reader` and child processes, asyncio's loops lack one of them."""
        import winloop  # noqa: PLC0415 - only the long-running programs pay for it

        winloop.run(main)

    def is_root() -> bool:
        """Say whether this process may change the host: an administrator's, elevated."""
        return bool(ctypes.WinDLL("shell32").IsUserAnAdmin())

    def lock(descriptor: int) -> None:
        """Lock an open file for as long as it is open; raises `BlockingIOError` when another has it."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            raise BlockingIOError(descriptor) from None

    def owner() -> str:
        """Return whom the daemon was started for: a SID."""
        from inroad.host.user_windows import own_sid, text_of  # noqa: PLC0415

        return text_of(own_sid())

    async def open_endpoint(runner: web.AppRunner, path: Path, owner: str, group: str) -> Close:
        """Serve a named pipe for `owner` (a SID) and administrators; "": for who is logged on. No group."""
        from inroad.daemon import pipe_windows  # noqa: PLC0415
        from inroad.daemon.side_loop import SideLoop  # noqa: PLC0415

        del group
        access = pipe_access(owner)
        side = SideLoop(
            asyncio.ProactorEventLoop,
            lambda loop, factory: pipe_windows.listen(loop, str(path), access, factory),
            pipe_windows.caller,
        )
        await side.start(runner.server)  # type: ignore[arg-type]  # it makes protocols
        return side.close

    def caller(transport: asyncio.BaseTransport) -> Peer:
        """Return who is at the other end of the pipe, as the system knows it; raises `PermissionError`."""
        from inroad.host.user_windows import name_of  # noqa: PLC0415

        found = transport.get_extra_info("caller")
        if found is None:
            raise PermissionError("who calls is not known")
        sid, token = found
        return Peer(int.from_bytes(sid, "big"), 0, (), name_of(sid), token=token)

else:
    import contextlib
    import fcntl
    import grp
    import os
    import socket
    import struct

    END_SIGNALS: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def run(main: Coroutine[Any, Any, None]) -> None:
        """Run the daemon."""
        import uvloop  # noqa: PLC0415 - only the long-running programs pay for it

        uvloop.run(main)

    def is_root() -> bool:
        """Say whether this process may change the host."""
        return os.geteuid() == 0

    def lock(descriptor: int) -> None:
        """Lock an open file for as long as it is open; raises `BlockingIOError` when another has it."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def owner() -> str:
        """Return whom the daemon was started for: a uid."""
        return os.environ.get("SUDO_UID", "0")

    async def open_endpoint(runner: web.AppRunner, path: Path, owner: str, group: str) -> Close:
        """Serve a Unix socket for `owner` (a uid) and root; for root ("0", "") also for a group's members."""
        from aiohttp import web  # noqa: PLC0415

        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        previous = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(previous)
        if int(owner or 0):
            os.chown(path, int(owner), -1)
        else:
            with contextlib.suppress(KeyError):
                os.chown(path, 0, grp.getgrnam(group).gr_gid)
                path.chmod(0o660)
        site = web.SockSite(runner, listener)
        await site.start()

        async def close() -> None:
            await asyncio.to_thread(path.unlink, missing_ok=True)

        return close

    def caller(transport: asyncio.BaseTransport) -> Peer:
        """Return who is at the other end of a Unix socket, as the kernel knows it."""
        sock: socket.socket = transport.get_extra_info("socket")
        if sys.platform == "linux":
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            _, uid, gid = struct.unpack("3i", credentials)
        else:
            uid, gid = unpack_xucred(sock.getsockopt(SOL_LOCAL, LOCAL_PEERCRED, XUCRED.size))
        return Peer.of(uid, gid)

    XUCRED = struct.Struct("=IIhxx16I")
    """struct xucred of macOS (sys/ucred.h): version, uid, number of groups, groups; the first is the gid."""
    SOL_LOCAL, LOCAL_PEERCRED = 0, 1

    def unpack_xucred(raw: bytes) -> tuple[int, int]:
        """Return uid and gid of a struct xucred; raises `PermissionError` for another version of it."""
        version, uid, count, gid, *_ = XUCRED.unpack(raw)
        if version != 0 or count < 1:
            raise PermissionError("the kernel does not say who calls")
        return uid, gid


def pipe_access(owner: str) -> str:
    """Return the access list of the pipe, in SDDL: all for system and administrators, use for `owner`.

    `owner`: a SID, "" for everybody who is logged on at this computer. To use is to read, to write, and not
    to make instances of the pipe (FILE_APPEND_DATA), which would be another's server under our name.
    """
    return f"D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;0x12019b;;;{owner or 'IU'})"
