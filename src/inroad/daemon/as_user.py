"""The program that reads a kubeconfig with its user's rights and prints the credentials.

It begins as root, imports what it needs (our files may lie where the user can't read), becomes the user
for good, and only then looks at anything of the user's: environment, directory, kubeconfig, plugins.
stdin: one `Task` as JSON; stdout: one line of JSON, `Credentials` or a `Failure`.
"""

from __future__ import annotations

import contextlib
import os
import sys

import msgspec

from inroad.core.errors import CredentialsRejected, InroadError
from inroad.core.status import Failure
from inroad.host import run
from inroad.host.choose import become
from inroad.kube.credentials import PluginOutput, load
from inroad.kube.exec_plugin import Invocation

PLUGIN_TIMEOUT = 110.0
"""Seconds: enough for a log-in in the browser; a little less than the daemon waits for us."""


class Task(msgspec.Struct):
    """Whom to become and what to load; see `fetch_credentials`."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    environment: dict[str, str]
    directory: str
    kubeconfig: str
    context: str


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
        answer: msgspec.Struct = load(task.kubeconfig, task.context, os.environ, run_plugin)
    except InroadError as error:
        answer = Failure(error.code, error.message, error.remedy)
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
