"""Talking to a running supervisor: one JSON line there, one back, on a Unix socket only root can open.

Whoever serves registers a function per verb; `apply`, `delete` and `fault` are there (see `supervisor`).
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from inroad.core.errors import InroadError, SandboxFailed
from inroad.sandbox.state import Home

Json = dict[str, Any]
Handler = Callable[[Json], Awaitable[Json]]
LONGEST = 64 << 20
"""Bytes of a request: a big file of objects."""
TIMEOUT = 60.0
log = logging.getLogger(__name__)


def path_of(home: Home) -> Path:
    """Return where the socket is."""
    return home.directory / "control"


def ask(home: Home, request: Json) -> Json:
    """Send a request to the sandbox's supervisor and return its answer; raise what went wrong there."""
    home.read()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT)
        try:
            sock.connect(str(path_of(home)))
            sock.sendall(msgspec.json.encode(request) + b"\n")
            with sock.makefile("rb") as stream:
                answer: Json = msgspec.json.decode(stream.readline())
        except (OSError, msgspec.DecodeError) as error:
            raise SandboxFailed(f"sandbox {home.name} does not answer: {error}") from None
    if "error" in answer:
        raise SandboxFailed(str(answer["error"]), str(answer.get("remedy", "")))
    return answer


async def serve(home: Home, handlers: Mapping[str, Handler]) -> asyncio.Server:
    """Answer requests from now on."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await _answer(handlers, await reader.readline())
            writer.write(msgspec.json.encode(answer) + b"\n")
            await writer.drain()
        except OSError:
            pass  # whoever asked has gone
        finally:
            writer.close()

    mask = os.umask(0o077)
    try:
        return await asyncio.start_unix_server(connection, path_of(home), limit=LONGEST)
    finally:
        os.umask(mask)


async def _answer(handlers: Mapping[str, Handler], line: bytes) -> Json:
    try:
        request = msgspec.json.decode(line, type=dict[str, Any])
        handler = handlers.get(str(request.get("verb")))
        if handler is None:
            return {"error": f"there is no verb {request.get('verb')!r}"}
        return await handler(request)
    except InroadError as error:
        return {"error": error.message, "remedy": error.remedy}
    except Exception as error:
        log.exception("control")
        return {"error": f"{type(error).__name__}: {error}"}
