"""The program that reads a kubeconfig with its user's rights and prints the credentials.

The daemon starts it with the uid, gid, groups and environment of the socket's peer (`user_child`). One
line of JSON on stdout: `Credentials`, or a `Failure`. Its imports are few, because `connect` waits for it.
"""

from __future__ import annotations

import contextlib
import os
import sys

import msgspec

from inroad.core.errors import CredentialsRejected, InroadError
from inroad.core.status import Failure
from inroad.kube.credentials import PluginOutput, load
from inroad.kube.exec_plugin import Invocation

PLUGIN_TIMEOUT = 110.0
"""Seconds: enough for a log-in in the browser; a little less than the daemon waits for us."""


def run_plugin(invoked: Invocation) -> PluginOutput:
    """Run a credential plugin to its end."""
    from inroad.host import run  # noqa: PLC0415 - it imports asyncio, which only plugins make worth 50 ms

    try:
        done = run.run(invoked.argv, env=invoked.environ, timeout=PLUGIN_TIMEOUT)
    except TimeoutError as error:
        raise CredentialsRejected(
            f"the credential plugin {invoked.argv[0]} did not end within {PLUGIN_TIMEOUT:.0f} s",
            f"run it by hand: {' '.join(invoked.argv)}",
        ) from error
    return PluginOutput(done.status, done.stdout, done.stderr)


def main(argv: list[str]) -> int:
    """Arguments: the working directory, the kubeconfig's path or "", the context or ""."""
    directory, kubeconfig, context = argv
    with contextlib.suppress(OSError):  # only relative paths need it, and they then say what is missing
        os.chdir(directory)
    try:
        answer: msgspec.Struct = load(kubeconfig, context, os.environ, run_plugin)
    except InroadError as error:
        answer = Failure(error.code, error.message, error.remedy)
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
