"""The steps of a connect while it lasts: a live line on a terminal, plain lines elsewhere, none for JSON."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import click

from inroad.core.status import Progress

if TYPE_CHECKING:
    from rich.status import Status as LiveLine


class Reporter(Protocol):
    """Shows steps between `__enter__` and `__exit__`."""

    def __enter__(self) -> Reporter:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the screen as if nothing had been shown, unless lines are what is shown."""

    def step(self, progress: Progress) -> None:
        """Show a step that has begun."""


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def step(self, progress: Progress) -> None:
        """Show nothing."""


class Lines(Silent):
    """Prints a line a step on stderr, with the milliseconds since the beginning."""

    def step(self, progress: Progress) -> None:
        """Print the step."""
        click.echo(f"{progress.elapsed_ms:6d} ms  {progress.text}", err=True)


class Live(Silent):
    """Rewrites one line of the terminal."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - 40 ms that only a terminal is worth

        self._line: LiveLine = Console(stderr=True).status("asking the daemon", spinner="dots")

    def __enter__(self) -> Live:
        self._line.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.stop()

    def step(self, progress: Progress) -> None:
        """Show the step in place of the one before."""
        self._line.update(progress.text)


def reporter(*, as_json: bool) -> Reporter:
    """Return what suits the place where stderr goes."""
    if as_json:
        return Silent()
    return Live() if sys.stderr.isatty() else Lines()
