"""`inroad status`: the truth about the session, as the daemon knows it."""

from __future__ import annotations

import click

from inroad.cli.daemon_client import DaemonClient, NoDaemon
from inroad.cli.options import print_json, with_output
from inroad.core.status import JOURNAL_PATH, Status


def read_status(client: DaemonClient) -> Status:
    """Return the daemon's status, or a disconnected one where no daemon runs."""
    from pathlib import Path  # noqa: PLC0415

    try:
        return client.status()
    except NoDaemon:
        left_over = Path(JOURNAL_PATH).exists()
        warning = "an earlier daemon ended without cleaning up; inroad quit puts the host back"
        return Status(warnings=[warning] if left_over else [])


@click.command()
@with_output
def status(*, as_json: bool) -> None:
    """Say what is connected and how."""
    found = read_status(DaemonClient())
    if as_json:
        print_json(found)
        return
    from inroad.cli.render import status_text  # noqa: PLC0415

    click.echo(status_text(found))
