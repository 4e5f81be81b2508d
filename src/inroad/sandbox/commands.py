"""`inroad sandbox`: up, down, exec, status, apply, delete, fault. What is heavy is imported when needed."""

from __future__ import annotations

import sys

from inroad.core.errors import SandboxFailed

if sys.platform != "linux":
    raise SandboxFailed("a sandbox is made of Linux network namespaces", "run it on a Linux machine")
assert sys.platform == "linux"  # noqa: S101 - the same for mypy

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

if TYPE_CHECKING:
    from inroad.sandbox.options import Progress
    from inroad.sandbox.state import SandboxState

NOT_THE_CALLERS = ("HOME", "USER", "LOGNAME", "SHELL", "KUBECONFIG")
"""Variables that `exec` does not pass on: whoever is inside has their own."""
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
@click.option(
    "--upstream",
    type=click.Choice(["none", "workstation"]),
    default="none",
    show_default=True,
    help="Whom cluster DNS asks for names outside the cluster.",
)
@click.option("--upstream-fold", is_flag=True, help="Cluster DNS folds the letters of what it forwards.")
@click.option("--upstream-cache", type=int, default=0, help="Seconds it remembers forwarded answers.")
@click.option("--kubernetes", "version", default="1.34", show_default=True, help="Version to behave like.")
@click.option(
    "--restrict",
    multiple=True,
    metavar="VERBS:RESOURCES[:NAMESPACE][@USER]",
    help="Take a right away: create:pods/portforward:inroad.",
)
@click.option("--synthetic-nodes", type=click.IntRange(0), default=0, help="Further nodes, as objects only.")
@click.option("--synthetic-pods", type=click.IntRange(0), default=0, help="Further pods, as objects only.")
@click.option("--without-manager", is_flag=True, help="Do not run the traffic-manager.")
def up(output: str, family: str, without_manager: bool, **chosen: Any) -> None:
    """Bring a sandbox up and wait until its pods are ready."""
    from inroad.sandbox import lifecycle  # noqa: PLC0415
    from inroad.sandbox.options import Upstream  # noqa: PLC0415

    families = {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}[family]
    fold, cache = chosen.pop("upstream_fold"), chosen.pop("upstream_cache")
    forwards = chosen.pop("upstream") == "workstation"
    upstream = Upstream(fold=fold, cache=cache) if forwards else None
    options = lifecycle.Options(families=families, manager=not without_manager, upstream=upstream, **chosen)

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
    environment = {key: value for key, value in os.environ.items() if key not in NOT_THE_CALLERS}
    if place.startswith("pod/"):
        terminal = {key: environment[key] for key in ("TERM", "LANG") if key in environment}
        environment = terminal | dict(enter.container_environment(found.pid)) or environment
    enter.run(found.pid, argv, user=user, environment=environment, cwd=os.getcwd())  # noqa: PTH109


@group.command()
@_name
@click.option("-f", "--file", type=click.File("rb"), required=True, help="YAML or JSON; - for stdin.")
@click.option("-n", "--namespace", default="default", show_default=True, help="For objects that name none.")
@click.option("--wait", type=float, default=0.0, help="Seconds to wait until all pods are ready.")
def apply(name: str, file: BinaryIO, namespace: str, wait: float) -> None:
    """Create objects, or change them to what a file says."""
    import yaml  # noqa: PLC0415

    try:
        objects = [one for one in yaml.safe_load_all(file) if one]
    except yaml.YAMLError as error:
        raise SandboxFailed(f"{file.name} is not YAML: {error}") from None
    _ask(name, {"verb": "apply", "objects": objects, "namespace": namespace, "wait": wait})


@group.command()
@_name
@click.argument("what", metavar="KIND/NAMESPACE/NAME")
@click.option("--grace", type=int, help="Seconds that a pod has to end.")
def delete(name: str, what: str, grace: int | None) -> None:
    """Delete an object and wait until it is gone."""
    _ask(name, {"verb": "delete", "object": what, "grace": grace})


@group.command()
@_name
@click.argument("fault")
@click.argument("parameters", nargs=-1, metavar="[KEY=VALUE]...")
def fault(name: str, fault: str, parameters: tuple[str, ...]) -> None:
    """Have something go wrong.

    cut, blackhole [place=workstation] [seconds=N], mend: a place's cable. break, stall, expire, delay, slow,
    throttle, fail, reset, refuse, restart: the API server. clear: everything works again.
    """
    request: dict[str, object] = {"verb": "fault", "fault": fault}
    for one in parameters:
        key, equals, value = one.partition("=")
        if not equals:
            raise click.BadParameter(f"{one!r} is not KEY=VALUE")
        request[key] = _number(value)
    _ask(name, request)


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _ask(name: str, request: dict[str, object]) -> None:
    from inroad.sandbox import control  # noqa: PLC0415
    from inroad.sandbox.state import Home  # noqa: PLC0415

    answer = control.ask(Home(name), request)
    for line in answer.pop("lines", ()):
        click.echo(line)
    if answer:
        click.echo(json.dumps(answer))


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
