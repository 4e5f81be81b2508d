"""What inroad is about to change on the host, written down before it is changed.

One JSON object a line, appended and synced: `{"id": 3, "kind": "routes", "data": {...}}` before the
change, `{"done": 3}` once it is undone. After a `kill -9` the entries without a `done` are what is left
to put back (`host/cleanup.py`). A line that was torn by the crash can't be complete, so nothing that it
announces was done yet: it is skipped.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """An announced change. `kind` is the host part (`routes`, `vif`, ...), optionally `part.detail`."""

    id: int
    kind: str
    data: dict[str, Any]

    @property
    def part(self) -> str:
        """The host part that can undo this."""
        return self.kind.partition(".")[0]


class _Done(msgspec.Struct, frozen=True):
    done: int


_entry = msgspec.json.Decoder(Entry)
_done = msgspec.json.Decoder(_Done)
_encode = msgspec.json.Encoder().encode


class Journal:
    """The journal at `path` (its directory must exist); entries of an earlier run are pending.

    Every method blocks for as long as the file system takes to sync, which on `/run` is nothing.
    Raises `OSError` when the file can't be written: then nothing may be changed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._pending = _read(self._path)
        self._next = max(self._pending, default=0) + 1
        self._fd = -1

    def record(self, kind: str, data: dict[str, Any]) -> int:
        """Announce a change; returns its id. The change may be made when this has returned."""
        entry = Entry(self._next, kind, data)
        self._append(_encode(entry))
        self._next += 1
        self._pending[entry.id] = entry
        return entry.id

    def done(self, entry_id: int) -> None:
        """Say that a change was undone (or never made); unknown ids are ignored."""
        if self._pending.pop(entry_id, None) is None:
            return
        if self._pending:
            self._append(_encode(_Done(entry_id)))
        else:
            self.clear()

    def pending(self) -> list[Entry]:
        """Return the changes that are not undone, oldest first."""
        return list(self._pending.values())

    def clear(self) -> None:
        """Forget everything and remove the file."""
        self._pending.clear()
        self.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def close(self) -> None:
        """Close the file; it opens again with the next record."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, line: bytes) -> None:
        if self._fd < 0:
            self._fd = self._open()
        try:
            _write(self._fd, line + b"\n")
        except OSError:
            self.close()  # half a line may be there: the next record starts a fresh file
            raise

    def _open(self) -> int:
        """Start with a file that holds only what is pending: a torn tail must not swallow our line."""
        fresh = self._path.with_name(self._path.name + ".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            _write(fd, b"".join(_encode(entry) + b"\n" for entry in self._pending.values()))
            fresh.replace(self._path)
        except OSError:
            os.close(fd)
            raise
        _sync_directory(self._path.parent)
        return fd


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
    os.fsync(fd)


def _sync_directory(path: Path) -> None:
    """Make a rename last; where directories can't be opened (Windows) the file system sees to it."""
    with contextlib.suppress(PermissionError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _read(path: Path) -> dict[int, Entry]:
    """Return the pending entries of a journal file by id; lines that make no sense are skipped."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    pending: dict[int, Entry] = {}
    for line in lines:
        try:
            entry = _entry.decode(line)
            pending[entry.id] = entry
        except msgspec.DecodeError:
            with contextlib.suppress(msgspec.DecodeError):
                pending.pop(_done.decode(line).done, None)
    return pending
