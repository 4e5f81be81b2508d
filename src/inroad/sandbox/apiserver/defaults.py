"""What the server fills in where an object says nothing, per kind (Kubernetes' `apis/*/v1/defaults.go`).

Only what clients look at or controllers rely on; a field nobody reads is left out.
"""

from __future__ import annotations

import base64
from typing import Any

from inroad.sandbox.apiserver.resources import Resource

Json = dict[str, Any]
_QUARTER = "25%"


def apply(resource: Resource, obj: Json) -> None:
    """Fill in the defaults of one object, in place."""
    fill = _BY_PLURAL.get(resource.plural)
    if fill is not None:
        fill(obj)


def pod_spec(spec: Json) -> None:
    """Fill in a pod's spec, also inside a template."""
    for container in [*spec.get("initContainers", ()), *spec.get("containers", ())]:
        _container(container)
    for key, value in (
        ("restartPolicy", "Always"),
        ("terminationGracePeriodSeconds", 30),
        ("dnsPolicy", "ClusterFirst"),
        ("securityContext", {}),
        ("schedulerName", "default-scheduler"),
    ):
        spec.setdefault(key, value)
    if "serviceAccountName" in spec:
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    if spec.get("hostNetwork"):
        for container in spec.get("containers", ()):
            for port in container.get("ports", ()):
                port.setdefault("hostPort", port.get("containerPort"))


def _container(container: Json) -> None:
    for port in container.get("ports", ()):
        port.setdefault("protocol", "TCP")
    for key, value in (
        ("resources", {}),
        ("terminationMessagePath", "/dev/termination-log"),
        ("terminationMessagePolicy", "File"),
        ("imagePullPolicy", "Always" if _is_latest(container.get("image", "")) else "IfNotPresent"),
    ):
        container.setdefault(key, value)
    for env in container.get("env", ()):
        if "fieldRef" in env.get("valueFrom", {}):
            env["valueFrom"]["fieldRef"].setdefault("apiVersion", "v1")
    for kind in ("readinessProbe", "livenessProbe", "startupProbe"):
        probe = container.get(kind)
        if probe is not None:
            for key, number in (
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ):
                probe.setdefault(key, number)
            if "httpGet" in probe:
                probe["httpGet"].setdefault("scheme", "HTTP")
                probe["httpGet"].setdefault("path", "/")


def _is_latest(image: str) -> bool:
    """Return True for an image without a tag or digest, or with the tag `latest`."""
    last = image.rsplit("/", 1)[-1]
    return "@" not in last and last.partition(":")[2] in ("", "latest")


def _pod(pod: Json) -> None:
    spec = pod.setdefault("spec", {})
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("priority", 0)
    pod_spec(spec)
    tolerations = spec.setdefault("tolerations", [])
    tolerated = {one.get("key") for one in tolerations}
    tolerations += [dict(one) for one in _TOLERATIONS if one["key"] not in tolerated]
    status = pod.setdefault("status", {})
    status.setdefault("phase", "Pending")
    status.setdefault("qosClass", _quality(spec))


_TOLERATIONS: tuple[Json, ...] = tuple(
    {
        "key": f"node.kubernetes.io/{state}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 300,
    }
    for state in ("not-ready", "unreachable")
)


def _quality(spec: Json) -> str:
    """Return the quality-of-service class that the requests and limits of all containers make."""
    resources = [one.get("resources") or {} for one in spec.get("containers", ())]
    if not any(one.get("requests") or one.get("limits") for one in resources):
        return "BestEffort"
    for one in resources:
        limits = one.get("limits") or {}
        if not {"cpu", "memory"} <= limits.keys() or one.get("requests", limits) != limits:
            return "Burstable"
    return "Guaranteed"


def _template(obj: Json) -> Json:
    spec: Json = obj.setdefault("spec", {})
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {})
    pod_spec(template.setdefault("spec", {}))
    obj.setdefault("status", {})
    return spec


