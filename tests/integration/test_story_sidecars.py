"""Sidecars by annotation, and what an agent can't make the manager believe; where TokenReviews are forbidden.

The manager of this sandbox may not create TokenReviews, as in an install that is bound to its namespaces, so
every token here is checked by its signature. tests/integration/test_story_agents.py has the other way.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stage import INROAD, Stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")

RAW = Path(__file__).with_name("raw_client.py")
REVIEWS = "create:tokenreviews.*@system:serviceaccount:inroad:traffic-manager"
DEFAULT = "get,create:pods/portforward:default"
"""Nobody gets to the agents of namespace `default`."""
SERVER = "https://kubernetes.default.svc.cluster.local"
CONFIG = "/run/home/dev/.config/inroad/config.yml"
MANAGER, DIRECT = 15701, 15703


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Yield a sandbox in which `web` of namespace `shop` has sidecars, and a connected workstation."""
    stage = Stage(f"t-sidecars-{os.getpid()}")
    stage.up("--restrict", REVIEWS, "--restrict", DEFAULT)
    try:
        annotate(stage, "enabled")
        annotate(stage, "enabled", "default")
        eventually(lambda: len(with_sidecar(stage)) == 2 == len(pods(stage, "app=web")))
        stage.ask("connect", "-n", "shop")
        yield stage
        stage.inroad("quit")
    finally:
        stage.down()


