"""What the command asks of Windows: the daemon's pipe, its process, and a program with more rights."""

from __future__ import annotations

import sys

assert sys.platform == "win32"  # noqa: S101 - tells mypy

import _winapi  # noqa: E402
import ctypes  # noqa: E402
import io  # noqa: E402
import msvcrt  # noqa: E402
import os  # noqa: E402
import subprocess  # noqa: E402
from ctypes import wintypes  # noqa: E402

from inroad.cli.pipe import PipeSocket  # noqa: E402

_USE = 0x12008B
"""FILE_GENERIC_READ and FILE_WRITE_DATA: GENERIC_WRITE has FILE_APPEND_DATA in it, which is refused."""
_IDENTIFY_ONLY = 0x00100000 | 0x00010000
"""SECURITY_SQOS_PRESENT, SECURITY_IDENTIFICATION: whoever serves the pipe can't act as us."""
_BUSY = 231
_SYNCHRONIZE = 0x00100000
_NO_CLOSE_PROCESS, _SHOW_NORMAL, _CANCELLED = 0x40, 1, 1223


class _ExecuteInfo(ctypes.Structure):
    """SHELLEXECUTEINFOW."""

    _fields_ = (
        ("size", wintypes.DWORD),
        ("mask", wintypes.ULONG),
        ("window", wintypes.HWND),
        ("verb", wintypes.LPCWSTR),
        ("file", wintypes.LPCWSTR),
        ("parameters", wintypes.LPCWSTR),
        ("directory", wintypes.LPCWSTR),
        ("show", ctypes.c_int),
        ("instance", wintypes.HINSTANCE),
        ("id_list", ctypes.c_void_p),
        ("class_name", wintypes.LPCWSTR),
        ("class_key", wintypes.HKEY),
        ("hot_key", wintypes.DWORD),
        ("icon", wintypes.HANDLE),
        ("process", wintypes.HANDLE),
    )


def is_root() -> bool:
    """Say whether this process is an administrator's, elevated."""
    return bool(ctypes.WinDLL("shell32").IsUserAnAdmin())


def open_pipe(name: str, timeout: float | None) -> PipeSocket:
    """Open the daemon's pipe; waits for so many seconds where all its instances are taken."""
    while True:
        try:
            handle = _winapi.CreateFile(
                name, _USE, 0, _winapi.NULL, _winapi.OPEN_EXISTING, _IDENTIFY_ONLY, _winapi.NULL
            )
        except OSError as problem:
            if problem.winerror != _BUSY:
                raise
            _winapi.WaitNamedPipe(name, int((timeout or 5.0) * 1000))
        else:
            fd = msvcrt.open_osfhandle(handle, os.O_RDWR | os.O_BINARY)
            return PipeSocket(io.FileIO(fd, "r+b"))


def server_of(pipe: PipeSocket) -> int | None:
    """Return a handle of the process that serves a pipe, None when it is not to be had."""
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.GetNamedPipeServerProcessId.argtypes = (wintypes.HANDLE, ctypes.POINTER(wintypes.ULONG))
    process = wintypes.ULONG()
    if not kernel.GetNamedPipeServerProcessId(msvcrt.get_osfhandle(pipe.fileno()), ctypes.byref(process)):
        return None
    try:
        return _winapi.OpenProcess(_SYNCHRONIZE, False, process.value)
    except OSError:
        return None


def wait_for(process: int, timeout: float) -> None:
    """Wait for the end of a process for so many seconds at most."""
    _winapi.WaitForSingleObject(process, int(timeout * 1000))


def close(process: int) -> None:
    """Close a handle of a process."""
    _winapi.CloseHandle(process)


def run_elevated(command: list[str]) -> int | None:
    """Run a command as an administrator, after Windows asked the user; returns its status.

    None when the user said no.
    """
    shell = ctypes.WinDLL("shell32", use_last_error=True)
    info = _ExecuteInfo(size=ctypes.sizeof(_ExecuteInfo), mask=_NO_CLOSE_PROCESS, show=_SHOW_NORMAL)
    info.verb, info.file, info.parameters = "runas", command[0], subprocess.list2cmdline(command[1:])
    if not shell.ShellExecuteExW(ctypes.byref(info)):
        number = ctypes.get_last_error()
        if number == _CANCELLED:
            return None
        raise ctypes.WinError(number)
    try:
        _winapi.WaitForSingleObject(info.process, _winapi.INFINITE)
        return _winapi.GetExitCodeProcess(info.process)
    finally:
        _winapi.CloseHandle(info.process)
