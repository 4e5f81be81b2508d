"""`inroad connect`: ask the daemon for a connection, starting it first when none runs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
import msgspec

from inroad.cli.completion import contexts
from inroad.cli.daemon_client import DaemonClient, NoDaemon
from inroad.cli.options import print_json, with_output
from inroad.cli.places import config_file
from inroad.core.errors import InroadError, Interrupted, by_code
from inroad.core.status import ConnectRequest, Outcome, Progress
from inroad.host.choose import STATE_DIRECTORY

SIGNALS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
STARTS = 3
"""Attempts to reach a daemon: the one that answered may just be ending after somebody's quit."""

SETTINGS: dict[str, str] = {}
"""Key of the configuration that each flag sets, by the flag's parameter name."""

Command = Callable[..., None]


def setting(flag: str, key: str, metavar: str, text: str) -> Callable[[Command], Command]:
    """Make a flag that may be given several times, or with commas, and sets a list of the configuration."""
    SETTINGS[flag.removeprefix("--").replace("-", "_")] = key
    return click.option(flag, metavar=metavar, multiple=True, help=text, callback=_checked)


def _checked(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Split at commas and check the values as the configuration file's are."""
    del context
    values = tuple(part.strip() for text in given for part in text.split(",") if part.strip())
    if values:
        from inroad.core.config import KEYS  # noqa: PLC0415 - only those who use such a flag wait for it

        key = next(key for key in KEYS if key.name == SETTINGS[str(parameter.name)])
        try:
            key.read(values)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return values


@click.command()
@click.option("--kubeconfig", metavar="FILE", default="", help="Instead of KUBECONFIG or ~/.kube/config.")
@click.option(
    "--context",
    default="",
    help="A context of the kubeconfig; its current one by default.",
    shell_complete=contexts,
)
@click.option("-n", "--namespace", default="", help="The namespace to be in; the context's by default.")
@click.option("--via", default="", help="Connections start there: deploy/NAME, sts/NAME or pod/NAME.")
@click.option(
    "--vnat",
    metavar="CIDR",
    multiple=True,
    help="Give this subnet (or: also, service, pods, all) virtual addresses.",
)
@click.option(
    "--proxy-via",
    metavar="CIDR=WORKLOAD",
    multiple=True,
    help="Reach this subnet (or: also, service, pods, all) through a workload's agent.",
)
@click.option("--manager-namespace", default="", help="Where the traffic-manager runs (inroad).")
@setting(
    "--dns", "dns.localAddresses", "ADDRESS", "Name server for all other names; the host's own by default."
)
@setting(
    "--mapped-namespaces", "cluster.mappedNamespaces", "NAMES", "Namespaces whose names resolve, with commas."
)
@setting("--also-proxy", "routing.alsoProxySubnets", "CIDR", "Route this subnet to the cluster too.")
@setting("--never-proxy", "routing.neverProxySubnets", "CIDR", "Never route this subnet to the cluster.")
@setting(
    "--allow-conflicting-subnets",
    "routing.allowConflictingSubnets",
    "CIDR",
    "Route it to the cluster although another interface has it.",
)
@with_output
def connect(
    *,
    kubeconfig: str,
    context: str,
    namespace: str,
    via: str,
    vnat: tuple[str, ...],
    proxy_via: tuple[str, ...],
    manager_namespace: str,
    as_json: bool,
    **settings: tuple[str, ...],
) -> None:
    """Make this workstation part of a cluster's network.

    Connected already: says so, or changes the namespace.
    """
    from inroad.cli.environment import credential_environment  # noqa: PLC0415

    request = ConnectRequest(
        kubeconfig=str(Path(kubeconfig).expanduser().absolute()) if kubeconfig else "",
        context=context,
        namespace=namespace,
        via=via,
        vnat=list(vnat),
        proxy_via=list(proxy_via),
        manager_namespace=manager_namespace,
        directory=_directory(),
        environment=credential_environment(os.environ),
        config_file=str(config_file()),
        settings={SETTINGS[name]: list(values) for name, values in settings.items() if values},
    )
    outcome = _connect_or_put_back(DaemonClient(), request, as_json=as_json)
    if as_json:
        body: dict[str, object] = msgspec.to_builtins(outcome.status)
        print_json(body | {"change": outcome.change, "elapsed_ms": outcome.elapsed_ms})
        return
    from inroad.cli.render import outcome_text  # noqa: PLC0415

    click.echo(outcome_text(outcome))


def _directory() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:  # it was removed under us
        return "/"


def _connect_or_put_back(client: DaemonClient, request: ConnectRequest, *, as_json: bool) -> Outcome:
    """Connect; a signal meanwhile ends the attempt, but never a session that was there before."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    was_connected = True
    try:
        was_connected = _ensure_daemon(client)
        outcome = _ask(client, request, as_json=as_json)
        for number in SIGNALS:  # it is done: from here on only the summary could be cut off
            signal.signal(number, signal.SIG_IGN)
        return outcome
    except KeyboardInterrupt:
        if was_connected:
            raise Interrupted("interrupted; the connection is as it was", "inroad status") from None
        with contextlib.suppress(NoDaemon):
            client.quit()
        raise Interrupted("interrupted; the host is as it was") from None


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise KeyboardInterrupt


def _ensure_daemon(client: DaemonClient) -> bool:
    """Start the daemon if none runs; return whether it has a session already."""
    try:
        return client.status().connected
    except NoDaemon:
        from inroad.cli.launch import start_daemon  # noqa: PLC0415 - most connects find a daemon or need it once

        start_daemon()
        return False


def _ask(client: DaemonClient, request: ConnectRequest, *, as_json: bool) -> Outcome:
    from inroad.cli.progress import reporter  # noqa: PLC0415

    for attempt in range(1, STARTS + 1):
        started = False
        try:
            with reporter(as_json=as_json) as shown:
                for line in client.connect(request):
                    started = True
                    if isinstance(line, Progress):
                        shown.step(line)
                    elif isinstance(line, Outcome):
                        return line
                    else:
                        raise by_code(line.code, line.message, line.remedy)
        except NoDaemon as gone:
            if started or attempt == STARTS:
                raise InroadError(
                    f"the daemon ended while it connected ({gone})", f"see {STATE_DIRECTORY}, daemon.log"
                ) from None
            _ensure_daemon(client)
    raise AssertionError("unreachable: the last attempt returns or raises")