def _deployment(obj: Json) -> None:
    spec = _template(obj)
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", _QUARTER)
        rolling.setdefault("maxSurge", _QUARTER)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)


def _replicaset(obj: Json) -> None:
    _template(obj).setdefault("replicas", 1)
    obj["status"].setdefault("replicas", 0)


def _statefulset(obj: Json) -> None:
    spec = _template(obj)
    spec.setdefault("replicas", 1)
    spec.setdefault("podManagementPolicy", "OrderedReady")
    strategy = spec.setdefault("updateStrategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        strategy.setdefault("rollingUpdate", {}).setdefault("partition", 0)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("persistentVolumeClaimRetentionPolicy", {"whenDeleted": "Retain", "whenScaled": "Retain"})
    obj["status"].setdefault("replicas", 0)
    obj["status"].setdefault("availableReplicas", 0)


def _daemonset(obj: Json) -> None:
    spec = _template(obj)
    rolling = {"maxUnavailable": 1, "maxSurge": 0}
    spec.setdefault("updateStrategy", {"type": "RollingUpdate", "rollingUpdate": rolling})
    spec.setdefault("revisionHistoryLimit", 10)
    for key in ("currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady"):
        obj["status"].setdefault(key, 0)


def _namespace(obj: Json) -> None:
    metadata = obj["metadata"]
    metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata["name"]
    obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    obj.setdefault("status", {}).setdefault("phase", "Active")


def _secret(obj: Json) -> None:
    obj.setdefault("type", "Opaque")
    plain = obj.pop("stringData", None) or {}
    if plain:
        data = obj.setdefault("data", {})
        for key, text in plain.items():
            data[key] = base64.b64encode(str(text).encode()).decode()


def _service(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    kind = spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if kind != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    for port in spec.get("ports", ()):
        port.setdefault("protocol", "TCP")
        if not port.get("targetPort"):
            port["targetPort"] = port.get("port")
    obj.setdefault("status", {}).setdefault("loadBalancer", {})


def _endpointslice(obj: Json) -> None:
    for endpoint in obj.get("endpoints") or ():
        endpoint.setdefault("conditions", {})
    for port in obj.get("ports") or ():
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")


def _endpoints(obj: Json) -> None:
    for subset in obj.get("subsets") or ():
        for port in subset.get("ports") or ():
            port.setdefault("protocol", "TCP")


def _node(obj: Json) -> None:
    obj.setdefault("spec", {})
    obj.setdefault("status", {})


def _budget(obj: Json) -> None:
    status = obj.setdefault("status", {})
    for key in ("currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"):
        status.setdefault(key, 0)


def _binding(obj: Json) -> None:
    for subject in obj.get("subjects") or ():
        if subject.get("kind") in ("Group", "User"):
            subject.setdefault("apiGroup", "rbac.authorization.k8s.io")


def _webhooks(obj: Json) -> None:
    for hook in obj.get("webhooks") or ():
        for key, value in (
            ("failurePolicy", "Fail"),
            ("matchPolicy", "Equivalent"),
            ("namespaceSelector", {}),
            ("objectSelector", {}),
            ("timeoutSeconds", 10),
            ("reinvocationPolicy", "Never"),
        ):
            hook.setdefault(key, value)
        if "service" in hook.get("clientConfig", {}):
            hook["clientConfig"]["service"].setdefault("port", 443)
        for rule in hook.get("rules") or ():
            rule.setdefault("scope", "*")


_BY_PLURAL = {
    "pods": _pod,
    "deployments": _deployment,
    "replicasets": _replicaset,
    "statefulsets": _statefulset,
    "daemonsets": _daemonset,
    "namespaces": _namespace,
    "secrets": _secret,
    "services": _service,
    "endpointslices": _endpointslice,
    "endpoints": _endpoints,
    "nodes": _node,
    "servicecidrs": _node,
    "poddisruptionbudgets": _budget,
    "rolebindings": _binding,
    "clusterrolebindings": _binding,
    "mutatingwebhookconfigurations": _webhooks,
}
