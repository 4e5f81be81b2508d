"""Hears of route changes on Windows: NotifyRouteChange2 of iphlpapi. Never run on a real Windows yet."""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Callable

from inroad.host.routes.monitor import COALESCE, Cooldown

assert sys.platform == "win32"  # noqa: S101 - tells mypy

_AF_UNSPEC = 0


def watch_routes(on_change: Callable[[], None]) -> Callable[[], None]:
    """Call `on_change` after a route of either family changed; returns what ends it."""
    loop = asyncio.get_running_loop()
    tell = Cooldown(on_change, COALESCE)
    library = ctypes.WinDLL("iphlpapi.dll")
    kind = ctypes.WINFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
    # called on a thread of the system's
    callback = kind(lambda context, row, change: loop.call_soon_threadsafe(tell) and None)
    handle = ctypes.c_void_p()
    status = library.NotifyRouteChange2(_AF_UNSPEC, callback, None, False, ctypes.byref(handle))
    if status:
        raise ctypes.WinError(status)

    def stop(keep: object = callback) -> None:  # ctypes callbacks live as long as somebody refers to them
        library.CancelMibChangeNotify2(handle)
        tell.close()

    return stop
