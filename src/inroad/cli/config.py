"""`inroad config view|check`: what is configured and where it came from; what is wrong with a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import msgspec

from inroad.cli.daemon_client import DaemonClient, NoDaemon
from inroad.cli.options import print_json, with_output
from inroad.cli.places import config_file
from inroad.core.config import KEYS, Effective, Layer, Problem, Source, merge
from inroad.core.config_read import read_extensions, read_yaml
from inroad.core.config_values import show
from inroad.core.errors import ConfigInvalid, KubeconfigMissing
from inroad.core.status import ConfigValue, ConfigView


def read_file(path: Path, *, required: bool = False) -> Layer:
    """Read a configuration file; one that does not exist says nothing unless it is `required`."""
    try:
        return read_yaml(path.read_text(), str(path))
    except FileNotFoundError:
        if not required:
            return Layer(Source.FILE)
        raise ConfigInvalid(
            f"there is no configuration file {path}", "inroad config view shows all keys"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise ConfigInvalid(f"{path} can't be read: {why}", "inroad config check FILE") from None


def read_kubeconfig(kubeconfig: str, context: str) -> Layer:
    """Read what the context's cluster says in its extensions; no kubeconfig says nothing."""
    from inroad.kube.kubeconfig import files, select  # noqa: PLC0415 - only this command reads it itself

    try:
        paths = files(kubeconfig, os.environ)
    except KubeconfigMissing:
        if kubeconfig or context:
            raise
        return Layer(Source.KUBECONFIG)
    cluster = select(paths, context).cluster
    return read_extensions(cluster.values.get("extensions"), f"cluster {cluster.name}")


def view_of(effective: Effective, problems: tuple[Problem, ...]) -> ConfigView:
    """Return a merged configuration in the form in which it is shown."""
    shown = [
        ConfigValue(key.name, show(getattr(effective.config, key.field)), effective.sources[key.field].label)
        for key in KEYS
    ]
    return ConfigView(shown, [str(problem) for problem in problems])


def invalid(problems: tuple[Problem, ...]) -> ConfigInvalid | None:
    """Return the error that the fatal ones among the problems make."""
    fatal = [str(problem) for problem in problems if problem.fatal]
    if not fatal:
        return None
    more = f" (and {len(fatal) - 1} more)" if len(fatal) > 1 else ""
    return ConfigInvalid(fatal[0] + more, "inroad config check shows everything that is wrong")


@click.group()
def config() -> None:
    """See and check the configuration."""


@config.command()
@click.option("--kubeconfig", metavar="FILE", default="", help="Instead of KUBECONFIG or ~/.kube/config.")
@click.option("--context", default="", help="A context of the kubeconfig; its current one by default.")
@with_output
def view(*, kubeconfig: str, context: str, as_json: bool) -> None:
    """Show every value and where it came from.

    While connected: what is in force, the manager's values included.
    """
    found = None if kubeconfig or context else _in_force()
    if found is None:
        layers = [read_file(config_file()), read_kubeconfig(kubeconfig, context)]
        problems = tuple(problem for layer in layers for problem in layer.problems)
        found = view_of(merge(layers), problems)
    if as_json:
        print_json(found)
        return
    texts = [(value.key, _text(value.value), value.source) for value in found.values]
    widths = [max(len(row[column]) for row in texts) for column in (0, 1)]
    for key, text, source in texts:
        dim = source == Source.BUILT_IN.label
        click.echo(click.style(f"{key:<{widths[0]}}  {text:<{widths[1]}}  {source}", dim=dim))
    for warning in found.problems:
        click.echo(click.style("warning: ", fg="yellow") + warning, err=True)


def _in_force() -> ConfigView | None:
    """Return the running session's configuration, if there is one."""
    try:
        client = DaemonClient()
        return client.config() if client.status().connected else None
    except NoDaemon:
        return None


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}s"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and not value:
        return "-"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return msgspec.json.encode(value).decode()


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@with_output
def check(*, file: Path | None, as_json: bool) -> None:
    """Say what is wrong with FILE, by default the user's config.yml; ends with 23 if a value is."""
    path = file or config_file()
    problems = read_file(path, required=file is not None).problems
    fatal = any(problem.fatal for problem in problems)
    if as_json:
        print_json(
            {"file": str(path), "valid": not fatal, "problems": [_as_json(problem) for problem in problems]}
        )
    for problem in problems if not as_json else ():
        kind = click.style("error", fg="red") if problem.fatal else click.style("warning", fg="yellow")
        click.echo(f"{kind}: {problem}")
    if not problems and not as_json:
        click.echo(
            f"{path}: nothing is wrong" if path.exists() else f"{path} does not exist; built-in values hold"
        )
    if fatal:
        sys.exit(ConfigInvalid.exit_code)


def _as_json(problem: Problem) -> dict[str, object]:
    severity = "error" if problem.fatal else "warning"
    return {
        "file": problem.file,
        "line": problem.line,
        "key": problem.key,
        "severity": severity,
        "text": problem.text,
    }
