"""kubectl, the real one, against the server: what people type and what they see."""

from __future__ import annotations

import json
import re

import pytest
from api_target import KUBECTL, Api, api

__all__ = ["api"]

pytestmark = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")

MANIFEST = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: red}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: registry.invalid/web, ports: [{containerPort: 8080}]}
      - {name: side, image: registry.invalid/side}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""


async def applied(api: Api, text: str = MANIFEST, *options: str) -> str:
    status, out, err = await api.kubectl("apply", *options, "-f", "-", stdin=text)
    assert status == 0, err
    return out


async def test_apply_creates_changes_and_leaves_alone(api: Api) -> None:
    assert (await applied(api)).splitlines() == [
        "configmap/settings created",
        "deployment.apps/web created",
        "service/web created",
    ]
    assert [line.rsplit(" ", 1)[1] for line in (await applied(api)).splitlines()] == ["unchanged"] * 3
    changed = MANIFEST.replace("red", "blue").replace(
        "      - {name: side, image: registry.invalid/side}\n", ""
    )
    changed = changed.replace("port: 80,", "name: http, port: 80,")
    assert (await applied(api, changed)).splitlines() == [
        "configmap/settings configured",
        "deployment.apps/web configured",
        "service/web configured",
    ]
    _, out, _ = await api.kubectl(
        "get", "deployment/web", "-o", "jsonpath={.spec.template.spec.containers[*].name}"
    )
    assert out == "web"
    _, out, _ = await api.kubectl("get", "service/web", "-o", "jsonpath={.spec.ports[*].name}")
    assert out == "http"


async def test_server_side_apply(api: Api) -> None:
    out = await applied(api, MANIFEST, "--server-side")
    assert out.splitlines()[0] == "configmap/settings serverside-applied"
    await applied(api, MANIFEST.replace("red", "blue"), "--server-side")
    _, out, _ = await api.kubectl("get", "configmap/settings", "-o", "jsonpath={.data.color}")
    assert out == "blue"


@pytest.mark.parametrize(
    ("argv", "pattern"),
    [
        (["get", "deploy"], r"^NAME +READY +UP-TO-DATE +AVAILABLE +AGE\nweb +0/0 +0 +0 +\d+s\n$"),
        (
            ["get", "svc"],
            r"^NAME +TYPE +CLUSTER-IP +EXTERNAL-IP +PORT\(S\) +AGE\nweb +ClusterIP +\S+ +<none> +80/TCP",
        ),
        (["get", "svc", "-o", "wide"], r"AGE +SELECTOR\nweb .* app=web\n"),
        (
            ["get", "deploy", "-o", "wide"],
            r"CONTAINERS +IMAGES +SELECTOR\nweb .* web,side +\S+/web,\S+/side +app=web",
        ),
        (["get", "cm", "settings"], r"^NAME +DATA +AGE\nsettings +1 +\d+s\n$"),
        (["get", "cm/settings", "-o", "jsonpath={.data.color}"], r"^red$"),
        (
            ["get", "cm", "-o", "name", "--field-selector", "metadata.name=settings"],
            r"^configmap/settings\n$",
        ),
        (["get", "all"], r"service/web .*\n\nNAME .*\ndeployment.apps/web "),
        (["get", "deploy", "-l", "app=web", "--show-labels"], r"LABELS\nweb .* app=web\n"),
        (["describe", "svc", "web"], r"Name: +web\nNamespace: +{ns}\n(.*\n)*TargetPort: +8080/TCP"),
        (
            ["describe", "deploy", "web"],
            r"Replicas: +0 desired \| 0 updated \| 0 total(.*\n)*StrategyType: +RollingUpdate",
        ),
        (["describe", "configmap", "settings"], r"color:\n----\nred\n"),
        (["auth", "can-i", "create", "pods/portforward"], r"^yes\n$"),
        (["api-resources", "--api-group=apps", "-o", "name"], r"deployments.apps\n"),
        (["get", "namespace", "{ns}", "-o", "jsonpath={.status.phase}"], r"^Active$"),
        (["get", "--raw", "/readyz"], r"^ok$"),
    ],
)
async def test_what_people_see(api: Api, argv: list[str], pattern: str) -> None:
    await applied(api)
    status, out, err = await api.kubectl(*argv)
    assert status == 0, err
    assert re.search(api.text(pattern), out), out


async def test_json_and_yaml(api: Api) -> None:
    await applied(api)
    _, out, _ = await api.kubectl("get", "svc,cm", "-o", "json")
    kinds = {item["kind"] for item in json.loads(out)["items"]}
    assert kinds == {"Service", "ConfigMap"}


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["get", "pod", "none"], 'Error from server (NotFound): pods "none" not found'),
        (["get", "unicorns"], 'error: the server doesn\'t have a resource type "unicorns"'),
        (["create", "configmap", "settings"], 'configmaps "settings" already exists'),
        (["get", "cm", "--field-selector", "data.x=y"], "is not a known field selector"),
    ],
)
async def test_errors_people_see(api: Api, argv: list[str], text: str) -> None:
    await applied(api)
    status, _, err = await api.kubectl(*argv)
    assert status == 1
    assert text in err


async def test_edits(api: Api) -> None:
    await applied(api)
    steps = (
        (["scale", "deploy/web", "--replicas=0"], "scaled"),
        (["label", "svc/web", "tier=front"], "labeled"),
        (["annotate", "svc/web", "a=b"], "annotated"),
        (["patch", "cm/settings", "-p", '{"data":{"size":"9"}}'], "patched"),
        (["patch", "cm/settings", "--type=json", "-p", '[{"op":"remove","path":"/data/size"}]'], "patched"),
        (["set", "image", "deploy/web", "web=registry.invalid/new"], "image updated"),
        (["create", "serviceaccount", "robot"], "created"),
        (["delete", "svc/web", "cm/settings"], "deleted"),
        (["delete", "deploy", "--all"], "deleted"),
    )
    for argv, said in steps:
        status, out, err = await api.kubectl(*argv)
        assert status == 0, (argv, err)
        assert said in out, (argv, out)
    status, token, err = await api.kubectl("create", "token", "robot", "--audience=inroad")
    assert status == 0 and token.count(".") == 2, err
    _, out, _ = await api.kubectl("get", "deploy,svc", "-o", "name")
    assert out == ""
