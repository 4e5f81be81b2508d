"""How the long-running programs start and end."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
from collections.abc import Callable, Coroutine, Mapping

from inroad import logs
from inroad.core.errors import InroadError


def take_descriptors() -> None:
    """Allow this process as many open files as it may have: each flow is one.

    Shells, sudo and container runtimes set 1,024 of many thousands, for programs that use select().
    """
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        resource = importlib.import_module("resource")
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run(serve: Callable[[Mapping[str, str]], Coroutine[None, None, None]]) -> int:
    """Run `serve` with this process's environment to its end; returns the exit status."""
    import structlog  # noqa: PLC0415 - only the long-running programs pay for these
    import uvloop  # noqa: PLC0415

    logs.configure(verbose=os.environ.get("LOG_LEVEL", "").lower() == "debug")
    take_descriptors()
    gc.freeze()  # modules live for ever: no collection walks over them while every flow waits
    try:
        uvloop.run(serve(os.environ))
    except InroadError as error:
        structlog.get_logger().error(str(error), code=error.code)
        return error.exit_code
    return 0
