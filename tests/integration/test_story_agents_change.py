"""Agents come, go and die, and so does the manager: what that does to connections, and what not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from agents_stage import eventually, kubectl, namespace_agent, origin_of, path, pods
from stage import Stage, connected_stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")

CONVERSE = """
import socket, sys
flow = socket.create_connection(("echo", 7), 10)
for line in sys.stdin:
    try:
        flow.sendall(line.encode())
        print(flow.recv(100).decode().strip() or "ended", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Yield a sandbox whose user is connected to `shop`, and may not port-forward in `default`."""
    with connected_stage("t-change", "--restrict", "get,create:pods/portforward:default") as stage:
        yield stage


class Conversation:
    """A connection to the echo service that lives through a test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def say(self, word: str) -> str:
        """Return what comes back; `ConnectionResetError` or the like when the connection has died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@contextmanager
def conversation(stage: Stage) -> Iterator[Conversation]:
    line = stage.command([sys.executable, "-c", CONVERSE], "dev", "workstation")
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Conversation(process)
        finally:
            process.communicate(timeout=20)  # its input ends, and so does it


def test_an_agent_is_reached_past_the_manager_where_rbac_allows_it(stage: Stage) -> None:
    with namespace_agent(stage) as (name, addresses):
        eventually(lambda: path(stage) == "direct")
        with conversation(stage) as flow:
            assert flow.say("one") == "one"
            assert stage.ask("status")["tunnel"]["flows"] == 0, "it does not cross the manager"
            assert origin_of(stage) in addresses
            assert flow.say("two") == "two"
        assert stage.run("getent", "ahosts", "web").stdout
        (agent,) = stage.ask("status")["agents"]
        assert (agent["pod"], agent["path"]) == (name, {"kind": "direct", "reason": ""})


def test_without_that_right_the_agent_is_relayed_and_status_says_why(stage: Stage) -> None:
    with namespace_agent(stage, "default") as (_, addresses):
        stage.ask("connect", "-n", "default")
        assert origin_of(stage) in addresses
        eventually(lambda: "no right to port-forward" in stage.ask("status")["origin"]["path"]["reason"])
        assert path(stage) == "relayed"
        assert origin_of(stage) in addresses
        assert "; relayed (no right to port-forward" in stage.inroad("status").stdout
        stage.ask("connect", "-n", "shop")


def test_a_restart_of_the_manager_leaves_direct_connections_alone(stage: Stage) -> None:
    with namespace_agent(stage) as (_, addresses):
        eventually(lambda: path(stage) == "direct")
        with conversation(stage) as flow:
            assert flow.say("before") == "before"
            (manager,) = pods(stage, "inroad", "traffic-manager")
            kubectl(
                stage, "delete", "pod", "-n", "inroad", manager, "--wait=false", "--grace-period=0", "--force"
            )
            eventually(lambda: stage.ask("status")["state"] == "reconnecting")
            assert flow.say("meanwhile") == "meanwhile"
            assert origin_of(stage) in addresses, "new connections need no manager either"
            eventually(lambda: stage.ask("status")["state"] == "connected", 30)
            assert flow.say("after") == "after"
            assert origin_of(stage) in addresses
        assert stage.ask("status")["tunnel"]["manager_pod"] != manager


def test_a_killed_agent_resets_its_connections_and_new_ones_start_elsewhere(stage: Stage) -> None:
    with namespace_agent(stage) as (name, addresses):
        eventually(lambda: path(stage) == "direct")
        with conversation(stage) as flow:
            assert flow.say("one") == "one"
            stage.refresh().run("pkill", "-KILL", "-f", "serve agent", place=f"pod/shop/{name}", user="root")
            assert flow.say("two") in ("ConnectionResetError", "BrokenPipeError")
        assert stage.curl("http://web/")["namespace"] == "shop"
        assert stage.run("getent", "ahosts", "web").stdout
        eventually(lambda: path(stage) == "direct")  # the pod's container was started again
        assert origin_of(stage) in addresses


def test_a_rollout_replaces_the_agent_under_running_requests(stage: Stage) -> None:
    with namespace_agent(stage) as (name, _):
        eventually(lambda: path(stage) == "direct")
        kubectl(stage, "rollout", "restart", "-n", "shop", "deploy/traffic-agent")
        seen = set()
        while name in pods(stage, "shop", "traffic-agent"):
            seen.add(origin_of(stage))  # raises when a request fails
        ((again, addresses),) = pods(stage, "shop", "traffic-agent").items()
        assert again != name
        eventually(lambda: stage.ask("status")["origin"]["pod"] == again)
        assert origin_of(stage) in addresses


def nodes(stage: Stage, namespace: str, prefix: str) -> dict[str, str]:
    """Return the node of each pod, by the pod's first address."""
    found = json.loads(kubectl(stage, "get", "pods", "-n", namespace, "-o", "json"))["items"]
    mine = (pod for pod in found if pod["metadata"]["name"].startswith(prefix))
    return {pod["status"]["podIP"]: pod["spec"]["nodeName"] for pod in mine}


def test_an_agent_whose_node_goes_away_is_passed_over_until_it_is_back(stage: Stage) -> None:
    ((manager, here),) = nodes(stage, "inroad", "traffic-manager").items()
    away = "node-2" if here == "node-1" else "node-1"
    (web,) = (address for address, node in nodes(stage, "shop", "web").items() if node == here)
    url = f"http://{web}:8080/"
    stage.ask("connect", "-n", "default")  # relayed: the sandbox's port-forwards need no node's cable
    with namespace_agent(stage, "default") as (first, _):
        elsewhere = json.dumps({"spec": {"template": {"spec": {"nodeName": away}}}})
        kubectl(stage, "patch", "-n", "default", "deploy/traffic-agent", "-p", elsewhere)
        eventually(lambda: first not in pods(stage, "default", "traffic-agent"), 30)
        ((name, addresses),) = pods(stage, "default", "traffic-agent").items()
        eventually(lambda: stage.ask("status")["origin"]["pod"] == name)
        assert origin_of(stage, url) in addresses
        stage.sandbox("fault", "cut", f"place={away}")
        try:
            assert origin_of(stage, url) == manager
            assert stage.ask("status")["origin"]["kind"] == "traffic-manager"
            assert origin_of(stage, url) == manager
        finally:
            stage.sandbox("fault", "mend")
        eventually(lambda: stage.ask("status")["origin"]["pod"] == name, 40)
        assert origin_of(stage, url) in addresses
    stage.ask("connect", "-n", "shop")
