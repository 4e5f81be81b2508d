"""`inroad install`, `upgrade`, `uninstall`: the cluster side, by helm where there is one, else by ourselves.

Runs as the user, with the user's kubeconfig; the daemon has no part in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from inroad.cli.helm import chart, find_helm, helm_values
from inroad.cli.options import print_json, with_output
from inroad.core.errors import InstallFailed

if TYPE_CHECKING:
    from inroad.kube.client import ApiClient
    from inroad.kube.credentials import PluginOutput
    from inroad.kube.exec_plugin import Invocation

DEPLOYMENT = "traffic-manager"
STRATEGIES = ("auto", "nodePodCIDRs", "coverPodIPs", "environment")
PLUGIN_TIMEOUT = 110.0
"""Seconds that a credential plugin may take: enough for a log-in in the browser."""
Command = Callable[..., None]


def with_cluster(command: Command) -> Command:
    """Give a command the options that say where."""
    for option in (
        click.option("--no-helm", is_flag=True, help="Do without helm even where there is one."),
        click.option("--timeout", default=120.0, show_default=True, help="Seconds until all must be ready."),
        click.option(
            "--context", default="", help="A context of the kubeconfig; its current one by default."
        ),
        click.option(
            "--kubeconfig", metavar="FILE", default="", help="Instead of KUBECONFIG or ~/.kube/config."
        ),
        click.option(
            "-n", "--namespace", default="inroad", show_default=True, help="Where the manager runs."
        ),
    ):
        command = option(command)
    return command


def with_values(command: Command) -> Command:
    """Give a command the options that say what."""
    for option in (
        click.option("--pod-cidr-strategy", type=click.Choice(STRATEGIES), help="How pod subnets are found."),
        click.option("--image", default="", help="The manager's image, registry/name:tag."),
        click.option(
            "--set", "settings", metavar="KEY=VALUE", multiple=True, help="A value of the chart (helm)."
        ),
        click.option("-f", "--values", metavar="FILE", multiple=True, help="Values of the chart (helm)."),
    ):
        command = option(command)
    return command


@click.command()
@with_cluster
@with_values
@with_output
def install(*, as_json: bool, **options: Any) -> None:
    """Install the traffic-manager, or change the one that is there."""
    _put(options)
    _report("installed", options, as_json)


@click.command()
@with_cluster
@with_values
@with_output
def upgrade(*, as_json: bool, **options: Any) -> None:
    """Bring the traffic-manager to this version and these values."""
    _put(options)
    _report("upgraded", options, as_json)


@click.command()
@with_cluster
@with_output
def uninstall(*, as_json: bool, **options: Any) -> None:
    """Remove the traffic-manager and its roles; the namespace stays."""
    helm = find_helm(options)
    if helm is not None and helm.has_release():
        helm.run("uninstall", "--wait", "--timeout", f"{options['timeout']:.0f}s")
        found = 1
    else:
        found = _with_client(options, _remove)
    _report("uninstalled" if found else "unchanged", options, as_json)


def _put(options: dict[str, Any]) -> None:
    helm = find_helm(options)
    if helm is not None:
        where = ("--install", "--create-namespace", "--wait", "--timeout", f"{options['timeout']:.0f}s")
        helm.run("upgrade", str(chart()), *where, *helm_values(options))
        return
    refused = [flag for flag, key in (("-f", "values"), ("--set", "settings")) if options[key]]
    if refused:
        raise InstallFailed(f"{' and '.join(refused)} need helm, and there is none", "install helm")
    if options["pod_cidr_strategy"] == "environment":
        raise InstallFailed("the strategy environment takes podCIDRs, a value of the chart", "install helm")
    _with_client(options, _apply)


def _with_client(options: dict[str, Any], work: Callable[[ApiClient, dict[str, Any]], Any]) -> int:
    """Run `work` with a client for the user's cluster."""
    import asyncio  # noqa: PLC0415 - the other commands do without it

    from inroad.kube.client import ApiClient  # noqa: PLC0415
    from inroad.kube.credentials import load  # noqa: PLC0415

    async def main() -> int:
        credentials = load(options["kubeconfig"], options["context"], os.environ, _run_plugin)
        client = ApiClient(credentials)
        try:
            return int(await work(client, options) or 0)
        finally:
            await client.close()

    return asyncio.run(main())


def _run_plugin(invoked: Invocation) -> PluginOutput:
    """Run a credential plugin to its end."""
    from inroad.host.run import run  # noqa: PLC0415
    from inroad.kube.credentials import PluginOutput  # noqa: PLC0415

    done = run(invoked.argv, env=invoked.environ, timeout=PLUGIN_TIMEOUT)
    return PluginOutput(done.status, done.stdout, done.stderr)


async def _apply(client: ApiClient, options: dict[str, Any]) -> None:
    from inroad.cli import manifest  # noqa: PLC0415
    from inroad.kube.apply import apply, wait_complete  # noqa: PLC0415

    namespace = options["namespace"]
    await apply(client, manifest.objects(namespace, options["image"], options["pod_cidr_strategy"] or ""))
    await wait_complete(client, namespace, DEPLOYMENT, options["timeout"])


async def _remove(client: ApiClient, options: dict[str, Any]) -> int:
    from inroad.cli import manifest  # noqa: PLC0415
    from inroad.kube.apply import remove  # noqa: PLC0415

    bodies = [body for body in manifest.objects(options["namespace"]) if body["kind"] != "Namespace"]
    return await remove(client, reversed(bodies), options["timeout"])


def _report(change: str, options: dict[str, Any], as_json: bool) -> None:
    namespace = options["namespace"]
    if as_json:
        print_json({"change": change, "namespace": namespace})
        return
    if change == "unchanged":
        click.echo(f"Nothing of inroad is installed in namespace {namespace}.")
    elif change == "uninstalled":
        click.echo(f"The traffic-manager is gone from namespace {namespace}.")
    else:
        flag = "" if namespace == "inroad" else f" --manager-namespace {namespace}"
        click.echo(
            f"The traffic-manager runs in namespace {namespace}. Next: inroad connect{flag} -n NAMESPACE"
        )
