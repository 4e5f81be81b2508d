"""The chart by a real helm: what it renders to, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.e2e.cluster.machine import wait_for
from tests.e2e.conftest import restarted
from tests.e2e.stage import NAMESPACE, ROOT, Stage
from tools import helm, manifest

CHART = ROOT / "charts/inroad"
CLUSTER_ROLE = f"traffic-manager-{NAMESPACE}"


def helm_here(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run helm without any cluster."""
    return subprocess.run([str(helm.find(pinned=True)), *argv], capture_output=True, text=True, check=False)


def template(tmp_path: Path, values: dict[str, Any], namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    """Return the objects that the chart renders to."""
    (tmp_path / "values.yaml").write_text(json.dumps(values))
    where = ("inroad", str(CHART), "-n", namespace, "-f", str(tmp_path / "values.yaml"))
    done = helm_here("template", *where)
    assert done.returncode == 0, done.stderr
    return [body for body in yaml.safe_load_all(done.stdout) if body]


def named(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Return the objects of a kind by `namespace/name`."""
    metadata = [(body["metadata"], body) for body in objects if body["kind"] == kind]
    return {f"{m.get('namespace', '')}/{m['name']}": body for m, body in metadata}


def container(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the manager's container, its variables as a dictionary."""
    [deployment] = named(objects, "Deployment").values()
    [found] = deployment["spec"]["template"]["spec"]["containers"]
    return found | {"env": {v["name"]: v.get("value") for v in found["env"]}}


def test_lint() -> None:
    done = helm_here("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


def test_the_packages_manifest_is_what_helm_renders() -> None:
    assert manifest.problem() == ""
    assert manifest.MANIFEST.read_text().endswith(manifest.render())


def test_defaults_are_modest(tmp_path: Path) -> None:
    objects = template(tmp_path, {})
    main = container(objects)
    assert main["securityContext"]["readOnlyRootFilesystem"] is True
    assert main["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert main["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert main["livenessProbe"]["httpGet"]["path"] == "/healthz"
    [deployment] = named(objects, "Deployment").values()
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert named(objects, "Role").keys() == {f"{NAMESPACE}/traffic-manager"}
    [service] = named(objects, "Service").values()
    assert [port["port"] for port in service["spec"]["ports"]] == [15703, 443]  # never the clients' 15701


@pytest.mark.parametrize(
    ("values", "variable", "text"),
    [
        ({"podCIDRStrategy": "coverPodIPs"}, "POD_CIDR_STRATEGY", "coverPodIPs"),
        (
            {"podCIDRStrategy": "environment", "podCIDRs": ["10.1.0.0/16", "fd00::/64"]},
            "POD_CIDRS",
            "10.1.0.0/16,fd00::/64",
        ),
        ({"serviceCIDRs": ["10.2.0.0/16"]}, "SERVICE_CIDRS", "10.2.0.0/16"),
        ({"namespaces": ["a", "b"]}, "NAMESPACES", "a,b"),
        (
            {"namespaceSelector": {"matchLabels": {"x": "y"}}},
            "NAMESPACE_SELECTOR",
            '{"matchLabels":{"x":"y"}}',
        ),
        ({"logLevel": "debug"}, "LOG_LEVEL", "debug"),
        ({"prometheus": {"port": 9090}}, "HEALTH_PORT", "9090"),
        ({"image": {"registry": "r:5000/x", "tag": "7"}}, "AGENT_IMAGE", "r:5000/x/inroad:7"),
        ({"agent": {"image": "mine:1"}}, "AGENT_IMAGE", "mine:1"),
        ({"agentAccess": "namespace"}, "AGENT_ACCESS", "namespace"),
        ({"dial": {"allow": ["169.254.20.10/32", "fe80::/10"]}}, "DIAL_ALLOW", "169.254.20.10/32,fe80::/10"),
        ({"agentInjection": {"enabled": False}}, "AGENT_INJECTION", ""),
        ({"managerRbac": {"namespaced": True}, "namespaces": ["a"]}, "AGENT_INJECTION", ""),
    ],
)
def test_values_reach_the_manager(tmp_path: Path, values: dict[str, Any], variable: str, text: str) -> None:
    assert container(template(tmp_path, values))["env"][variable] == text


def test_agents_are_as_the_values_say(tmp_path: Path) -> None:
    resources = {"limits": {"memory": "64Mi"}}
    objects = template(tmp_path, {"agent": {"port": 0, "resources": resources}})
    values = json.loads(container(objects)["env"]["AGENT"])
    assert (values["port"], values["resources"]["limits"]) == (0, {"memory": "64Mi"})
    assert values["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_webhook_never_stands_in_a_pods_way(tmp_path: Path) -> None:
    [webhook] = named(template(tmp_path, {"namespaces": ["shop"]}), "MutatingWebhookConfiguration").values()
    [hook] = webhook["webhooks"]
    assert (hook["failurePolicy"], hook["timeoutSeconds"], hook["sideEffects"]) == ("Ignore", 2, "None")
    wanted = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["shop"]}
    assert wanted in hook["namespaceSelector"]["matchExpressions"]
    for values in ({"agentInjection": {"enabled": False}}, {"rbac": {"only": True}}):
        assert named(template(tmp_path, values), "MutatingWebhookConfiguration") == {}


def test_client_values_are_the_clients_configuration(tmp_path: Path) -> None:
    client = {
        "dns": {"excludeSuffixes": [".corp"], "lookupTimeout": "2s"},
        "routing": {"alsoProxySubnets": ["10.9.0.0/16"]},
    }
    [config] = named(template(tmp_path, {"client": client}), "ConfigMap").values()
    assert yaml.safe_load(config["data"]["client.yaml"]) == client


def test_namespaced_rights(tmp_path: Path) -> None:
    objects = template(tmp_path, {"managerRbac": {"namespaced": True}, "namespaces": ["shop", "default"]})
    assert named(objects, "ClusterRole") == {}
    wanted = {f"{namespace}/{CLUSTER_ROLE}" for namespace in ("shop", "default")} | {
        f"{NAMESPACE}/traffic-manager"
    }
    assert named(objects, "Role").keys() == named(objects, "RoleBinding").keys() == wanted


def test_rights_for_clients(tmp_path: Path) -> None:
    subjects = [{"kind": "Group", "name": "developers", "apiGroup": "rbac.authorization.k8s.io"}]
    objects = template(tmp_path, {"clientRbac": {"create": True, "subjects": subjects}})
    assert named(objects, "RoleBinding")[f"{NAMESPACE}/inroad-client"]["subjects"] == subjects


def test_rights_only_and_all_but_rights(tmp_path: Path) -> None:
    only = template(tmp_path, {"rbac": {"only": True}})
    rest = template(tmp_path, {"managerRbac": {"create": False}})
    roles = {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    assert {body["kind"] for body in only} == roles | {"ServiceAccount"}
    assert {body["kind"] for body in rest} & roles == set()


def test_where_the_managers_pods_run(tmp_path: Path) -> None:
    """Node selector, tolerations and runtime class reach the pods as they are."""
    values = {
        "nodeSelector": {"pool": "tools"},
        "tolerations": [{"operator": "Exists"}],
        "runtimeClassName": "runc",
        "priorityClassName": "system-cluster-critical",
    }
    [deployment] = named(template(tmp_path, values), "Deployment").values()
    pod = deployment["spec"]["template"]["spec"]
    assert {name: pod[name] for name in values} == values


def test_replicas_keep_apart(tmp_path: Path) -> None:
    objects = template(tmp_path, {"replicaCount": 3})
    assert len(named(objects, "PodDisruptionBudget")) == 1
    [deployment] = named(objects, "Deployment").values()
    assert "podAntiAffinity" in deployment["spec"]["template"]["spec"]["affinity"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"podCIDRStrategy": "guess"}, "podCIDRStrategy"),
        ({"podCIDRStrategy": "environment"}, "podCIDRs"),
        ({"podCIDRs": ["10.0.0.0"]}, "podCIDRs"),
        ({"clientRbac": {"create": True}}, "subjects"),
        ({"managerRbac": {"namespaced": True}}, "namespaces"),
        ({"namespaces": ["a"], "namespaceSelector": {"matchLabels": {"x": "y"}}}, "exclude each other"),
        ({"namespaces": ["Not_A_Name"]}, "namespaces"),
        ({"prometheus": {"port": 15701}}, "prometheus"),
        ({"client": {"dns": {"excludeSufixes": [".corp"]}}}, "excludeSufixes"),
        ({"replicaCount": 0}, "replicaCount"),
        ({"replicas": 2}, "replicas"),
        ({"dial": {"allow": ["localhost"]}}, "dial"),
        ({"agentAccess": "nobody"}, "agentAccess"),
        ({"agentAccess": "namespace", "agent": {"port": 0}}, "agent.port"),
        ({"agentInjection": {"timeoutSeconds": 30}}, "timeoutSeconds"),
    ],
)
def test_what_is_wrong_is_refused_by_name(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    (tmp_path / "values.yaml").write_text(json.dumps(values))
    done = helm_here("template", "inroad", str(CHART), "-f", str(tmp_path / "values.yaml"))
    assert done.returncode != 0
    assert words in done.stderr


def rules(body: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Return (API group, resource and names, verbs) of a role."""
    found = set()
    for rule in body["rules"]:
        names = "".join(f" `{name}`" for name in rule.get("resourceNames", ()))
        for resource in rule["resources"]:
            found.add((rule["apiGroups"][0], f"{resource}{names}", ", ".join(rule["verbs"])))
    return found


def test_the_table_of_permissions_is_the_chart(tmp_path: Path) -> None:
    subjects = [{"kind": "User", "name": "dev"}]
    objects = template(tmp_path, {"clientRbac": {"create": True, "subjects": subjects}})
    roles = named(objects, "ClusterRole") | named(objects, "Role")
    wanted = [
        roles[name]
        for name in (f"/{CLUSTER_ROLE}", f"{NAMESPACE}/traffic-manager", f"{NAMESPACE}/inroad-client")
    ]
    sections = (ROOT / "docs/permissions.md").read_text().split("\n## ")[1:4]
    for section, role in zip(sections, wanted, strict=True):
        cells = [
            [cell.strip() for cell in row.split("|")[1:4]] for row in re.findall(r"^\|.*\|$", section, re.M)
        ]
        assert {tuple(row) for row in cells[2:]} == rules(role)


def left(stage: Stage, namespace: str) -> list[str]:
    """Return the names of all that belongs to a namespace, our cluster-wide objects included."""
    kinds = "all,configmaps,secrets,serviceaccounts,roles,rolebindings,poddisruptionbudgets,endpointslices"
    label = "app.kubernetes.io/name=inroad"
    inside = stage.kubectl("get", kinds, "-n", namespace, "-o", "name").split()
    wide = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations"
    outside = stage.kubectl("get", wide, "-l", label, "-o", "name").split()
    own = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
    return sorted(({*inside} - own) | {name for name in outside if name.endswith(f"-{namespace}")})


@pytest.fixture
def namespace(stage: Stage, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for one more traffic-manager; checks that nothing was left in it."""
    name = f"inroad-{abs(hash(request.node.name)) % 10_000}"
    yield name
    wait_for("everything to be gone", lambda: left(stage, name) == [], 30, lambda: str(left(stage, name)))
    stage.kubectl("delete", "namespace", name, "--ignore-not-found", timeout=120)


def test_install_upgrade_uninstall_by_helm(stage: Stage, namespace: str) -> None:
    where = ("second", "charts/inroad", "-n", namespace, "--wait", "--timeout", "90s")
    notes = stage.helm("install", *where, "--create-namespace").stdout
    assert f"inroad connect --manager-namespace {namespace}" in notes
    stage.helm("upgrade", *where, "--set", "replicaCount=2", "--set", "podCIDRStrategy=coverPodIPs")
    stage.wait_for_pods(namespace)
    assert len(stage.manager_pods(namespace)) == 2
    stage.helm("uninstall", "second", "-n", namespace, "--wait")


def test_install_upgrade_uninstall_without_helm(clean_host: Stage, namespace: str) -> None:
    stage = clean_host
    where = ("-n", namespace, "--no-helm")
    assert stage.ask("install", *where)["change"] == "installed"
    assert stage.ask("upgrade", *where, "--pod-cidr-strategy", "coverPodIPs")["change"] == "upgraded"
    stage.ask("connect", "--manager-namespace", namespace, "-n", "shop")
    sources = {subnet["source"] for subnet in stage.ask("status")["subnets"]}
    assert "cover of pod IPs" in sources
    stage.inroad("quit")
    assert stage.ask("uninstall", *where)["change"] == "uninstalled"
    assert stage.ask("uninstall", *where)["change"] == "unchanged"


def test_inroad_drives_helm(clean_host: Stage, namespace: str) -> None:
    stage = clean_host
    path = {"PATH": f"{helm.find(pinned=True).parent}:/usr/sbin:/usr/bin", "HOME": "/run"}
    stage.ask("install", "-n", namespace, "--set", "logLevel=debug", env=path)
    assert "second" not in stage.helm("list", "-n", namespace).stdout
    [pod] = stage.manager_pods(namespace)
    variables = {v["name"]: v.get("value") for v in pod["spec"]["containers"][0]["env"]}
    assert variables["LOG_LEVEL"] == "debug"
    refused = stage.inroad("install", "-n", namespace, "--set", "logLevel=loud", env=path, status=31)
    assert "logLevel" in refused.stderr
    assert stage.ask("uninstall", "-n", namespace, env=path)["change"] == "uninstalled"


COVER, NODE, CIDR, ANSWER = "cover of pod IPs", "node podCIDR", "ServiceCIDR", "API server's answer"
SERVICES = "cover of ClusterIPs"


ONLY_SHOP = {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}


@pytest.mark.parametrize(
    ("values", "sources"),
    [
        ({"namespaces": ["shop"]}, {NODE, CIDR}),
        ({"namespaceSelector": ONLY_SHOP}, {NODE, CIDR}),
        ({"namespaces": ["shop"], "managerRbac": {"namespaced": True}}, {COVER, ANSWER}),
    ],
    ids=["a list", "a selector", "rights there only"],
)
def test_a_manager_for_some_namespaces(
    clean_host: Stage, namespace: str, tmp_path: Path, values: dict[str, Any], sources: set[str]
) -> None:
    """Names of the others do not resolve; a manager with rights in one namespace finds the subnets too."""
    stage = clean_host
    (tmp_path / "values.yaml").write_text(json.dumps(values))
    where = ("second", "charts/inroad", "-n", namespace, "--create-namespace", "--wait", "--timeout", "90s")
    stage.helm("install", *where, "-f", str(tmp_path / "values.yaml"))
    stage.ask("connect", "--manager-namespace", namespace, "-n", "shop")
    try:
        assert {subnet["source"] for subnet in stage.ask("status")["subnets"]} == sources
        for pod in stage.objects("pods", "-n", "shop", "-l", "app=web"):
            assert stage.curl(f"http://{pod['status']['podIP']}:8080/")["pod"] == pod["metadata"]["name"]
        for url in ("http://web/", "http://web.shop/"):
            assert stage.curl(url)["namespace"] == "shop"
        stage.run("curl", "-sS", "-m", "5", "http://web.default/", status=6)
    finally:
        stage.inroad("quit")
        stage.helm("uninstall", "second", "-n", namespace, "--wait")


@pytest.mark.parametrize(
    ("resource", "sources"),
    [
        ("nodes", {COVER, CIDR}),
        ("pods", {NODE, CIDR}),
        ("services", {NODE, CIDR}),
        ("namespaces", {NODE, CIDR}),
        ("endpointslices", {NODE, CIDR}),
        ("servicecidrs", {NODE, ANSWER}),
        ("tokenreviews", {NODE, CIDR}),
    ],
)
def test_a_right_is_taken_away(clean_host: Stage, resource: str, sources: set[str]) -> None:
    stage = clean_host
    with without(stage, "clusterrole", CLUSTER_ROLE, resource):
        stage.ask("connect", "-n", "shop")
        assert {subnet["source"] for subnet in stage.ask("status")["subnets"]} == sources
        assert stage.curl("http://web/")["namespace"] == "shop"
        told = [line for line in stage.manager_log().splitlines() if f"list {resource}" in line]
        assert len(told) == (0 if resource == "tokenreviews" else 1), told
        stage.inroad("quit")


@contextmanager
def without(stage: Stage, kind: str, name: str, resource: str) -> Iterator[None]:
    """Take the rights on a resource out of a role of the manager's, restart it, and give them back."""
    where = (kind, name, "-n", NAMESPACE)
    before = json.loads(stage.kubectl("get", *where, "-o", "json"))["rules"]
    kept = [rule | {"resources": [r for r in rule["resources"] if r != resource]} for rule in before]

    def patch(rules: list[dict[str, Any]]) -> None:
        stage.kubectl("patch", *where, "--type=merge", "-p", json.dumps({"rules": rules}))
        restarted(stage)

    try:
        patch([rule for rule in kept if rule["resources"]])
        yield
    finally:
        patch(before)


def test_without_servicecidrs_and_dry_runs_services_are_covered(clean_host: Stage) -> None:
    stage = clean_host
    with (
        without(stage, "clusterrole", CLUSTER_ROLE, "servicecidrs"),
        without(stage, "role", "traffic-manager", "services"),
    ):
        stage.ask("connect", "-n", "shop")
        assert {subnet["source"] for subnet in stage.ask("status")["subnets"]} == {NODE, SERVICES}
        assert stage.curl("http://web/")["namespace"] == "shop"
        stage.inroad("quit")


def test_without_its_certificates_no_agents_are_admitted(clean_host: Stage) -> None:
    stage = clean_host
    with without(stage, "role", "traffic-manager", "secrets"):
        stage.ask("connect", "-n", "shop")
        assert stage.curl("http://web/")["namespace"] == "shop"
        done = stage.inroad("agent", "add", "-n", "shop", status=25)
        assert "has no certificates and takes no agents" in done.stderr
        assert "the certificates can't be kept, so no agents are taken" in stage.manager_log()
        stage.inroad("quit")


def test_without_the_right_to_patch_its_webhook_no_pod_gets_a_sidecar(clean_host: Stage) -> None:
    """The CA that an earlier manager wrote is taken out, as if this one were the first."""
    stage = clean_host
    webhook = ("mutatingwebhookconfigurations", f"traffic-manager-{NAMESPACE}")
    path = "/webhooks/0/clientConfig/caBundle"
    with without(stage, "clusterrole", CLUSTER_ROLE, webhook[0]):
        stage.kubectl(
            "patch", *webhook, "--type=json", "-p", json.dumps([{"op": "replace", "path": path, "value": ""}])
        )
        annotations = "--annotations=inroad.dev/inject-traffic-agent=enabled"
        made = ("run", "probe", "-n", "shop", "--image=x", annotations, "--dry-run=server", "-o", "json")
        assert [one["name"] for one in json.loads(stage.kubectl(*made))["spec"]["containers"]] == ["probe"]
        assert webhook[0] in stage.manager_log()
    wait_for(
        "the manager's CA in its webhook",
        lambda: stage.cluster.get(*webhook)["webhooks"][0]["clientConfig"].get("caBundle"),
        30,
    )


def test_an_installation_that_never_gets_ready_says_so(stage: Stage, namespace: str) -> None:
    arguments = ("-n", namespace, "--no-helm", "--image", "inroad.test/absent:1", "--timeout", "3")
    done = stage.inroad("install", *arguments, status=30)
    assert "is not ready after 3 s" in done.stderr
    assert "kubectl describe pods" in done.stderr
    stage.ask("uninstall", "-n", namespace, "--no-helm")
