"""`inroad sandbox`: up, down, exec, status. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import sys

from inroad.core.errors import SandboxFailed

if sys.platform != "linux":
    raise SandboxFailed("a sandbox is made of Linux network namespaces", "run it on a Linux machine")
assert sys.platform == "linux"  # noqa: S101 - the same for mypy

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from inroad.sandbox.options import Progress
    from inroad.sandbox.state import SandboxState

Function = TypeVar("Function", bound=Callable[..., Any])


def _name(command: Function) -> Function:
    return click.option(
        "--name", default="default", show_default=True, help="Which sandbox; several live side by side."
    )(command)


def _output(command: Function) -> Function:
    command = click.option(
        "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print."
    )(command)
    return click.option("--json", "output", flag_value="json", help="The same as -o json.")(command)


@click.group(name="sandbox")
def group() -> None:
    """A little Kubernetes cluster on this Linux host, in network namespaces; needs root."""


@group.command()
@_name
@_output
@click.option("--nodes", type=click.IntRange(1, 50), default=2, show_default=True, help="How many nodes.")
@click.option(
    "--family",
    type=click.Choice(["ipv4", "ipv6", "dual"]),
    default="dual",
    show_default=True,
    help="Addresses.",
)
@click.option("--on-host", is_flag=True, help="The nodes live on the workstation, as kind's do.")
@click.option("--without-manager", is_flag=True, help="Do not run the traffic-manager.")
def up(name: str, output: str, nodes: int, family: str, on_host: bool, without_manager: bool) -> None:
    """Bring a sandbox up and wait until its pods are ready."""
    from inroad.sandbox import lifecycle  # noqa: PLC0415

    families = {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}[family]
    options = lifecycle.Options(
        name=name, nodes=nodes, families=families, on_host=on_host, manager=not without_manager
    )

    def tell(progress: Progress) -> None:
        if output == "text":
            click.echo(f"{progress.seconds:5.1f} s  {progress.text}")

    state = lifecycle.up(options, tell)
    _print(state, output)


@group.command()
@_name
@click.option("--all", "everything", is_flag=True, help="All sandboxes of this host.")
def down(name: str, everything: bool) -> None:
    """Take a sandbox down, running or crashed; nothing of it stays."""
    from inroad.sandbox import lifecycle  # noqa: PLC0415
    from inroad.sandbox.state import known  # noqa: PLC0415

    for one in known() if everything else [name]:
        gone = lifecycle.down(one)
        click.echo(f"sandbox {one} is down" if gone else f"there is no sandbox {one}")


@group.command()
@_name
@_output
def status(name: str, output: str) -> None:
    """Show a running sandbox."""
    from inroad.sandbox.state import Home  # noqa: PLC0415

    _print(Home(name).read(), output)


@group.command(
    name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@_name
@click.option(
    "--in", "place", default="workstation", show_default=True, help="workstation, lan, node-1, pod/NS/NAME."
)
@click.option("--user", default="root", show_default=True, help="root, dev (may sudo), guest (may not).")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, place: str, user: str, argv: tuple[str, ...]) -> None:
    """Run a command in a place of the sandbox, as if one sat there."""
    from inroad.sandbox import enter  # noqa: PLC0415
    from inroad.sandbox.state import Home  # noqa: PLC0415

    found = Home(name).read().places.get(place)
    if found is None or not found.pid:
        raise SandboxFailed(f"sandbox {name} has no place {place!r}", f"inroad sandbox status --name {name}")
    environment = dict(os.environ)
    environment.pop("KUBECONFIG", None)
    enter.run(found.pid, argv, user=user, environment=environment, cwd=os.getcwd())  # noqa: PTH109


def _print(state: SandboxState, output: str) -> None:
    import msgspec  # noqa: PLC0415

    if output == "json":
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(state)) + b"\n")
        return
    click.echo(f"kubeconfig  {state.kubeconfig}  (in the workstation)")
    for name, place in state.places.items():
        click.echo(f"{name:40} {', '.join(place.addresses)}")
    for name in state.unready:
        click.echo(f"{name} is not ready", err=True)
