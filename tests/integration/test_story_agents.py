"""Connections start where the developer says: in a namespace's agent, or in a chosen pod."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator

import pytest
from agents_stage import eventually, origin_of, pods
from stage import INROAD, Stage, connected_stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Yield a sandbox whose workstation is connected to namespace `shop`."""
    with connected_stage("t-agents") as stage:
        yield stage


def test_without_agents_the_manager_dials(stage: Stage) -> None:
    status = stage.ask("status")
    assert status["origin"]["kind"] == "traffic-manager"
    assert origin_of(stage) in pods(stage, "inroad", "traffic-manager")[status["origin"]["pod"]]


def test_a_namespace_agent_dials_and_looks_up_until_it_is_removed(stage: Stage) -> None:
    stage.inroad("agent", "add")
    ((name, addresses),) = pods(stage, "shop", "traffic-agent").items()
    assert origin_of(stage) in addresses
    assert origin_of(stage, "http://web.default/") in addresses
    assert stage.run("dig", "+short", "db-0.db.shop.svc.cluster.local").stdout.strip()
    status = stage.ask("status")
    assert (status["origin"]["pod"], status["origin"]["kind"]) == (name, "namespace")
    stage.inroad("agent", "remove")
    eventually(lambda: stage.ask("status")["origin"]["kind"] == "traffic-manager")
    assert origin_of(stage) not in addresses


def test_a_dead_agent_is_passed_over_at_once(stage: Stage) -> None:
    stage.inroad("agent", "add")
    (first,) = pods(stage, "shop", "traffic-agent")
    stage.run("kubectl", "delete", "pod", "-n", "shop", first, "--force", "--grace-period=0", user="root")
    started = time.monotonic()
    page = stage.curl("http://web/")
    assert page["namespace"] == "shop"
    assert time.monotonic() - started < 2
    eventually(lambda: stage.ask("status")["origin"]["pod"] not in ("", first))
    stage.inroad("agent", "remove")
    eventually(lambda: not stage.ask("status")["agents"])


def test_attaching_makes_that_very_pod_the_origin_and_leaves_the_pod_running(stage: Stage) -> None:
    before = pods(stage, "default", "web")
    stage.inroad("attach", "deploy/web", "-n", "default")
    status = stage.ask("status")
    pod = status["origin"]["pod"]
    assert status["origin"]["kind"] == "ephemeral"
    assert origin_of(stage) in before[pod]
    assert pods(stage, "default", "web") == before
    path = "jsonpath={.status.containerStatuses[0].restartCount}"
    restarts = stage.run("kubectl", "get", "pod", "-n", "default", pod, "-o", path, user="root")
    assert restarts.stdout == "0"
    assert status["attachments"] == ["deploy/web in default"]
    rows = {row["workload"]: row for row in stage.ask("list", "-n", "default")["workloads"]}
    assert rows["deploy/web"]["agent"] == "ephemeral"
    assert rows["deploy/web"]["attached"]


def resolves(stage: Stage, name: str) -> bool:
    return stage.run("getent", "hosts", name, status=None).returncode == 0


def test_an_attachment_elsewhere_is_a_second_search_domain(stage: Stage) -> None:
    assert stage.ask("status")["attachments"] == ["deploy/web in default"]
    assert resolves(stage, "kubernetes"), "a service of namespace default only"
    assert stage.curl("http://web/")["namespace"] == "shop", "the connected namespace comes first"


def test_several_attachments_do_not_pin_the_origin(stage: Stage) -> None:
    stage.inroad("attach", "deploy/echo")
    status = stage.ask("status")
    assert any(warning.startswith("origin not pinned") for warning in status["warnings"])
    assert status["origin"]["reason"] == "an agent of namespace shop"
    assert status["attachments"] == ["deploy/web in default", "deploy/echo in shop"]
    agents = {row["workload"]: row["agent"] for row in stage.ask("list")["workloads"]}
    assert agents == {"deploy/echo": "ephemeral", "deploy/web": "", "sts/db": ""}
    stage.inroad("detach", "deploy/echo")
    assert stage.ask("status")["origin"]["reason"] == "attached to deploy/web in default"


