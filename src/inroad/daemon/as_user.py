"""The program that reads a user's files with the user's rights: the kubeconfig and `config.yml`.

It begins as root, imports what it needs (our files may lie where the user can't read), becomes the user
for good, and only then looks at anything of the user's: environment, directory, kubeconfig, plugins.
stdin: one `Task` as JSON; stdout: one line of JSON, `Loaded` or a `Failure`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import msgspec

from inroad.core.config_read import read_yaml
from inroad.core.errors import ConfigInvalid, CredentialsRejected, InroadError
from inroad.core.status import Failure
from inroad.host import run
from inroad.host.choose import become
from inroad.kube.credentials import Credentials, PluginOutput, load
from inroad.kube.exec_plugin import Invocation

PLUGIN_TIMEOUT = 110.0
"""Seconds: enough for a log-in in the browser; a little less than the daemon waits for us."""
MAX_CONFIG = 256 << 10
"""Characters of a configuration file."""


class Task(msgspec.Struct):
    """Whom to become and what to load; see `user_child.load`."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    environment: dict[str, str]
    directory: str
    kubeconfig: str
    context: str
    config_file: str = ""


class Loaded(msgspec.Struct, tag="loaded", omit_defaults=True):
    """What the user's files say. `config`: the configuration file as plain data, None where there is none.

    `warnings`: what is odd in that file, a line each.
    """

    credentials: Credentials
    config: Any = None
    warnings: list[str] = []


def run_plugin(invoked: Invocation) -> PluginOutput:
    """Run a credential plugin to its end."""
    try:
        done = run.run(invoked.argv, env=invoked.environ, timeout=PLUGIN_TIMEOUT)
    except TimeoutError as error:
        raise CredentialsRejected(
            f"the credential plugin {invoked.argv[0]} did not end within {PLUGIN_TIMEOUT:.0f} s",
            f"run it by hand: {' '.join(invoked.argv)}",
        ) from error
    return PluginOutput(done.status, done.stdout, done.stderr)


def read_config(path: str) -> tuple[Any, list[str]]:
    """Read the configuration file: its data and warnings. Raises `ConfigInvalid` for a wrong value."""
    if not path:
        return None, []
    import yaml  # noqa: PLC0415 - most users have no such file

    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            text = file.read(MAX_CONFIG + 1)
    except FileNotFoundError:
        return None, []
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise ConfigInvalid(f"{path} can't be read: {why}", "inroad config check") from None
    if len(text) > MAX_CONFIG:
        raise ConfigInvalid(f"{path} is larger than {MAX_CONFIG >> 10} KiB", "inroad config check")
    problems = read_yaml(text, path).problems
    for problem in problems:
        if problem.fatal:
            raise ConfigInvalid(str(problem), "inroad config check shows everything that is wrong")
    return yaml.safe_load(text), [str(problem) for problem in problems]


def take_over(task: Task) -> None:
    """Become the task's user, in that user's environment and directory."""
    become(task.uid, task.gid, task.groups)
    os.environ.clear()
    os.environ.update(task.environment)
    with contextlib.suppress(OSError):  # only relative paths need it, and they then say what is missing
        os.chdir(task.directory)


def main() -> int:
    """Do the task on stdin; the exit status is 0 whenever there is an answer."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    try:
        take_over(task)
        config, warnings = read_config(task.config_file)
        credentials = load(task.kubeconfig, task.context, os.environ, run_plugin)
        answer: msgspec.Struct = Loaded(credentials, config, warnings)
    except InroadError as error:
        answer = Failure(error.code, error.message, error.remedy)
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
