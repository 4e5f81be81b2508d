"""`inroad completion bash|zsh|fish`: a script that completes commands, options and some values."""

from __future__ import annotations

import os

import click
from click.shell_completion import get_completion_class

VARIABLE = "_INROAD_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script; in bash: eval "$(inroad completion bash)"."""
    script = get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"no completion for {shell}")
    root = click.get_current_context().find_root().command
    click.echo(script(root, {}, "inroad", VARIABLE).source())


def contexts(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the kubeconfig's contexts that begin with what was typed; none when it can't be read."""
    del parameter
    from inroad.core.errors import InroadError  # noqa: PLC0415 - completing other words needs none of this
    from inroad.kube.kubeconfig import contexts, files  # noqa: PLC0415

    try:
        found = contexts(files(context.params.get("kubeconfig") or "", os.environ))
    except InroadError:
        return []
    return [name for name in found if name.startswith(incomplete)]
