"""Logs of the long-running programs: one line per event on stderr, plain tracebacks.

structlog's default renders a traceback with every local variable, which would write the user's
token into the log.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

_LEVELS = {"trace": logging.DEBUG, "debug": logging.DEBUG, "info": logging.INFO}
_LEVELS |= {"warning": logging.WARNING, "error": logging.ERROR, "exception": logging.ERROR}
_LEVELS["critical"] = logging.CRITICAL
_least = logging.INFO
_verbose = False


def set_level(name: str) -> None:
    """Log from `error`, `warning`, `info`, `debug` or `trace` on; `verbose` processes log everything."""
    global _least  # noqa: PLW0603 - there is one log in a process
    _least = logging.DEBUG if _verbose else _LEVELS[name]


def _drop_below(_: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Leave out what is not to be logged now: structlog's own filter can't change once a logger is in use."""
    import structlog  # noqa: PLC0415 - see configure

    if _LEVELS.get(method, logging.CRITICAL) < _least:
        raise structlog.DropEvent
    return event


def configure(*, verbose: bool = False) -> None:
    """Set up structlog for this process; `verbose` logs every decision."""
    global _verbose  # noqa: PLW0603 - see set_level
    import structlog  # noqa: PLC0415 - the command itself never logs

    _verbose = verbose
    set_level("info")
    structlog.configure(
        processors=[
            _drop_below,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
