"""Connecting and ending in every way: the host is as it was."""

import json
import os
import signal
from collections.abc import Iterator

import pytest
from stage import INROAD, Stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")

END = """
import os, select, signal, sys
process = os.pidfd_open(int(sys.argv[1]))
os.kill(int(sys.argv[1]), signal.SIGTERM)
assert select.select([process], [], [], 10)[0], "it does not end"
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Stage]:
    """Yield a running sandbox."""
    stage = Stage("t-life")
    stage.up()
    try:
        yield stage
    finally:
        stage.down()


@pytest.fixture
def stage(sandbox: Stage) -> Iterator[Stage]:
    """Yield the sandbox with nothing connected, and check that the test left the host as it was."""
    before = sandbox.dump()
    try:
        yield sandbox
        assert sandbox.dump() == before
        assert sandbox.daemon_pids() == []
    finally:
        sandbox.inroad("quit", user="root", status=None)


def test_quit_puts_everything_back(stage: Stage) -> None:
    before = stage.dump()
    stage.inroad("connect", "-n", "shop")
    assert stage.dump() != before
    assert "Disconnected" in stage.inroad("quit").stdout
    assert stage.dump() == before


def test_disconnect_is_the_same_and_twice_is_no_error(stage: Stage) -> None:
    stage.inroad("connect", "-n", "shop")
    assert stage.ask("disconnect")["change"] == "disconnected"
    assert stage.ask("disconnect")["change"] == "unchanged"


def test_two_quits_at_once(stage: Stage) -> None:
    stage.inroad("connect", "-n", "shop")
    quits = [stage.start(*INROAD, "quit", "-o", "json") for _ in range(2)]
    outputs = [quit_.communicate(timeout=30) for quit_ in quits]
    assert [quit_.returncode for quit_ in quits] == [0, 0], outputs
    assert {json.loads(out)["connected"] for out, _ in outputs} == {False}


def test_connect_right_after_quit(stage: Stage) -> None:
    for _ in range(3):
        assert stage.ask("connect", "-n", "shop")["change"] == "connected"
        stage.inroad("quit")


def kill_daemon(stage: Stage) -> None:
    """End the daemon as the kernel's out-of-memory killer would."""
    pids = stage.daemon_pids()
    assert pids
    stage.run("kill", "-9", *map(str, pids), user="root")


def test_a_killed_daemon_then_quit(stage: Stage) -> None:
    stage.inroad("connect", "-n", "shop")
    kill_daemon(stage)
    status = stage.ask("status")
    assert status["connected"] is False
    assert "inroad quit" in status["warnings"][0]
    answer = stage.ask("quit")
    assert answer["change"] == "cleaned"
    assert answer["cleaned"]


def test_a_killed_daemon_then_connect(stage: Stage) -> None:
    stage.inroad("connect", "-n", "shop")
    kill_daemon(stage)
    assert stage.ask("connect", "-n", "shop")["change"] == "connected"
    assert stage.curl("http://web/")["namespace"] == "shop"
    stage.inroad("quit")


@pytest.mark.parametrize(
    ("lines", "number"),
    [*((lines, signal.SIGINT) for lines in range(1, 6)), (3, signal.SIGTERM), (4, signal.SIGHUP)],
)
def test_a_signal_at_any_moment_of_connect(stage: Stage, lines: int, number: int) -> None:
    connect = stage.start(*INROAD, "connect", "-n", "shop")
    assert connect.stderr is not None
    for _ in range(lines):
        connect.stderr.readline()
    connect.send_signal(number)
    out, err = connect.communicate(timeout=30)
    # it may just have been done: then the connection stands and its summary was printed
    assert (connect.returncode, err.splitlines()[-1:]) == (
        130,
        ["inroad: interrupted; the host is as it was"],
    ) or (connect.returncode == 0 and "Connected" in out), (out, err)
    if connect.returncode == 0:
        stage.inroad("quit")


def test_a_signal_does_not_end_a_connection_that_was_there(stage: Stage) -> None:
    stage.inroad("connect", "-n", "shop")
    again = stage.start(*INROAD, "connect", "-n", "default")
    assert again.stderr is not None
    again.stderr.readline()
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=30)
    assert stage.ask("status")["connected"] is True
    stage.inroad("quit")


def test_root_can_connect_without_sudo(stage: Stage) -> None:
    kubeconfig = stage.state["kubeconfig"]
    assert (
        stage.ask("connect", "--kubeconfig", kubeconfig, "-n", "shop", user="root")["change"] == "connected"
    )
    stage.inroad("quit", user="root")


def test_a_service_daemon_stays(stage: Stage) -> None:
    stage.run(*INROAD, "serve", "daemon", "--background", "--keep", user="root")
    assert (
        stage.ask("connect", "--kubeconfig", stage.state["kubeconfig"], user="root")["change"] == "connected"
    )
    assert stage.ask("quit", user="root")["service"] is True
    [pid] = stage.daemon_pids()
    stage.run("python3", "-c", END, str(pid), user="root")
