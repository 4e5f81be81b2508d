"""What the origin is for: policies, meshes and names treat a connection as the workload's own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from agents_stage import apply, eventually, kubectl, namespace_agent, origin_of, pods
from stage import Stage, connected_stage

from inroad.sandbox import manifests

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")

LOAD = Path(__file__).with_name("load.py")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Yield a sandbox whose workstation is connected to namespace `shop`."""
    with connected_stage("t-origin") as stage:
        yield stage


@contextmanager
def only_from(stage: Stage, place: str, addresses: list[str]) -> Iterator[None]:
    """Have a pod take connections from these addresses only, as a network policy's plugin does it."""
    rules = []
    for version, word in ((4, "ip"), (6, "ip6")):
        these = [address for address in addresses if ip_address(address).version == version]
        if these:
            rules.append(f"tcp dport 8080 {word} saddr {{ {', '.join(these)} }} accept")
    lines = [
        "add table inet netpol",
        "add chain inet netpol input { type filter hook input priority 0; }",
        *(f"add rule inet netpol input {rule}" for rule in rules),
        "add rule inet netpol input tcp dport 8080 reject with icmpx admin-prohibited",
    ]
    stage.run("nft", "-f", "-", place=place, user="root", stdin="\n".join(lines))
    try:
        yield
    finally:
        stage.run("nft", "delete", "table", "inet", "netpol", place=place, user="root")


def test_a_network_policy_admits_connections_of_the_namespace_only(stage: Stage) -> None:
    name, addresses = sorted(pods(stage, "shop", "web").items())[0]
    place, url = f"pod/shop/{name}", f"http://{addresses[0]}:8080/"
    with namespace_agent(stage) as (_, agent):
        of_shop = [address for found in pods(stage, "shop", "").values() for address in found]
        with only_from(stage, place, of_shop):
            assert origin_of(stage, url) in agent
    with only_from(stage, place, of_shop):
        refused = stage.run("curl", "-sS", "-m", "10", url, status=None)
    assert refused.returncode == 7, "the traffic-manager's namespace is not let in"
    assert stage.curl(url)["pod"] == name


def gateway() -> list[dict[str, object]]:
    """Return a mesh's gateway that knows `web` only for callers of `shop`."""
    container = {
        "name": "gateway",
        "command": [*manifests.PYTHON, "inroad.sandbox.workloads.gateway"],
        "args": ["8080", "web@shop=web.shop.svc.cluster.local:80"],
        "readinessProbe": {"tcpSocket": {"port": 8080}},
    }
    labels = {"app": "gateway"}
    pod = {"containers": [container], "serviceAccountName": "gateway", "terminationGracePeriodSeconds": 1}
    placed = [
        ("default", manifests.service_account("gateway", labels)),
        *manifests.grant("gateway", "default", [("", ["pods"], ["list"])]),
        ("default", manifests.service("gateway", labels, [("http", "TCP", 80, 8080)])),
        ("default", manifests.deployment("gateway", 1, labels, pod)),
    ]
    return [{**one, "metadata": {**one["metadata"], "namespace": where}} for where, one in placed]


def test_a_mesh_that_routes_by_host_knows_the_name_for_its_own_namespace_only(stage: Stage) -> None:
    apply(stage, *gateway())
    kubectl(stage, "rollout", "status", "deploy/gateway", "--timeout=30s")
    asked = ("curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: web")
    url = "http://gateway.default/"
    assert stage.run(*asked, url).stdout == "404"
    with namespace_agent(stage):
        assert stage.run(*asked, url).stdout == "200"
    assert stage.run(*asked, url).stdout == "404"


def resolve(stage: Stage, name: str, place: str = "workstation") -> set[str]:
    """Return the IPv4 addresses of a name as programs find them."""
    found = stage.run("getent", "ahostsv4", name, place=place, user="root", status=None).stdout
    return {line.split()[0] for line in found.splitlines()}


def test_relative_names_mean_what_they_mean_in_pods_of_the_namespace(stage: Stage) -> None:
    # `db` is no namespace, so without this the name would be the host's own affair
    stage.run("mkdir", "-p", "/run/home/dev/.config/inroad")
    stage.write("/run/home/dev/.config/inroad/config.yml", "dns: {includeSuffixes: [.db]}")
    stage.inroad("quit")
    for namespace in ("default", "shop"):
        stage.ask("connect", "-n", namespace)
        pod = f"pod/{namespace}/{sorted(pods(stage, namespace, 'web'))[0]}"
        there = {name: resolve(stage, name, pod) for name in ("db-0.db", "web")}
        assert {name: resolve(stage, name) for name in there} == there, "the traffic-manager looks up"
        assert bool(there["db-0.db"]) == (namespace == "shop")
    with namespace_agent(stage):
        assert {name: resolve(stage, name) for name in there} == there, "the agent looks up"


