"""`inroad version`: ours, and the daemon's when one runs."""

from __future__ import annotations

import click

from inroad import __version__
from inroad.cli.daemon_client import DaemonClient, NoDaemon
from inroad.cli.options import print_json, with_output


@click.command()
@with_output
def version(*, as_json: bool) -> None:
    """Print the version of inroad and of its daemon."""
    try:
        daemon = DaemonClient().status().version
    except NoDaemon:
        daemon = ""
    if as_json:
        print_json({"client": __version__, "daemon": daemon})
        return
    click.echo(f"inroad  {__version__}")
    click.echo(f"daemon  {daemon or 'not running'}")
