"""Users of Windows: by the security identifier (SID) of the token that their processes have.

Source: winnt.h (TOKEN_USER, SID), sddl.h, securitybaseapi.h. A SID is at most 68 bytes.
"""

from __future__ import annotations

import sys

assert sys.platform == "win32"  # noqa: S101 - tells mypy

import ctypes  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from ctypes import wintypes  # noqa: E402

QUERY_LIMITED, TOKEN_QUERY, TOKEN_USER = 0x1000, 0x8, 1
_MAX = 256

_kernel = ctypes.WinDLL("kernel32", use_last_error=True)
_security = ctypes.WinDLL("advapi32", use_last_error=True)
_handle = ctypes.POINTER(wintypes.HANDLE)
_kernel.OpenProcess.restype = wintypes.HANDLE
_kernel.OpenProcess.argtypes = (wintypes.DWORD, wintypes.BOOL, wintypes.DWORD)
_kernel.CloseHandle.argtypes = (wintypes.HANDLE,)
_kernel.LocalFree.argtypes = (ctypes.c_void_p,)
_kernel.GetCurrentProcessId.restype = wintypes.DWORD
_security.OpenProcessToken.argtypes = (wintypes.HANDLE, wintypes.DWORD, _handle)
_security.GetTokenInformation.argtypes = (
    wintypes.HANDLE,
    ctypes.c_int,
    ctypes.c_void_p,
    wintypes.DWORD,
    ctypes.POINTER(wintypes.DWORD),
)
_security.GetLengthSid.argtypes = (ctypes.c_void_p,)
_security.GetLengthSid.restype = wintypes.DWORD
_security.ConvertSidToStringSidW.argtypes = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
_security.LookupAccountSidW.argtypes = (
    *(wintypes.LPCWSTR, ctypes.c_void_p),
    *(wintypes.LPWSTR, ctypes.POINTER(wintypes.DWORD)),
    *(wintypes.LPWSTR, ctypes.POINTER(wintypes.DWORD)),
    ctypes.POINTER(ctypes.c_int),
)


class _TokenUser(ctypes.Structure):
    """TOKEN_USER: a SID_AND_ATTRIBUTES whose SID lies behind it in the same buffer."""

    _fields_ = (("sid", ctypes.c_void_p), ("attributes", wintypes.DWORD))


def check(done: int) -> None:
    """Raise the `OSError` of a call that returned 0."""
    if not done:
        raise ctypes.WinError(ctypes.get_last_error())


@contextmanager
def token_of(process: int, access: int) -> Iterator[wintypes.HANDLE]:
    """Open the token of a process, given by its id."""
    handle = _kernel.OpenProcess(QUERY_LIMITED, False, process)
    check(bool(handle))
    token = wintypes.HANDLE()
    try:
        check(_security.OpenProcessToken(handle, access, ctypes.byref(token)))
    finally:
        _kernel.CloseHandle(handle)
    try:
        yield token
    finally:
        _kernel.CloseHandle(token)


def sid_of_process(process: int) -> bytes:
    """Return the SID of the user that a process runs as."""
    with token_of(process, TOKEN_QUERY) as token:
        buffer, size = ctypes.create_string_buffer(_MAX), wintypes.DWORD()
        check(_security.GetTokenInformation(token, TOKEN_USER, buffer, _MAX, ctypes.byref(size)))
        sid = _TokenUser.from_buffer(buffer).sid
        return ctypes.string_at(sid, _security.GetLengthSid(sid))


def own_sid() -> bytes:
    """Return the SID of the user that this process runs as."""
    return sid_of_process(_kernel.GetCurrentProcessId())


def text_of(sid: bytes) -> str:
    """Return a SID as SDDL has it: `S-1-5-21-...`."""
    text = ctypes.c_void_p()
    check(_security.ConvertSidToStringSidW(sid, ctypes.byref(text)))
    try:
        return ctypes.wstring_at(text.value or 0)
    finally:
        _kernel.LocalFree(text)


def name_of(sid: bytes) -> str:
    """Return the user's name, or the SID where nobody knows it."""
    name, domain = ctypes.create_unicode_buffer(_MAX), ctypes.create_unicode_buffer(_MAX)
    sizes, kind = (wintypes.DWORD(_MAX), wintypes.DWORD(_MAX)), ctypes.c_int()
    if not _security.LookupAccountSidW(
        None, sid, name, ctypes.byref(sizes[0]), domain, ctypes.byref(sizes[1]), ctypes.byref(kind)
    ):
        return text_of(sid)
    return name.value
