"""Wintun, the TUN device of Windows: a ring in memory shared with its driver.

Source: wintun.h of Wintun 0.14. Everything that only Windows has is behind `Wintun` (the library's functions,
bound by `SIGNATURES`) and `Waits`; `wintun_windows` has both, `wintun_setup` gives the adapter its addresses.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable, Sequence
from ctypes import POINTER, c_uint32, c_void_p, c_wchar_p
from dataclasses import dataclass
from typing import Any, Protocol

from inroad.core.checksum import Buffer
from inroad.core.errors import HostChangeFailed, InroadError, NoPrivilege

TUNNEL_TYPE = "inroad"
CAPACITY = 0x400000
"""Bytes of each ring: a power of two between 128 KiB and 64 MiB."""
MAX_PACKET = 0xFFFF

ACCESS_DENIED, INVALID_DATA, HANDLE_EOF, BUFFER_OVERFLOW, NO_MORE_ITEMS = 5, 13, 38, 111, 259
"""Numbers of winerror.h."""

SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "WintunCreateAdapter": (c_void_p, (c_wchar_p, c_wchar_p, c_void_p)),
    "WintunCloseAdapter": (None, (c_void_p,)),
    "WintunStartSession": (c_void_p, (c_void_p, c_uint32)),
    "WintunEndSession": (None, (c_void_p,)),
    "WintunGetReadWaitEvent": (c_void_p, (c_void_p,)),
    "WintunReceivePacket": (c_void_p, (c_void_p, POINTER(c_uint32))),
    "WintunReleaseReceivePacket": (None, (c_void_p, c_void_p)),
    "WintunAllocateSendPacket": (c_void_p, (c_void_p, c_uint32)),
    "WintunSendPacket": (None, (c_void_p, c_void_p)),
}
"""Result and arguments of each function that is used. Handles and packets are addresses; BOOL is not used."""


@dataclass(frozen=True, slots=True)
class Wintun:
    """The library: `functions` has those of `SIGNATURES` as attributes, `last_error` is GetLastError."""

    functions: Any
    last_error: Callable[[], int]


class Waits(Protocol):
    """Events of Windows."""

    def event(self) -> int:
        """Make one that stays set (CreateEventW)."""

    def set(self, event: int) -> None:
        """SetEvent."""

    def wait(self, events: Sequence[int], timeout: float | None) -> int:
        """Return the index of an event that is set, -1 after the time-out in seconds (None: for ever)."""

    def close(self, event: int) -> None:
        """CloseHandle."""


def bind(functions: Any) -> None:
    """Tell ctypes the signatures, or handles of 64 bits would be cut; raises `AttributeError`."""
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(functions, name)
        function.restype, function.argtypes = result, arguments


class WintunDevice:
    """See `one_device.Device`. A thread waits for packets, which takes no GIL; the event loop reads them."""

    def __init__(self, library: Wintun, waits: Waits, name: str) -> None:
        self.name = name
        self._bytes = bytearray(MAX_PACKET + 1)
        self.buffer = memoryview(self._bytes)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._bytes))
        self._wintun, self._error, self._waits = library.functions, library.last_error, waits
        self._size = c_uint32()
        self._drained = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._adapter = self._wintun.WintunCreateAdapter(name, TUNNEL_TYPE, None)
        if not self._adapter:
            raise _refused(f"the adapter {name} can't be made", self._error())
        self._session = self._wintun.WintunStartSession(self._adapter, CAPACITY)
        if not self._session:
            number = self._error()
            self._wintun.WintunCloseAdapter(self._adapter)
            raise _refused(f"the adapter {name} can't be used", number)
        self._readable = self._wintun.WintunGetReadWaitEvent(self._session)
        self._stop = waits.event()

    def receive(self) -> int:
        """See `Device`. The packet is copied out at once, so that the driver has its place again."""
        packet = self._wintun.WintunReceivePacket(self._session, self._size)
        if not packet:
            number = self._error()
            if number == NO_MORE_ITEMS:
                return 0
            raise OSError(number, _words(number))
        size = self._size.value
        ctypes.memmove(self._address, packet, size)
        self._wintun.WintunReleaseReceivePacket(self._session, packet)
        return size

    def send(self, packet: Buffer) -> None:
        """See `Device`."""
        size = len(packet)
        place = self._wintun.WintunAllocateSendPacket(self._session, size)
        if not place:
            number = self._error()
            if number == BUFFER_OVERFLOW:
                return
            raise OSError(number, _words(number))
        ctypes.memmove(place, bytes(packet), size)
        self._wintun.WintunSendPacket(self._session, place)

    def wait(self, timeout: float) -> bool:
        """See `Device`."""
        return self._waits.wait([self._readable], timeout) == 0

    def watch(self, drain: Callable[[], bool]) -> None:
        """See `Device`."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            if self._closed:
                return
            if drain():
                loop.call_soon(read)
            else:
                self._drained.set()

        def wait() -> None:
            while True:
                # The event may have been set for packets that were read since: one more look is harmless.
                self._drained.clear()
                try:
                    loop.call_soon_threadsafe(read)
                except RuntimeError:  # the loop has ended
                    return
                self._drained.wait()
                if self._waits.wait([self._stop, self._readable], None) == 0:
                    return

        self._thread = threading.Thread(target=wait, name="wintun", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """See `Device`."""
        if self._closed:
            return
        self._closed = True
        self._waits.set(self._stop)
        self._drained.set()
        if self._thread is not None:
            self._thread.join()
        self._wintun.WintunEndSession(self._session)
        self._wintun.WintunCloseAdapter(self._adapter)
        self._waits.close(self._stop)


def _words(number: int) -> str:
    known = {
        HANDLE_EOF: "the adapter is being removed",
        INVALID_DATA: "the ring is damaged",
        ACCESS_DENIED: "access is denied",
    }
    return known.get(number, f"Windows error {number}")


def _refused(what: str, number: int) -> InroadError:
    if number == ACCESS_DENIED:
        return NoPrivilege(f"{what}: access is denied", "run the daemon as an administrator")
    return HostChangeFailed(f"{what}: {_words(number)}")
