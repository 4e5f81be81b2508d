"""`inroad explain NAME|ADDRESS`: which way it goes, and why."""

from __future__ import annotations

from collections.abc import Iterator

import click

from inroad.cli.daemon_client import DaemonClient, NoDaemon
from inroad.cli.options import print_json, with_output
from inroad.core.errors import NotConnected
from inroad.core.status import Explanation, NamePath, OriginStatus, PacketPath

WAYS = {
    "vif": ("into the cluster", "green"),
    "virtual": ("into the cluster", "green"),
    "host": ("by this workstation's own network", "yellow"),
    "nowhere": ("nowhere", "red"),
}


@click.command()
@click.argument("what", metavar="NAME|ADDRESS")
@with_output
def explain(*, what: str, as_json: bool) -> None:
    """Say which way a name or an address goes, and why: rule, subnet, route, and who dials."""
    try:
        found = DaemonClient().explain(what)
    except NoDaemon:
        raise NotConnected("there is no session", "inroad connect") from None
    if as_json:
        print_json(found)
    else:
        click.echo(explanation_text(found))


def explanation_text(found: Explanation) -> str:
    """Return an explanation as text: a block for the name, then one for each address."""
    from inroad.cli.render import rows  # noqa: PLC0415 - not for JSON

    blocks = []
    if found.name is not None:
        head = click.style(found.name.name, bold=True)
        blocks.append("\n".join([head, rows(_name_rows(found.name))]))
    for path in found.paths:
        way, colour = WAYS[path.way]
        head = f"{click.style(path.address, bold=True)} goes {click.style(way, fg=colour)}"
        blocks.append("\n".join([head, rows(_packet_rows(path))]))
    return "\n\n".join(blocks)


def _name_rows(name: NamePath) -> Iterator[tuple[str, str]]:
    yield "rule", f"{name.rule}: {name.meaning}"
    yield "asked", name.asked.replace("; ", ";\n")
    if not name.addresses:
        yield "answer", name.result
        return
    alias = f"{name.canonical}\n" if name.canonical.lower() != name.name else ""
    yield "answer", alias + "\n".join(dict.fromkeys(name.addresses))


def _packet_rows(path: PacketPath) -> Iterator[tuple[str, str]]:
    yield "because", path.reason
    yield "route", path.route
    yield "stands for", path.stands_for
    if path.origin is not None:
        yield "dialled by", _dialler(path.origin)


def _dialler(origin: OriginStatus) -> str:
    if not origin.kind:
        return f"nobody: {origin.reason}"
    who = "the traffic-manager" if origin.kind == "traffic-manager" else f"the {origin.kind} agent"
    pod = f" ({origin.pod})" if origin.pod else ""
    path = f"; {origin.path}" if origin.path.kind else ""
    return f"{who}{pod}: {origin.reason}{path}"
