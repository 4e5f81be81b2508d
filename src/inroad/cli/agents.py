"""`inroad attach|detach|list|agent`: where connections start, chosen by the user."""

from __future__ import annotations

import click

from inroad.cli.daemon_client import DaemonClient, NoDaemon
from inroad.cli.options import print_json, with_output
from inroad.core.errors import NotConnected
from inroad.core.status import AgentRequest, WorkloadStatus

namespace_option = click.option("-n", "--namespace", default="", help="By default the connected one.")


def _do(action: str, workload: str, namespace: str, *, as_json: bool) -> None:
    try:
        outcome = DaemonClient().agents(AgentRequest(action, workload, namespace))
    except NoDaemon:
        raise NotConnected("there is no session", "inroad connect") from None
    if as_json:
        print_json(outcome)
    else:
        click.echo(f"{outcome.done[:1].upper()}{outcome.done[1:]}.")


@click.command()
@click.argument("workload")
@namespace_option
@with_output
def attach(*, workload: str, namespace: str, as_json: bool) -> None:
    """Let connections and lookups start in a pod of WORKLOAD (deploy/NAME, sts/NAME, pod/NAME).

    The pod keeps running: an ephemeral container is added to it. Its namespace joins the search list.
    """
    _do("attach", workload, namespace, as_json=as_json)


@click.command()
@click.argument("workload")
@namespace_option
@with_output
def detach(*, workload: str, namespace: str, as_json: bool) -> None:
    """Undo `attach`; the agent ends when nobody else uses it."""
    _do("detach", workload, namespace, as_json=as_json)


@click.command("list")
@namespace_option
@with_output
def list_command(*, namespace: str, as_json: bool) -> None:
    """List the workloads of a namespace and the agents in them."""
    try:
        found = DaemonClient().workloads(namespace)
    except NoDaemon:
        raise NotConnected("there is no session", "inroad connect") from None
    if as_json:
        print_json(found)
        return
    if not found.workloads:
        click.echo(f"Namespace {found.namespace} has no workloads.")
        return
    rows = [_row(one) for one in found.workloads]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, ready, agent in rows:
        click.echo(f"{name:<{widths[0]}}  {ready:>{widths[1]}} ready  {agent}".rstrip())


def _row(one: WorkloadStatus) -> tuple[str, str, str]:
    agent = f"{one.agent} agent" if one.agent else ""
    return one.workload, f"{one.ready}/{one.wanted}", f"{agent}, attached" if one.attached else agent


@click.group()
def agent() -> None:
    """Run an agent for a whole namespace, so that connections start in it; no workload is touched."""


@agent.command()
@namespace_option
@with_output
def add(*, namespace: str, as_json: bool) -> None:
    """Create the Deployment traffic-agent in a namespace and wait until it serves."""
    _do("add", "", namespace, as_json=as_json)


@agent.command()
@namespace_option
@with_output
def remove(*, namespace: str, as_json: bool) -> None:
    """Delete the namespace's agent."""
    _do("remove", "", namespace, as_json=as_json)
