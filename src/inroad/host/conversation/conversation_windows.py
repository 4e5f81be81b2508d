"""A program that runs as another user of Windows, is handed something, and answers.

It gets a copy of the token that the caller's own process has, so it has the caller's rights and no more (not
the elevated ones). A job ends it together with whatever it started.

Source: CreateProcessWithTokenW and DuplicateTokenEx (winbase.h, securitybaseapi.h), job objects (jobapi2.h).
"""

from __future__ import annotations

import asyncio
import sys

assert sys.platform == "win32"  # noqa: S101 - tells mypy

import ctypes  # noqa: E402
import msvcrt  # noqa: E402
import os  # noqa: E402
import subprocess  # noqa: E402
from collections.abc import Mapping, Sequence  # noqa: E402
from ctypes import wintypes  # noqa: E402

from inroad.host.user_windows import TOKEN_QUERY, check, token_of  # noqa: E402

_TOKEN_DUPLICATE, _TOKEN_ALL = 0x2, 0x02000000  # MAXIMUM_ALLOWED
_IMPERSONATION, _PRIMARY = 2, 1
_SUSPENDED, _UNICODE_ENVIRONMENT, _NO_WINDOW = 0x4, 0x400, 0x08000000
_USE_HANDLES = 0x100
_KILL_ON_CLOSE, _EXTENDED_LIMITS = 0x2000, 9
ENVIRONMENT = {"SystemRoot": r"C:\Windows", "PATH": r"C:\Windows\System32;C:\Windows"}
"""What every program needs there; the caller's own variables come with what it is handed."""

_kernel = ctypes.WinDLL("kernel32", use_last_error=True)
_security = ctypes.WinDLL("advapi32", use_last_error=True)


class StartupInfo(ctypes.Structure):
    """STARTUPINFOW."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("reserved", wintypes.LPWSTR),
        ("desktop", wintypes.LPWSTR),
        ("title", wintypes.LPWSTR),
        ("place_and_size", ctypes.c_uint32 * 6),
        ("fill", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("show", ctypes.c_uint16),
        ("reserved_size", ctypes.c_uint16),
        ("reserved_bytes", ctypes.c_void_p),
        ("stdin", wintypes.HANDLE),
        ("stdout", wintypes.HANDLE),
        ("stderr", wintypes.HANDLE),
    )


class ProcessInfo(ctypes.Structure):
    """PROCESS_INFORMATION."""

    _fields_ = (
        ("process", wintypes.HANDLE),
        ("thread", wintypes.HANDLE),
        ("process_id", ctypes.c_uint32),
        ("thread_id", ctypes.c_uint32),
    )


class JobLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION: basic limits, I/O counters, four sizes."""

    _fields_ = (
        ("times", ctypes.c_int64 * 2),
        ("flags", ctypes.c_uint32),
        ("working_set", ctypes.c_size_t * 2),
        ("processes", ctypes.c_uint32),
        ("affinity", ctypes.c_size_t),
        ("classes", ctypes.c_uint32 * 2),
        ("counters", ctypes.c_uint64 * 6),
        ("memory", ctypes.c_size_t * 4),
    )


_handles = ctypes.POINTER(wintypes.HANDLE)
for _library, _name, _result, _arguments in (
    (
        _security,
        "DuplicateTokenEx",
        wintypes.BOOL,
        (wintypes.HANDLE, wintypes.DWORD, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, _handles),
    ),
    (
        _security,
        "CreateProcessWithTokenW",
        wintypes.BOOL,
        (
            *(wintypes.HANDLE, wintypes.DWORD, wintypes.LPCWSTR, wintypes.LPWSTR, wintypes.DWORD),
            *(ctypes.c_void_p, wintypes.LPCWSTR, ctypes.POINTER(StartupInfo), ctypes.POINTER(ProcessInfo)),
        ),
    ),
    (_kernel, "CreateJobObjectW", wintypes.HANDLE, (ctypes.c_void_p, wintypes.LPCWSTR)),
    (
        _kernel,
        "SetInformationJobObject",
        wintypes.BOOL,
        (wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.DWORD),
    ),
    (_kernel, "AssignProcessToJobObject", wintypes.BOOL, (wintypes.HANDLE, wintypes.HANDLE)),
    (_kernel, "TerminateProcess", wintypes.BOOL, (wintypes.HANDLE, wintypes.UINT)),
    (_kernel, "ResumeThread", wintypes.DWORD, (wintypes.HANDLE,)),
    (_kernel, "CloseHandle", wintypes.BOOL, (wintypes.HANDLE,)),
):
    _function = getattr(_library, _name)
    _function.restype, _function.argtypes = _result, _arguments