def steady() -> list[dict[str, object]]:
    """Return a web server whose pods go on serving for a moment when they are told to end."""
    service, deployment = manifests.web()
    pod = deployment["spec"]["template"]["spec"]
    pod["terminationGracePeriodSeconds"] = 10
    pod["containers"][0]["lifecycle"] = {"preStop": {"sleep": {"seconds": 2}}}
    return [service, deployment]


def test_a_rolling_restart_under_load_loses_no_new_connection(stage: Stage) -> None:
    kubectl(stage, "create", "namespace", "steady")
    apply(stage, *({**one, "metadata": {**one["metadata"], "namespace": "steady"}} for one in steady()))
    kubectl(stage, "rollout", "status", "-n", "steady", "deploy/web", "--timeout=30s")
    before = set(pods(stage, "steady", "web"))
    with namespace_agent(stage):
        load = stage.start(sys.executable, str(LOAD), "http://web.steady/", "200")
        assert load.stdout is not None
        assert load.stdout.readline() == "begun\n"
        kubectl(stage, "rollout", "restart", "-n", "steady", "deploy/web")
        kubectl(stage, "rollout", "status", "-n", "steady", "deploy/web", "--timeout=60s")
        eventually(lambda: not before & set(pods(stage, "steady", "web")), 30)
        stage.run("pkill", "-INT", "-f", LOAD.name, user="root")
        report = json.loads(load.communicate(timeout=30)[0])
    assert report["failed"] == {}
    assert report["succeeded"] > 200
    assert set(report["pods"]) == before | set(pods(stage, "steady", "web"))


def local_mesh(stage: Stage) -> dict[str, object]:
    """Return a workload whose pod resolves `cart` to a loopback address, where a proxy listens."""
    words = "cart.shop.svc.cluster.local=127.8.0.1:80=web.default.svc.cluster.local:80"
    container = {
        "name": "mesh",
        "command": [*manifests.PYTHON, "inroad.sandbox.workloads.local_mesh"],
        "args": [stage.state["cluster_dns"][0], words],
    }
    searches = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"]
    names = {"nameservers": ["127.0.0.1"], "searches": searches, "options": [{"name": "ndots", "value": "5"}]}
    pod = {"containers": [container], "dnsPolicy": "None", "dnsConfig": names}
    made = manifests.deployment("mesh", 1, {"app": "mesh"}, pod | {"terminationGracePeriodSeconds": 1})
    return {**made, "metadata": {**made["metadata"], "namespace": "shop"}}


def test_names_with_loopback_addresses_are_dialled_in_the_pod_that_has_the_mesh(stage: Stage) -> None:
    apply(stage, local_mesh(stage))
    kubectl(stage, "set", "env", "-n", "inroad", "deploy/traffic-manager", "DIAL_ALLOW=127.0.0.0/8")
    kubectl(stage, "rollout", "status", "-n", "inroad", "deploy/traffic-manager", "--timeout=60s")
    kubectl(stage, "rollout", "status", "-n", "shop", "deploy/mesh", "--timeout=60s")
    stage.inroad("quit")
    stage.ask("connect", "-n", "shop", "--proxy-via", "127.0.0.0/8=deploy/mesh")
    assert stage.run("getent", "hosts", "cart", status=None).returncode, "the cluster knows no such name"
    stage.inroad("attach", "deploy/mesh")
    ((_, addresses),) = pods(stage, "shop", "mesh").items()
    (found,) = resolve(stage, "cart")
    assert not ip_address(found).is_loopback, "this workstation's own loopback is not meant"
    page = stage.curl("http://cart/")
    assert (page["namespace"], page["client_ip"] in addresses) == ("default", True)
    explained = stage.ask("explain", "cart")["paths"][0]
    assert (explained["way"], explained["stands_for"]) == ("virtual", "127.8.0.1")
    assert explained["origin"]["reason"] == "proxied via deploy/mesh in shop"
    stage.inroad("detach", "deploy/mesh")
    eventually(lambda: not stage.ask("status")["agents"])
    refused = stage.run("curl", "-sS", "-m", "10", f"http://{found}/", status=None)
    assert refused.returncode == 7, "without the workload's agent there is nobody who could"
