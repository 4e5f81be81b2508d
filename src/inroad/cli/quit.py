"""`inroad quit`: end the session and leave the host as it was, after a crashed daemon too."""

from __future__ import annotations

import click
import msgspec

from inroad.cli.daemon_client import DaemonClient, NoDaemon
from inroad.cli.options import print_json, with_output
from inroad.core.status import Status


@click.command("quit")
@with_output
def quit_command(*, as_json: bool) -> None:
    """End the connection and put the host back.

    Without a connection nothing happens, which is no error.
    """
    cleaned: list[str] = []
    try:
        before = DaemonClient().quit()
    except NoDaemon:
        from inroad.cli import launch  # noqa: PLC0415 - only after a crash

        before = Status()
        cleaned = launch.clean_up() if launch.crashed() else []
    change = "disconnected" if before.connected else "cleaned" if cleaned else "unchanged"
    if as_json:
        body: dict[str, object] = msgspec.to_builtins(Status(service=before.service))
        print_json(body | {"change": change, "cleaned": cleaned})
        return
    if change == "disconnected":
        click.echo(f"Disconnected from {before.context}. Routes and names are as they were.")
    elif change == "cleaned":
        click.echo("A daemon had ended without cleaning up. Put back:")
        click.echo("\n".join(f"  {line}" for line in cleaned))
    else:
        click.echo("Not connected.")