def test_detaching_ends_the_agent_and_its_search_domain(stage: Stage) -> None:
    stage.inroad("detach", "deploy/web", "-n", "default")
    assert not resolves(stage, "kubernetes")
    eventually(lambda: not stage.ask("status")["agents"])
    assert stage.ask("status")["origin"]["kind"] == "traffic-manager"
    assert stage.inroad("detach", "deploy/web", "-n", "default", status=23).stderr.startswith("inroad: ")


def test_a_pinned_pod_is_the_origin_and_an_agent_comes_again_under_another_name(stage: Stage) -> None:
    pod, addresses = max(pods(stage, "shop", "web").items())
    stage.inroad("quit")
    stage.ask("connect", "-n", "shop", "--via", f"pod/{pod}")
    assert "has no agent" in stage.ask("status")["warnings"][0]
    for turn in (1, 2):
        stage.inroad("attach", f"pod/{pod}")
        origin = stage.ask("status")["origin"]
        assert (origin["pod"], origin["reason"]) == (pod, f"pinned to pod/{pod} in shop")
        assert origin_of(stage, "http://web.default/") in addresses
        stage.inroad("detach", f"pod/{pod}")
        eventually(lambda: not stage.ask("status")["agents"])
        path = "jsonpath={.spec.ephemeralContainers[*].name}"
        names = stage.run("kubectl", "get", "pod", "-n", "shop", pod, "-o", path, user="root").stdout
        assert len(set(names.split())) == turn
    stage.inroad("quit")
    stage.ask("connect", "-n", "shop")


def test_a_subnet_can_be_reached_through_one_workload_only(stage: Stage) -> None:
    stage.inroad("attach", "deploy/web")
    pod = stage.ask("status")["origin"]["pod"]
    addresses = pods(stage, "shop", "web")[pod]
    stage.inroad("quit")
    service = stage.state["service_cidrs"][0]
    stage.ask("connect", "-n", "shop", "--proxy-via", f"{service}=deploy/web")
    page = stage.curl("http://web.default/", "-4")
    assert page["client_ip"] in addresses
    moved = stage.ask("status")["moved"]
    assert [(one["cidr"], one["workload"]) for one in moved] == [(service, "deploy/web")]
    stage.inroad("quit")
    stage.ask("connect", "-n", "shop")


def test_a_pod_that_is_no_agent_is_turned_away_with_one_clear_line(stage: Stage) -> None:
    before = stage.ask("status")["agents"]
    secret = stage.run(
        "kubectl", "get", "secret", "-n", "inroad", "traffic-manager-tls", "-o", "json", user="root"
    )
    authority = base64.b64decode(json.loads(secret.stdout)["data"]["ca.crt"]).decode()
    (echo,) = (place for place in stage.state["places"] if place.startswith("pod/shop/echo"))
    claims = {
        "INROAD_MANAGER": "traffic-manager.inroad:15703",
        "INROAD_MANAGER_CA": authority,
        "INROAD_AGENT_KIND": "ephemeral",
        "INROAD_TICKET": "invented",
        "POD_NAMESPACE": "default",
        "POD_NAME": "web-1",
        "POD_UID": "not-mine",
    }
    environment = [f"{name}={value}" for name, value in claims.items()]
    done = stage.run("env", *environment, *INROAD, "serve", "agent", place=echo, user="root", status=None)
    assert done.returncode == 23
    assert "the ticket is unknown or was used already" in done.stderr
    (manager,) = pods(stage, "inroad", "traffic-manager")
    log = stage.run("kubectl", "logs", "-n", "inroad", manager, user="root").stdout
    assert "an agent was turned away" in log
    assert stage.ask("status")["agents"] == before
