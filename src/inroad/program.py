"""How the long-running programs start and end."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
from collections.abc import Callable, Coroutine, Mapping

from inroad import logs
from inroad.core.errors import InroadError


def settle() -> None:
    """Make ready for many flows, once everything is imported.

    Each flow is an open file: this process takes as many as it may have. Shells, sudo and container runtimes
    set 1,024 of many thousands, for programs that use select(). And modules live for ever: no collection
    is to walk over them while every flow waits.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        resource = importlib.import_module("resource")
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()


def run(serve: Callable[[Mapping[str, str]], Coroutine[None, None, None]]) -> int:
    """Run `serve` with this process's environment to its end; returns the exit status."""
    import structlog  # noqa: PLC0415 - only the long-running programs pay for these
    import uvloop  # noqa: PLC0415

    logs.configure(verbose=os.environ.get("LOG_LEVEL", "").lower() == "debug")
    settle()
    try:
        uvloop.run(serve(os.environ))
    except InroadError as error:
        structlog.get_logger().error(str(error), code=error.code)
        return error.exit_code
    return 0
