"""Loading wintun.dll, and the events of Windows: what `wintun` needs of the system."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from ctypes import wintypes
from pathlib import Path

from inroad.core.errors import NoTunDevice
from inroad.host.vif.wintun import Wintun, bind

assert sys.platform == "win32"  # noqa: S101 - tells mypy

_INFINITE, _WAIT_FAILED, _WAIT_TIMEOUT = 0xFFFFFFFF, 0xFFFFFFFF, 0x102


def places() -> list[Path]:
    """Return where wintun.dll may be: only where nobody but an administrator can put a file."""
    programs = os.environ.get("ProgramFiles", r"C:\Program Files")  # noqa: SIM112 - that is its name
    return [Path(programs) / "inroad" / "wintun.dll", Path(r"C:\Windows\System32\wintun.dll")]


def load() -> Wintun:
    """Load the library; raises `NoTunDevice` saying where it was looked for."""
    for place in places():
        if not place.exists():
            continue
        try:
            functions = ctypes.WinDLL(str(place), use_last_error=True)
            bind(functions)
        except (OSError, AttributeError) as problem:
            raise NoTunDevice(
                f"{place} can't be used: {problem}", "it must be Wintun 0.14 for this kind of processor"
            ) from None
        return Wintun(functions, ctypes.get_last_error)
    raise NoTunDevice(
        f"wintun.dll is not at {' or '.join(map(str, places()))}",
        "get Wintun from https://www.wintun.net and copy its bin/amd64/wintun.dll (or arm64) there",
    )


class Events:
    """See `wintun.Waits`."""

    def __init__(self) -> None:
        self._kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        handle, pointer = wintypes.HANDLE, ctypes.c_void_p
        for name, result, arguments in (
            ("CreateEventW", handle, (pointer, wintypes.BOOL, wintypes.BOOL, wintypes.LPCWSTR)),
            ("SetEvent", wintypes.BOOL, (handle,)),
            ("CloseHandle", wintypes.BOOL, (handle,)),
            (
                "WaitForMultipleObjects",
                wintypes.DWORD,
                (wintypes.DWORD, pointer, wintypes.BOOL, wintypes.DWORD),
            ),
        ):
            function = getattr(self._kernel, name)
            function.restype, function.argtypes = result, arguments

    def event(self) -> int:
        """See `Waits`."""
        made = self._kernel.CreateEventW(None, True, False, None)
        if not made:
            raise ctypes.WinError(ctypes.get_last_error())
        return int(made)

    def set(self, event: int) -> None:
        """See `Waits`."""
        self._kernel.SetEvent(event)

    def wait(self, events: Sequence[int], timeout: float | None) -> int:
        """See `Waits`."""
        handles = (wintypes.HANDLE * len(events))(*events)
        limit = _INFINITE if timeout is None else int(timeout * 1000)
        answer = int(self._kernel.WaitForMultipleObjects(len(events), handles, False, limit))
        if answer == _WAIT_FAILED:
            raise ctypes.WinError(ctypes.get_last_error())
        return -1 if answer == _WAIT_TIMEOUT else answer

    def close(self, event: int) -> None:
        """See `Waits`."""
        self._kernel.CloseHandle(event)
