"""The command itself, as a process, where no daemon runs: each in a mount namespace with an empty /run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

INROAD = [sys.executable, "-I", "-m", "inroad"]
HEAVY = ("aiohttp", "asyncio", "cryptography", "dns", "kubernetes", "pyroute2", "rich", "structlog", "uvloop")
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes mount namespaces")


def run(
    *arguments: str, prepare: str = ":", status: int = 0, user: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run `inroad ...` where /run is empty but for what the shell commands `prepare` make."""
    script = f'mount -t tmpfs none /run && {prepare} && exec "$@"'
    argv = ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", *INROAD, *arguments]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == status, done
    return done


def test_status_without_a_daemon() -> None:
    assert run("status").stdout == "Not connected\n"
    assert json.loads(run("status", "-o", "json").stdout)["connected"] is False
    assert run("status", "--json").stdout == run("status", "-o", "json").stdout


@pytest.mark.parametrize("word", ["quit", "disconnect"])
def test_quit_without_a_connection_is_no_error(word: str) -> None:
    assert run(word).stdout == "Not connected.\n"
    assert json.loads(run(word, "--json").stdout)["change"] == "unchanged"


def test_status_tells_of_a_crashed_daemon() -> None:
    done = run("status", prepare="mkdir /run/inroad && touch /run/inroad/journal.json")
    assert "inroad quit puts the host back" in done.stdout


def test_version() -> None:
    assert run("version").stdout.splitlines()[1] == "daemon  not running"


def test_wrong_usage_ends_with_2() -> None:
    assert "No such command" in run("conect", status=2).stderr
    assert "No such option" in run("status", "--nonsense", status=2).stderr


@pytest.mark.parametrize("command", ["status", "quit", "version"])
def test_quick_commands_import_nothing_heavy(command: str, tmp_path: Path) -> None:
    probe = (
        "import sys, runpy\n"
        f"sys.argv = ['inroad', {command!r}]\n"
        "try: runpy.run_module('inroad', run_name='__main__')\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            'mount -t tmpfs none /run; exec "$@"',
            "sh",
            sys.executable,
            "-c",
            probe,
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout


def test_watching_ends_with_ctrl_c() -> None:
    # A shell that runs the tests in the background has its children ignore Ctrl-C.
    script = 'mount -t tmpfs none /run; exec env --default-signal=INT "$@"'
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", *INROAD]
    with subprocess.Popen(
        [*argv, "status", "--watch", "--json"], stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["connected"] is False
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    assert "_INROAD_COMPLETE" in run("completion", shell).stdout


def test_contexts_are_completed(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("contexts: [{name: alpha, context: {}}, {name: beta, context: {}}]\n")
    environment = os.environ | {
        "COMP_WORDS": "inroad connect --context a",
        "COMP_CWORD": "3",
        "_INROAD_COMPLETE": "bash_complete",
        "KUBECONFIG": str(config),
    }
    done = subprocess.run(INROAD, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout == "plain,alpha\n"
