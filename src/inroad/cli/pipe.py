"""A named pipe as what `http.client` wants of a socket."""

from __future__ import annotations

import io


class PipeSocket:
    """Wraps an open pipe: an unbuffered file for reading and writing.

    One request and its answer go over it, in turn, so that a handle which does one thing at a time will do.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file

    def sendall(self, data: bytes) -> None:
        """Write everything; raises `OSError`."""
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) or 0 :]

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return what the answer is read from; the pipe is closed with it."""
        assert mode == "rb"  # noqa: S101 - http.client asks for nothing else
        return io.BufferedReader(self._file)

    def fileno(self) -> int:
        """Return the pipe's descriptor."""
        return self._file.fileno()

    def settimeout(self, timeout: float | None) -> None:
        """Do nothing: waiting for a pipe has no time-out, but ends when the daemon does."""

    def close(self) -> None:
        """Close the pipe; idempotent."""
        self._file.close()