class UserToken:
    """The rights of the user of a process, kept for as long as this object is."""

    def __init__(self, process: int) -> None:
        self.handle = wintypes.HANDLE()
        with token_of(process, TOKEN_QUERY | _TOKEN_DUPLICATE) as token:
            check(
                _security.DuplicateTokenEx(
                    token, _TOKEN_ALL, None, _IMPERSONATION, _PRIMARY, ctypes.byref(self.handle)
                )
            )

    def __del__(self) -> None:
        _kernel.CloseHandle(self.handle)


class _Job:
    """Ends every process in it when it is closed."""

    def __init__(self) -> None:
        self.handle = wintypes.HANDLE(_kernel.CreateJobObjectW(None, None))
        check(bool(self.handle))
        limits = JobLimits(flags=_KILL_ON_CLOSE)
        check(
            _kernel.SetInformationJobObject(
                self.handle, _EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits)
            )
        )

    def close(self) -> None:
        if self.handle:
            _kernel.CloseHandle(self.handle)
            self.handle = wintypes.HANDLE()


def block(environment: Mapping[str, str]) -> str:
    """Return an environment as CreateProcess wants it: sorted, each variable ended by NUL, and one more."""
    return "".join(f"{name}={environment[name]}\0" for name in sorted(environment, key=str.upper)) + "\0"


async def converse(token: UserToken, argv: Sequence[str], given: bytes, *, limit: int) -> tuple[bytes, bytes]:
    """Run a program with the rights of `token`, else as `conversation_posix` does. Raises `OSError`."""
    job = _Job()
    try:
        (stdin, put), (get_out, stdout), (get_err, stderr) = os.pipe(), os.pipe(), os.pipe()
        try:
            _start(token, argv, job, (stdin, stdout, stderr))
        except OSError:
            for fd in (put, get_out, get_err):
                os.close(fd)
            raise
        finally:
            for fd in (stdin, stdout, stderr):
                os.close(fd)
        said = asyncio.gather(
            asyncio.to_thread(_write, put, given),
            asyncio.to_thread(_read, get_out, limit),
            asyncio.to_thread(_read, get_err, limit),
        )
        try:
            # Cancelled before it began, a thread would not close its end.
            _, out, err = await asyncio.shield(said)
        finally:
            job.close()  # and with it the program, so that the threads come to an end
            await asyncio.wait([said])
        return out, err
    finally:
        job.close()


def _start(token: UserToken, argv: Sequence[str], job: _Job, fds: tuple[int, int, int]) -> None:
    """Start a program in a job; it runs when this returns."""
    handles = [msvcrt.get_osfhandle(fd) for fd in fds]
    for handle in handles:
        os.set_handle_inheritable(handle, True)
    info = StartupInfo(size=ctypes.sizeof(StartupInfo), flags=_USE_HANDLES)
    info.stdin, info.stdout, info.stderr = handles
    process = ProcessInfo()
    line = ctypes.create_unicode_buffer(subprocess.list2cmdline(argv))
    environment = ctypes.create_unicode_buffer(block(ENVIRONMENT))
    check(
        _security.CreateProcessWithTokenW(
            token.handle,
            0,
            argv[0],
            line,
            _SUSPENDED | _UNICODE_ENVIRONMENT | _NO_WINDOW,
            environment,
            "C:\\",
            ctypes.byref(info),
            ctypes.byref(process),
        )
    )
    try:
        try:
            check(_kernel.AssignProcessToJobObject(job.handle, process.process))
        except OSError:
            _kernel.TerminateProcess(process.process, 1)
            raise
        _kernel.ResumeThread(process.thread)
    finally:
        _kernel.CloseHandle(process.thread)
        _kernel.CloseHandle(process.process)


def _write(fd: int, data: bytes) -> None:
    try:
        with os.fdopen(fd, "wb") as pipe:
            pipe.write(data)
    except OSError:  # it did not want it: what it says tells why
        return


def _read(fd: int, limit: int) -> bytes:
    kept = bytearray()
    with os.fdopen(fd, "rb", buffering=0) as pipe:
        while chunk := pipe.read(65_536):
            kept += chunk[: limit - len(kept)]
    return bytes(kept)
