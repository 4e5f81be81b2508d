"""`inroad status`: the truth about the session, as the daemon knows it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial

import click

from inroad.cli.daemon_client import DaemonClient, NoDaemon
from inroad.cli.options import print_json, print_json_line, with_output
from inroad.core.status import Status
from inroad.host.choose import JOURNAL_PATH

WATCH_INTERVAL = 1.0
"""Seconds between two looks of `--watch`."""


def read_status(client: DaemonClient) -> Status:
    """Return the daemon's status, or a disconnected one where no daemon runs."""
    from pathlib import Path  # noqa: PLC0415

    try:
        return client.status()
    except NoDaemon:
        left_over = Path(JOURNAL_PATH).exists()
        warning = "an earlier daemon ended without cleaning up; inroad quit puts the host back"
        return Status(warnings=[warning] if left_over else [])


def watch(read: Callable[[], Status], show: Callable[[Status], None], pause: Callable[[], None]) -> None:
    """Show the status now and whenever it has changed, until `pause` or anything else raises."""
    seen: Status | None = None
    while True:
        found = read()
        if found != seen:
            show(found)
            seen = found
        pause()


def show_text(found: Status) -> None:
    """Print a status for people."""
    from inroad.cli.render import status_text  # noqa: PLC0415 - not for JSON

    click.echo(status_text(found))


def show_text_anew(found: Status) -> None:
    """Print a status in place of the one before, where there is a terminal."""
    click.clear()
    show_text(found)


@click.command()
@click.option("-w", "--watch", "watching", is_flag=True, help="Go on, and show each change.")
@with_output
def status(*, watching: bool, as_json: bool) -> None:
    """Say what is connected and how."""
    client = DaemonClient()
    if watching:
        with contextlib.suppress(KeyboardInterrupt):
            show = print_json_line if as_json else show_text_anew
            watch(partial(read_status, client), show, partial(time.sleep, WATCH_INTERVAL))
        return
    if as_json:
        print_json(read_status(client))
    else:
        show_text(read_status(client))
