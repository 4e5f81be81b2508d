"""`inroad serve daemon|manager|agent`: the long-running programs behind the one executable.

The programs are named as text and imported when they are started, so that no program imports another.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click
import msgspec

from inroad.core.errors import InroadError
from inroad.core.status import Failure

PROGRAMS = {
    "daemon": "inroad.daemon.main:main",
    "manager": "inroad.manager.main:main",
    "agent": "inroad.agent.main:main",
}
PASS_ON = {"ignore_unknown_options": True, "help_option_names": []}


@click.group(hidden=True)
def serve() -> None:
    """Run one of inroad's long-running programs in the foreground."""


def _run(program: str, arguments: tuple[str, ...]) -> int:
    module, _, attribute = PROGRAMS[program].partition(":")
    status = getattr(import_module(module), attribute)(list(arguments))
    return status if isinstance(status, int) else 0


@serve.command(context_settings=PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def daemon(arguments: tuple[str, ...]) -> None:
    """Run the privileged part of the workstation; `--background` returns when it serves."""
    if "--background" not in arguments:
        sys.exit(_run("daemon", arguments))
    from inroad.cli.launch import start_in_background  # noqa: PLC0415 - only here

    try:
        start_in_background([argument for argument in arguments if argument != "--background"])
    except InroadError as error:
        click.echo(msgspec.json.encode(Failure(error.code, error.message, error.remedy)))
        sys.exit(error.exit_code)


@serve.command(context_settings=PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def manager(arguments: tuple[str, ...]) -> None:
    """Run the traffic-manager."""
    sys.exit(_run("manager", arguments))


@serve.command(context_settings=PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def agent(arguments: tuple[str, ...]) -> None:
    """Run a traffic-agent."""
    sys.exit(_run("agent", arguments))
