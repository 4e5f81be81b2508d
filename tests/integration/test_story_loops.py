"""A cluster on the workstation itself sends what it can't place back to us: no dial may go round."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from stage import Stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")

UNASSIGNED = "10.96.255.77"
"""In the service subnet, and nobody's."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Yield a connected sandbox whose node lives on the workstation, as kind's does.

    Its node lets packets to unassigned service addresses out, as kube-proxy does in its iptables mode.
    """
    stage = Stage(f"t-loops-{os.getpid()}")
    stage.up("--on-host", "--family", "ipv4", "--nodes", "1")
    try:
        chain = ("inet", "inroad-services", "filter-forward")
        stage.run("nft", "flush", "chain", *chain, place="node-1", user="root")
        stage.ask("connect", "-n", "shop")
        yield stage
    finally:
        stage.inroad("quit", status=None)
        stage.down()


def counters(stage: Stage) -> dict[str, int]:
    found: dict[str, int] = stage.ask("status")["vif"]["counters"]
    return found


def dial(stage: Stage, patience: int) -> tuple[int, dict[str, int]]:
    """Connect to the unassigned address; return curl's exit status and what the counters gained."""
    before = counters(stage)
    done = stage.run("curl", "-sS", "-m", str(patience), f"http://{UNASSIGNED}/", status=None)
    after = counters(stage)
    return done.returncode, {name: count - before.get(name, 0) for name, count in after.items()}


def test_a_masqueraded_dial_comes_back_once_and_is_refused(stage: Stage) -> None:
    status, gained = dial(stage, patience=10)
    assert status == 7  # refused, and so at once
    assert (gained["dials"], gained["recursions"]) == (1, 1)
    assert gained["packets"] < 10


def test_the_next_connect_to_a_real_service_is_not_disturbed(stage: Stage) -> None:
    assert stage.curl("http://web/")["namespace"] == "shop"


def test_without_masquerading_it_times_out_in_few_packets(stage: Stage) -> None:
    """The refusal itself then goes to a pod's address, which leads into the VIF and not to the node."""
    chain = ("inet", "inroad-services", "nat-postrouting")
    stage.run("nft", "flush", "chain", *chain, place="node-1", user="root")
    stage.run("nft", "delete", "table", "inet", "inroad-sandbox-host", user="root")
    status, gained = dial(stage, patience=4)
    assert status in (7, 28)
    assert gained["recursions"] > 0
    assert gained["dials"] <= 2  # one, and another should the application's SYN be sent again after it
    assert gained["packets"] < 40
