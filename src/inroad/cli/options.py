"""What commands share: `-o json|text` (alias `--json`) and an error shown in that format."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

import click
import msgspec

from inroad.core.errors import InroadError

P = ParamSpec("P")


def with_output(command: Callable[P, None]) -> Callable[..., None]:
    """Give a command `-o json|text` and `--json`; it receives `as_json: bool`.

    An `InroadError` with `-o json` is printed as `{"error": {"code", "message", "remedy"}}` on stdout.
    """

    @click.option(
        "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Output format."
    )
    @click.option("--json", "json_flag", is_flag=True, help="The same as -o json.")
    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        json_flag, output = kwargs.pop("json_flag"), kwargs.pop("output")
        kwargs["as_json"] = as_json = bool(json_flag) or output == "json"
        try:
            command(*args, **kwargs)
        except InroadError as error:
            if not as_json:
                raise
            print_json({"error": {"code": error.code, "message": error.message, "remedy": error.remedy}})
            sys.exit(error.exit_code)

    return wrapped


def print_json(body: object) -> None:
    """Print one JSON value, indented, on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(body), indent=2).decode())


def print_json_line(body: object) -> None:
    """Print one JSON value on one line of stdout, at once."""
    click.echo(msgspec.json.encode(body).decode())
