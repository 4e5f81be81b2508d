"""A program that is handed something and answers: stdin, then all of stdout and stderr."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from inroad.host import run

assert sys.platform != "win32"  # noqa: S101 - tells mypy


async def converse(
    argv: Sequence[str], given: bytes, *, env: Mapping[str, str], limit: int
) -> tuple[bytes, bytes]:
    """Run a program of its own session and return the first `limit` bytes of its stdout and of its stderr.

    When this returns, or is cancelled, nothing of it is left: a program that it started is in its group.
    """
    process = await run.spawn(
        argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
        cwd="/",
        new_session=True,
    )
    try:
        if process.stdin is not None:
            process.stdin.write(given)
            process.stdin.close()
        return await asyncio.gather(_bounded(process.stdout, limit), _bounded(process.stderr, limit))
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _bounded(stream: asyncio.StreamReader | None, limit: int) -> bytes:
    """Read to the end, keeping `limit` bytes; the rest is read and dropped so that nobody blocks."""
    kept = bytearray()
    while stream is not None and (chunk := await stream.read(65_536)):
        kept += chunk[: limit - len(kept)]
    return bytes(kept)
