"""Logs of the long-running programs: one line per event on stderr, plain tracebacks.

structlog's default renders a traceback with every local variable, which would write the user's
token into the log.
"""

from __future__ import annotations

import logging
import sys


def configure(*, verbose: bool = False) -> None:
    """Set up structlog for this process; `verbose` logs every decision."""
    import structlog  # noqa: PLC0415 - the command itself never logs

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
