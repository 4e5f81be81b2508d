"""The named pipe of the local API, and who calls there.

The default security of a pipe lets only administrators write to it, so it is given a list of its own: the
system, administrators, and the user that the daemon was started for. Others of the name's instances take the
first one's. Who calls is what the system says of the calling process, never what it says itself.
"""

from __future__ import annotations

import asyncio
import sys

assert sys.platform == "win32"  # noqa: S101 - tells mypy

import ctypes  # noqa: E402
from asyncio import windows_events, windows_utils  # noqa: E402
from collections.abc import Callable  # noqa: E402
from ctypes import wintypes  # noqa: E402
from typing import Any  # noqa: E402

from inroad.daemon.side_loop import Factory  # noqa: E402
from inroad.host.conversation.conversation_windows import UserToken  # noqa: E402
from inroad.host.user_windows import sid_of_process  # noqa: E402

_DUPLEX, _OVERLAPPED, _FIRST = 0x3, 0x40000000, 0x80000
_REJECT_REMOTE = 0x8
_UNLIMITED, _BUFFER = 255, 65_536
_INVALID = ctypes.c_void_p(-1).value
_REVISION = 1

_kernel = ctypes.WinDLL("kernel32", use_last_error=True)
_security = ctypes.WinDLL("advapi32", use_last_error=True)
_kernel.CreateNamedPipeW.restype = wintypes.HANDLE
_kernel.CreateNamedPipeW.argtypes = (wintypes.LPCWSTR, *[wintypes.DWORD] * 6, ctypes.c_void_p)
_kernel.GetNamedPipeClientProcessId.argtypes = (wintypes.HANDLE, ctypes.POINTER(wintypes.ULONG))
_kernel.LocalFree.argtypes = (ctypes.c_void_p,)
_security.ConvertStringSecurityDescriptorToSecurityDescriptorW.argtypes = (
    wintypes.LPCWSTR,
    wintypes.DWORD,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)


class _Attributes(ctypes.Structure):
    """SECURITY_ATTRIBUTES."""

    _fields_ = (
        ("length", wintypes.DWORD),
        ("descriptor", ctypes.c_void_p),
        ("inherit", wintypes.BOOL),
    )


def make_pipe(name: str, access: str, *, first: bool) -> windows_utils.PipeHandle:
    """Make an instance of a named pipe that `access` (a DACL in SDDL) may open; remote callers may not.

    `first`: fail when somebody else has a pipe of that name already.
    """
    descriptor = ctypes.c_void_p()
    if not _security.ConvertStringSecurityDescriptorToSecurityDescriptorW(
        access, _REVISION, ctypes.byref(descriptor), None
    ):
        raise ctypes.WinError(ctypes.get_last_error())
    try:
        attributes = _Attributes(ctypes.sizeof(_Attributes), descriptor, False)
        flags = _DUPLEX | _OVERLAPPED | (_FIRST if first else 0)
        handle = _kernel.CreateNamedPipeW(
            name, flags, _REJECT_REMOTE, _UNLIMITED, _BUFFER, _BUFFER, 0, ctypes.byref(attributes)
        )
    finally:
        _kernel.LocalFree(descriptor)
    if handle == _INVALID:
        raise ctypes.WinError(ctypes.get_last_error())
    return windows_utils.PipeHandle(handle)


class PipeServer:
    """Accepts callers of a pipe in a proactor loop. To be used within that loop only."""

    def __init__(
        self, loop: windows_events.ProactorEventLoop, name: str, access: str, factory: Factory
    ) -> None:
        self._loop: Any = loop  # what accepts pipes has no public name
        self._name, self._access, self._factory = name, access, factory
        self._waiting = make_pipe(name, access, first=True)
        self._task = loop.create_task(self._accept())

    async def _accept(self) -> None:
        while True:
            pipe = self._waiting
            try:
                await self._loop._proactor.accept_pipe(pipe)
            except OSError:  # it came and went
                pipe.close()
                self._waiting = make_pipe(self._name, self._access, first=False)
                continue
            # There is always one that waits, or the next caller would find no pipe.
            self._waiting = make_pipe(self._name, self._access, first=False)
            self._loop._make_duplex_pipe_transport(pipe, self._factory(), extra={"addr": self._name})

    def close(self) -> None:
        """Accept no more."""
        self._task.cancel()
        self._waiting.close()


def listen(loop: asyncio.AbstractEventLoop, name: str, access: str, factory: Factory) -> Callable[[], None]:
    """Begin to listen in a proactor loop; see `side_loop.Listen`."""
    assert isinstance(loop, windows_events.ProactorEventLoop)  # noqa: S101
    return PipeServer(loop, name, access, factory).close


def caller(transport: asyncio.BaseTransport) -> tuple[bytes, UserToken]:
    """Return SID and rights of the user at the other end of a pipe. Raises `OSError`."""
    pipe: windows_utils.PipeHandle = transport.get_extra_info("pipe")
    process = wintypes.ULONG()
    if not _kernel.GetNamedPipeClientProcessId(pipe.handle, ctypes.byref(process)):
        raise ctypes.WinError(ctypes.get_last_error())
    return sid_of_process(process.value), UserToken(process.value)
