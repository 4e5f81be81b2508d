"""Hears when the text behind a path may have changed: written to, replaced, or led to another file.

`/etc/resolv.conf` is all of that: some write into it, some move a new file over it, some change the link
that it is. So every directory on the way is watched for the one name in it that matters, and the file at
the end itself, which may be mounted over the name. Linux tells through inotify(7); elsewhere the file is
looked at twice a second.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SETTLE = 0.1
"""Seconds after the first event until it is told of: who truncates a file writes to it next."""
POLL = 0.5
"""Seconds between two looks where nobody tells."""
MAX_LINKS = 20
_NONBLOCK_CLOEXEC = 0o2004000
_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED, _CREATE, _DELETE = 0x2, 0x4, 0x8, 0xC0, 0x100, 0x200
_IN_DIRECTORY = _CLOSE_WRITE | _MOVED | _CREATE | _DELETE
_ON_FILE = _MODIFY | _ATTRIB | _CLOSE_WRITE
_OVERFLOW = 0x4000
_MASK_ADD = 0x20000000
_EVENT = struct.Struct("iIII")


State = tuple[str, int, int] | None


class FileWatch:
    """Calls `on_change` soon after something happened to one of `paths`, once for many events.

    It may call too often, never too rarely: whoever is called compares. Files that are not there yet are
    waited for.
    """

    def __init__(self, paths: Sequence[Path], on_change: Callable[[], None]) -> None:
        self._paths = tuple(paths)
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._due: asyncio.TimerHandle | None = None
        self._seen: list[State] = []
        self._inotify = _Inotify.open()
        if self._inotify is not None:
            self._loop.add_reader(self._inotify.fd, self._readable)
        self._arm()

    def _arm(self) -> None:
        """Watch the ways as they are now; look from time to time where the kernel does not watch for us."""
        if self._inotify is not None:
            try:
                self._inotify.watch(self._paths)
            except OSError:  # this user has used up the watches there may be
                self._stop_inotify()
        if self._inotify is None:
            self._seen = list(map(_state, self._paths))
            self._due = self._loop.call_later(POLL, self._look)

    def _readable(self) -> None:
        if self._inotify is not None and self._inotify.concerns() and self._due is None:
            self._due = self._loop.call_later(SETTLE, self._tell)

    def _tell(self) -> None:
        self._due = None
        self._arm()  # the way may be another one now
        self._on_change()

    def _look(self) -> None:
        self._due = self._loop.call_later(POLL, self._look)
        found = list(map(_state, self._paths))
        if found != self._seen:
            self._seen = found
            self._on_change()

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        self._stop_inotify()

    def _stop_inotify(self) -> None:
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fd)
            os.close(self._inotify.fd)
            self._inotify = None


class _Inotify:
    """An inotify descriptor and the names that count in each place it watches."""

    def __init__(self, fd: int, library: Any) -> None:
        self.fd = fd
        self._library = library
        self._names: dict[int, set[bytes]] = {}

    @classmethod
    def open(cls) -> _Inotify | None:
        """Return one, None where the system has none or no more of them."""
        try:
            library = ctypes.CDLL(None, use_errno=True)
            fd = library.inotify_init1(_NONBLOCK_CLOEXEC)
        except (OSError, AttributeError, TypeError):
            return None
        return cls(fd, library) if fd >= 0 else None

    def watch(self, paths: Sequence[Path]) -> None:
        """Watch the ways to these files, and nothing else any more; raises `OSError` when that can't be."""
        names: dict[int, set[bytes]] = {}
        for path in paths:
            steps = way(path)
            for directory, name in steps:
                self._add(directory, _IN_DIRECTORY, os.fsencode(name), names)
            self._add(steps[-1][0] / steps[-1][1], _ON_FILE, b"", names)
        for watched in self._names.keys() - names.keys():
            self._library.inotify_rm_watch(self.fd, watched)
        self._names = names

    def _add(self, path: Path, mask: int, name: bytes, names: dict[int, set[bytes]]) -> None:
        """Watch one place, where there is one; the same place again is the same watch."""
        watched = self._library.inotify_add_watch(self.fd, os.fsencode(path), mask | _MASK_ADD)
        if watched >= 0:
            names.setdefault(watched, set()).add(name)
        elif ctypes.get_errno() == errno.ENOSPC:
            raise OSError(errno.ENOSPC, "no inotify watches left")

    def concerns(self) -> bool:
        """Read the events; tells whether one of them is about a watched file."""
        try:
            data = os.read(self.fd, 1 << 16)
        except OSError as error:
            return error.errno != errno.EAGAIN
        at, found = 0, False
        while at + _EVENT.size <= len(data):
            watched, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            name = data[at - length : at].rstrip(b"\0")
            found = found or bool(mask & _OVERFLOW) or name in self._names.get(watched, ())
        return found


def way(path: Path) -> list[tuple[Path, str]]:
    """Return (directory, name in it) for a path, for what it links to, and so on to the file.

    Where a directory is missing, the nearest one that is there and the name to appear in it.
    """
    steps: list[tuple[Path, str]] = []
    for _ in range(MAX_LINKS):
        directory, name = path.parent, path.name
        while not directory.is_dir() and directory.parent != directory:
            directory, name = directory.parent, directory.name
        steps.append((directory, name))
        try:
            path = path.parent / path.readlink()
        except OSError:
            break
    return steps


def _state(path: Path) -> State:
    """What changes with a file: where it really is, its time and its size."""
    try:
        found = path.stat()
        return str(path.resolve()), found.st_mtime_ns, found.st_size
    except (OSError, RuntimeError):
        return None
