"""The `inroad` command group. Commands are named as text and imported when they are used."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from inroad.core.errors import InroadError

COMMANDS = {
    "completion": "inroad.cli.completion:completion",
    "agent": "inroad.cli.agents:agent",
    "attach": "inroad.cli.agents:attach",
    "config": "inroad.cli.config:config",
    "connect": "inroad.cli.connect:connect",
    "detach": "inroad.cli.agents:detach",
    "disconnect": "inroad.cli.quit:quit_command",
    "explain": "inroad.cli.explain:explain",
    "install": "inroad.cli.install:install",
    "list": "inroad.cli.agents:list_command",
    "quit": "inroad.cli.quit:quit_command",
    "sandbox": "inroad.sandbox.commands:group",
    "serve": "inroad.cli.serve:serve",
    "status": "inroad.cli.status:status",
    "uninstall": "inroad.cli.install:uninstall",
    "upgrade": "inroad.cli.install:upgrade",
    "version": "inroad.cli.version:version",
}
SHOWN = {
    "agent": "Run an agent for a whole namespace (add, remove).",
    "attach": "Let connections start in a pod of a workload (also: detach).",
    "completion": "Print a script that completes commands in bash, zsh or fish.",
    "config": "See and check the configuration.",
    "connect": "Make this workstation part of a cluster's network.",
    "explain": "Say which way a name or an address goes, and why.",
    "install": "Install the traffic-manager in a cluster (also: upgrade, uninstall).",
    "list": "List the workloads of a namespace and the agents in them.",
    "quit": "End the connection and put the host back (also: disconnect).",
    "sandbox": "A little cluster on this host, for trying things out.",
    "status": "Say what is connected and how.",
    "version": "Print the version of inroad and of its daemon.",
}
"""Short helps, so that `inroad --help` need not import every command."""


class LazyGroup(click.Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands that help shows."""
        del ctx
        return list(SHOWN)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None when there is none of that name."""
        del ctx
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(SHOWN.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Make this workstation part of a Kubernetes cluster's network."""


def main() -> None:
    """Run the command line of this process and exit with its status."""
    try:
        status = cli.main(prog_name="inroad", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("inroad: interrupted", err=True)
        sys.exit(130)
    except InroadError as error:
        click.echo(f"inroad: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone; nobody is left to be told
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
