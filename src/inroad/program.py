"""How the programs that run in the cluster start and end."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Coroutine, Mapping

from inroad import logs
from inroad.core.errors import InroadError


def run(serve: Callable[[Mapping[str, str]], Coroutine[None, None, None]]) -> int:
    """Run `serve` with this process's environment to its end; returns the exit status."""
    import structlog  # noqa: PLC0415 - only the long-running programs pay for these
    import uvloop  # noqa: PLC0415

    logs.configure(verbose=os.environ.get("LOG_LEVEL", "").lower() == "debug")
    gc.freeze()  # modules live for ever: no collection walks over them while every flow waits
    try:
        uvloop.run(serve(os.environ))
    except InroadError as error:
        structlog.get_logger().error(str(error), code=error.code)
        return error.exit_code
    return 0