def eventually(found: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def kubectl(stage: Stage, *arguments: str) -> str:
    return stage.run("kubectl", *arguments, user="root").stdout


def annotate(stage: Stage, value: str, namespace: str = "shop") -> None:
    patch = {"spec": {"template": {"metadata": {"annotations": {"inroad.dev/inject-traffic-agent": value}}}}}
    kubectl(stage, "patch", "deployment", "web", "-n", namespace, "--type=merge", "-p", json.dumps(patch))


def pods(stage: Stage, selector: str, namespace: str = "shop") -> list[dict[str, Any]]:
    """Return the pods that are not being deleted."""
    found = json.loads(kubectl(stage, "get", "pods", "-n", namespace, "-l", selector, "-o", "json"))["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def with_sidecar(stage: Stage) -> list[str]:
    """Return the names of the ready `web` pods that have an agent."""
    return [
        pod["metadata"]["name"]
        for pod in pods(stage, "app=web")
        if ready(pod) and "traffic-agent" in [one["name"] for one in pod["spec"]["containers"]]
    ]


def sidecars(stage: Stage) -> set[str]:
    """Return the pods whose sidecars are admitted."""
    agents = stage.ask("status")["agents"]
    return {one["pod"] for one in agents if (one["kind"], one["namespace"]) == ("sidecar", "shop")}


def manager_pod(stage: Stage) -> str:
    (pod,) = pods(stage, "app.kubernetes.io/component=traffic-manager", "inroad")
    return str(pod["metadata"]["name"])


def manager_log(stage: Stage) -> str:
    return kubectl(stage, "logs", "-n", "inroad", manager_pod(stage))


def test_an_annotated_pod_is_where_connections_start(stage: Stage) -> None:
    eventually(lambda: sidecars(stage) == set(with_sidecar(stage)))
    pod = stage.ask("status")["origin"]["pod"]
    addresses = next(
        [ip["ip"] for ip in one["status"]["podIPs"]]
        for one in pods(stage, "app=web")
        if one["metadata"]["name"] == pod
    )
    assert stage.curl("http://web.default/")["client_ip"] in addresses
    rows = {row["workload"]: row["agent"] for row in stage.ask("list")["workloads"]}
    assert rows["deploy/web"] == "sidecar"
    assert not rows["deploy/echo"]
    assert "tokens are checked by their signature" in manager_log(stage)


def test_via_names_the_workload_that_the_manager_found_out(stage: Stage) -> None:
    stage.inroad("quit")
    stage.ask("connect", "-n", "default", "--via", "deploy/db")
    assert any("has no agent" in text for text in stage.ask("status")["warnings"])
    stage.inroad("quit")
    stage.ask("connect", "-n", "shop", "--via", "deploy/web")
    assert stage.ask("status")["origin"]["kind"] == "sidecar"


def echo(stage: Stage) -> tuple[str, str]:
    """Return name and UID of a pod that is no agent."""
    (pod,) = pods(stage, "app=echo")
    return pod["metadata"]["name"], pod["metadata"]["uid"]


def token(stage: Stage, audience: str) -> str:
    """Return a token that is bound to the pod of `echo`."""
    bound = ("--bound-object-kind", "Pod", "--bound-object-name", echo(stage)[0])
    return kubectl(stage, "create", "token", "default", "-n", "shop", "--audience", audience, *bound).strip()


def claim(stage: Stage, *claims: dict[str, str]) -> list[tuple[int, str]]:
    """Run agents with these claims in the pod of `echo`; returns their exit status and what they said."""
    name, uid = echo(stage)
    secret = kubectl(stage, "get", "secret", "-n", "inroad", "traffic-manager-tls", "-o", "json")
    honest = {
        "INROAD_MANAGER": "traffic-manager.inroad:15703",
        "INROAD_MANAGER_CA": base64.b64decode(json.loads(secret)["data"]["ca.crt"]).decode(),
        "INROAD_TOKEN_FILE": "/run/token-for-manager",
        "INROAD_CLIENT_PORT": "0",
        "POD_NAMESPACE": "shop",
        "POD_NAME": name,
        "POD_UID": uid,
    }
    lines = [
        f"printf %s {token(stage, audience)} > /run/token-for-{where}"
        for where, audience in (("manager", "inroad-traffic-manager"), ("server", SERVER))
    ]
    agent = shlex.join([*INROAD, "serve", "agent"])
    for one in claims:
        variables = shlex.join(f"{key}={value}" for key, value in (honest | one).items())
        lines.append(f"env {variables} {agent} 2>&1; code=$?; echo; echo status $code; echo ---")
    script = "\n".join(lines)
    said = stage.run("sh", "-s", place=f"pod/shop/{name}", user="root", stdin=script).stdout
    return [
        (int(status), text)
        for text, _, status in (part.rpartition("status ") for part in said.split("---\n") if part)
    ]


CLAIMS = {
    "another pod": ({"POD_NAME": "db-0"}, "not of the claimed one"),
    "another namespace": ({"POD_NAMESPACE": "default"}, "not of the claimed one"),
    "another pod's UID": ({"POD_UID": "00000000-0000-0000-0000-000000000000"}, "not of the claimed one"),
    "a token for the API server": (
        {"INROAD_TOKEN_FILE": "/run/token-for-server"},
        "is not for",
    ),
    "to be the namespace's agent": ({}, "does not belong to deploy/traffic-agent"),
    "an ephemeral one with a token": ({"INROAD_AGENT_KIND": "ephemeral"}, "has to show a ticket"),
    "a ticket of its own making": (
        {"INROAD_AGENT_KIND": "ephemeral", "INROAD_TICKET": "t\u00e4uschung"},
        "unknown or was used already",
    ),
    "a pass of its own making": (
        {"INROAD_AGENT_KIND": "ephemeral", "INROAD_TICKET": "pass:00"},
        "not for the claimed pod",
    ),
}


def test_a_pod_that_is_no_agent_is_turned_away(stage: Stage) -> None:
    before = stage.ask("status")["agents"]
    outcomes = claim(stage, *(changes for changes, _ in CLAIMS.values()))
    told = [line for line in manager_log(stage).splitlines() if "an agent was turned away" in line]
    for name, (status, said), line in zip(CLAIMS, outcomes, told, strict=True):
        words = CLAIMS[name][1]
        assert status == 23, name
        assert words in said, name
        assert words in line, name
    assert stage.ask("status")["agents"] == before


def test_a_ticket_that_was_used_is_used_up(stage: Stage) -> None:
    stage.inroad("attach", "deploy/echo", "-n", "shop")
    (pod,) = pods(stage, "app=echo")
    (container,) = pod["spec"]["ephemeralContainers"]
    used = {one["name"]: one["value"] for one in container["env"] if one["name"] == "INROAD_TICKET"}
    [(status, said)] = claim(stage, {"INROAD_AGENT_KIND": "ephemeral"} | used)
    assert status == 23
    assert "unknown or was used already" in said
    stage.inroad("detach", "deploy/echo", "-n", "shop")


def raw(stage: Stage, place: str, port: int, via: str, *targets: str) -> dict[str, str]:
    argv = [sys.executable, str(RAW), str(port), via, *targets]
    answer: dict[str, str] = json.loads(stage.run(*argv, place=place, user="root").stdout.splitlines()[-1])
    return answer


OWN = ("169.254.169.254:80", "127.0.0.1:15000", "[::1]:15000", "[::ffff:127.0.0.1]:15702", "0.0.0.0:15702")


def test_a_raw_client_reaches_nothing_that_is_a_pods_own(stage: Stage) -> None:
    manager = f"pod/inroad/{manager_pod(stage)}"
    agent = with_sidecar(stage)[0]
    for place, port, via in (
        (manager, MANAGER, "-"),
        (manager, MANAGER, agent),
        (f"pod/shop/{agent}", DIRECT, "-"),
    ):
        for target, verdict in raw(stage, place, port, via, *OWN).items():
            assert verdict.startswith("NOT_ALLOWED"), (place, via, target)


def configure(stage: Stage, **values: str) -> None:
    """Replace the manager by one with these variables."""
    before = manager_pod(stage)
    words = [f"{name}={value}" for name, value in values.items()]
    kubectl(stage, "set", "env", "deployment/traffic-manager", "-n", "inroad", *words)
    eventually(lambda: [ready(one) for one in manager_pods(stage)] == [True] and manager_pod(stage) != before)


def test_what_the_chart_allows_is_dialled_by_manager_and_agents(stage: Stage) -> None:
    """Also that agents find a manager that was replaced."""
    configure(stage, DIAL_ALLOW="127.0.0.1/32")
    eventually(lambda: sidecars(stage) == set(with_sidecar(stage)))
    place = f"pod/inroad/{manager_pod(stage)}"
    agent = with_sidecar(stage)[0]
    allowed, other = "127.0.0.1:15702", "127.0.0.2:15702"
    verdicts = raw(stage, place, MANAGER, "-", allowed, other)
    assert verdicts[allowed] == "opened"
    assert verdicts[other].startswith("NOT_ALLOWED")
    verdicts = raw(stage, place, MANAGER, agent, allowed, other)
    assert verdicts[allowed].startswith("REFUSED")  # dialled: nobody listens there in that pod
    assert verdicts[other].startswith("NOT_ALLOWED")


def manager_pods(stage: Stage) -> list[dict[str, Any]]:
    return pods(stage, "app.kubernetes.io/component=traffic-manager", "inroad")


def test_who_may_not_reach_the_agents_own_pod_may_not_use_it(stage: Stage) -> None:
    stage.run("mkdir", "-p", str(Path(CONFIG).parent))
    stage.write(CONFIG, "cluster: {agentPortForward: false}\n")
    configure(stage, DIAL_ALLOW="", AGENT_ACCESS="namespace")
    eventually(lambda: stage.ask("status")["origin"]["kind"] == "sidecar")
    agent = stage.ask("status")["origin"]["pod"]
    (pod,) = (one for one in pods(stage, "app=web") if one["metadata"]["name"] == agent)
    page = stage.curl("http://web.default/")
    assert page["client_ip"] in [ip["ip"] for ip in pod["status"]["podIPs"]]
    assert stage.ask("status")["origin"]["path"]["kind"] == "relayed"
    stage.run("rm", CONFIG)
    place = f"pod/inroad/{manager_pod(stage)}"
    (verdict,) = raw(stage, place, MANAGER, agent, "10.96.0.10:53").values()
    assert verdict.startswith("NOT_ALLOWED: agentAccess is namespace")
    stage.inroad("quit")
    stage.ask("connect", "-n", "default")
    eventually(lambda: any("is not used" in text for text in stage.ask("status")["warnings"]))
    assert stage.ask("status")["origin"]["kind"] == "traffic-manager"
    assert stage.curl("http://web/")["namespace"] == "default"
    stage.inroad("quit")
    stage.ask("connect", "-n", "shop")


def test_pods_are_created_while_the_manager_is_down(stage: Stage) -> None:
    kubectl(stage, "scale", "deployment", "traffic-manager", "-n", "inroad", "--replicas=0")
    eventually(lambda: not manager_pods(stage))
    kubectl(stage, "delete", "pods", "-n", "shop", "-l", "app=web", "--wait=false")
    eventually(lambda: [ready(one) for one in pods(stage, "app=web")] == [True, True])
    assert with_sidecar(stage) == []
    kubectl(stage, "scale", "deployment", "traffic-manager", "-n", "inroad", "--replicas=1")
    eventually(lambda: [ready(one) for one in manager_pods(stage)] == [True])
    kubectl(stage, "delete", "pods", "-n", "shop", "-l", "app=web", "--wait=false")
    eventually(lambda: len(with_sidecar(stage)) == 2)
    annotate(stage, "disabled")
    eventually(lambda: with_sidecar(stage) == [] and all(map(ready, pods(stage, "app=web"))))
