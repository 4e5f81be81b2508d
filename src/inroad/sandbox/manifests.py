"""The objects that every sandbox starts with: nodes, cluster DNS, the workloads, the traffic-manager."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

from inroad.sandbox.options import Options, Upstream
from inroad.sandbox.topology import API_PORT, DNS_SERVICE, Topology

Json = dict[str, Any]
Placed = tuple[str, Json]
"""(namespace, object); cluster-wide objects have the namespace ""."""
Rule = tuple[str, list[str], list[str]]
"""(API group, resources, verbs)."""
MANAGER_NAMESPACE = "inroad"
HEALTH_PORT = 15702
AGENT_PORT = 15703
WEBHOOK_PORT = 15704
MANAGER_LABELS = {"app.kubernetes.io/name": "inroad", "app.kubernetes.io/component": "traffic-manager"}
PYTHON = ["python3", "-m"]


def field(name: str, path: str) -> Json:
    """Return an environment variable that the downward API fills."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


IDENTITY = [
    field("POD_NAME", "metadata.name"),
    field("POD_NAMESPACE", "metadata.namespace"),
    field("POD_IP", "status.podIP"),
    field("NODE_NAME", "spec.nodeName"),
]


def nodes(topology: Topology, version: str) -> list[Placed]:
    """Return the Node objects as ready kubelets of that Kubernetes version report them."""
    found: list[Placed] = []
    machine = platform.uname()
    info = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine.machine, machine.machine),
        "containerRuntimeVersion": "sandbox://1",
        "kernelVersion": machine.release,
        "kubeletVersion": f"v{version}.0+inroad-sandbox",
        "operatingSystem": "linux",
        "osImage": "inroad sandbox",
    }
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "kubelet is posting ready status",
    }
    for node in topology.nodes:
        cidrs = [str(network) for network in node.pod_networks]
        addresses = [{"type": "InternalIP", "address": str(one)} for one in node.addresses]
        labels = {"kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux"}
        addresses.append({"type": "Hostname", "address": node.name})
        status = {"addresses": addresses, "conditions": [ready], "nodeInfo": info}
        spec = {"podCIDR": cidrs[0], "podCIDRs": cidrs}
        body = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": node.name, "labels": labels}}
        found.append(("", {**body, "spec": spec, "status": status}))
    return found


def api_service(topology: Topology) -> list[Placed]:
    """Return the Service `kubernetes` and its slices: the API server is no pod."""
    family = f"IPv{topology.families[0]}"
    service = {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "clusterIP": str(topology.service_networks[0][1]),
            "ipFamilies": [family],
            "ports": [{"name": "https", "port": 443, "targetPort": API_PORT, "protocol": "TCP"}],
        },
    }
    address = str(topology.control_plane_addresses[0])
    slice_ = {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family,
        "ports": [{"name": "https", "port": API_PORT, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }
    endpoints = {
        "kind": "Endpoints",
        "apiVersion": "v1",
        "metadata": {"name": "kubernetes"},
        "subsets": [
            {
                "addresses": [{"ip": address}],
                "ports": [{"name": "https", "port": API_PORT, "protocol": "TCP"}],
            }
        ],
    }
    return [("default", service), ("default", slice_), ("default", endpoints)]


def namespace(name: str) -> Placed:
    """Return a Namespace."""
    return "", {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}


def deployment(name: str, replicas: int, labels: Json, pod: Json) -> Json:
    """Return a Deployment of pods with this spec."""
    return {
        "kind": "Deployment",
        "apiVersion": "apps/v1",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def service(name: str, selector: Json, ports: Sequence[tuple[str, str, int, int]], **spec: Any) -> Json:
    """Return a Service; ports are (name, protocol, port, target)."""
    listed = [{"name": n, "protocol": p, "port": number, "targetPort": t} for n, p, number, t in ports]
    body = {"selector": selector, "ports": listed, "ipFamilyPolicy": "PreferDualStack", **spec}
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": name, "labels": selector},
        "spec": body,
    }


def grant(account: str, namespace: str, rules: Sequence[Rule], where: str = "") -> list[Placed]:
    """Return a service account with these rights: everywhere, or in the namespace `where` only."""
    listed = [
        {"apiGroups": [group], "resources": resources, "verbs": verbs} for group, resources, verbs in rules
    ]
    kind = "Role" if where else "ClusterRole"
    version = "rbac.authorization.k8s.io"
    metadata = {"name": account}
    role = {"kind": kind, "apiVersion": f"{version}/v1", "metadata": metadata, "rules": listed}
    binding = {
        "kind": f"{kind}Binding",
        "apiVersion": f"{version}/v1",
        "metadata": metadata,
        "roleRef": {"kind": kind, "name": account, "apiGroup": version},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }
    return [(where, role), (where, binding)]


def service_account(name: str, labels: Json) -> Json:
    """Return a ServiceAccount."""
    return {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": name, "labels": labels}}


def forwarding(topology: Topology, upstream: Upstream) -> list[Json]:
    """Return the environment that has cluster DNS forward to the workstation."""
    found = {
        "FORWARD": str(topology.upstream_addresses[0]),
        "FORWARD_FOLD": "1" if upstream.fold else "",
        "FORWARD_CACHE": str(upstream.cache),
    }
    return [{"name": name, "value": value} for name, value in found.items()]


def cluster_dns(topology: Topology, upstream: Upstream | None) -> list[Placed]:
    """Return cluster DNS at its well-known address."""
    labels = {"k8s-app": "kube-dns"}
    more = forwarding(topology, upstream) if upstream else []
    container = {
        "name": "coredns",
        "command": [*PYTHON, "inroad.sandbox.cluster_dns"],
        "env": [*IDENTITY, *more],
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}},
    }
    pod = {"containers": [container], "dnsPolicy": "Default", "serviceAccountName": "coredns"}
    ports = [("dns", "UDP", 53, 53), ("dns-tcp", "TCP", 53, 53)]
    addresses = [str(network[DNS_SERVICE]) for network in topology.service_networks]
    fixed = {"clusterIP": addresses[0], "clusterIPs": addresses}
    reads = [
        ("", ["namespaces", "services"], ["list", "watch"]),
        ("discovery.k8s.io", ["endpointslices"], ["list", "watch"]),
    ]
    return [
        ("kube-system", service_account("coredns", labels)),
        *grant("coredns", "kube-system", reads),
        ("kube-system", service("kube-dns", labels, ports, **fixed)),
        ("kube-system", deployment("coredns", 1, labels, pod)),
    ]


def web() -> list[Json]:
    """Return the Service and Deployment `web`."""
    labels = {"app": "web"}
    container = {
        "name": "web",
        "command": [*PYTHON, "inroad.sandbox.workloads.web", "8080"],
        "env": IDENTITY,
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"tcpSocket": {"port": 8080}},
    }
    pod = {"containers": [container], "terminationGracePeriodSeconds": 2}
    return [
        service("web", labels, [("http", "TCP", 80, 8080)]),
        deployment("web", 2, labels, pod),
    ]


def echo() -> list[Json]:
    """Return the Service and Deployment `echo`, TCP and UDP 7."""
    labels = {"app": "echo"}
    container = {
        "name": "echo",
        "command": [*PYTHON, "inroad.sandbox.workloads.echo", "7"],
        "env": IDENTITY,
        "readinessProbe": {"tcpSocket": {"port": 7}},
    }
    pod = {"containers": [container], "terminationGracePeriodSeconds": 2}
    ports = [("tcp", "TCP", 7, 7), ("udp", "UDP", 7, 7)]
    return [service("echo", labels, ports), deployment("echo", 1, labels, pod)]


def db() -> list[Json]:
    """Return the headless Service and the StatefulSet `db`: web servers too, they tell their names."""
    labels = {"app": "db"}
    container = {
        "name": "db",
        "command": [*PYTHON, "inroad.sandbox.workloads.web", "5432"],
        "env": IDENTITY,
        "ports": [{"name": "sql", "containerPort": 5432}],
        "readinessProbe": {"tcpSocket": {"port": "sql"}},
    }
    pod = {"containers": [container], "terminationGracePeriodSeconds": 2}
    stateful = deployment("db", 2, labels, pod) | {"kind": "StatefulSet"}
    stateful["spec"] |= {"serviceName": "db", "podManagementPolicy": "Parallel"}
    return [service("db", labels, [("sql", "TCP", 5432, 5432)], clusterIP="None"), stateful]


def external() -> Json:
    """Return the Service `ext`, an alias of `web` in `default`."""
    spec = {"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}
    return {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "ext"}, "spec": spec}


def manager_pod() -> Json:
    """Return the traffic-manager's pod as the chart has it."""
    values = {
        "CLIENT_CONFIG": "/etc/inroad/client.yaml",
        "AGENT_IMAGE": "inroad",
        "AGENT_INJECTION": "true",
    }
    container = {
        "name": "traffic-manager",
        "image": "inroad",
        "args": ["serve", "manager"],
        "env": [*IDENTITY, *({"name": name, "value": value} for name, value in values.items())],
        "ports": [{"name": "health", "containerPort": HEALTH_PORT}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "health"}, "periodSeconds": 2},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "health"}},
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/inroad", "readOnly": True},
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "containers": [container],
        "serviceAccountName": "traffic-manager",
        "terminationGracePeriodSeconds": 10,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532},
        "volumes": [
            {"name": "config", "configMap": {"name": "traffic-manager"}},
        ],
    }


def webhook() -> Json:
    """Return what has the API server ask the traffic-manager about new pods, as in the chart."""
    service = {"name": "traffic-manager", "namespace": MANAGER_NAMESPACE, "path": "/mutate"}
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    ours = {
        "key": "app.kubernetes.io/component",
        "operator": "NotIn",
        "values": ["traffic-manager", "traffic-agent"],
    }
    system = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"]}
    hook = {
        "name": "traffic-agent.inroad.dev",
        "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": service},
        "rules": [rule],
        "failurePolicy": "Ignore",
        "reinvocationPolicy": "IfNeeded",
        "sideEffects": "None",
        "timeoutSeconds": 2,
        "namespaceSelector": {"matchExpressions": [system]},
        "objectSelector": {"matchExpressions": [ours]},
    }
    return {
        "kind": "MutatingWebhookConfiguration",
        "apiVersion": "admissionregistration.k8s.io/v1",
        "metadata": {"name": f"traffic-manager-{MANAGER_NAMESPACE}", "labels": MANAGER_LABELS},
        "webhooks": [hook],
    }


def manager() -> list[Placed]:
    """Return the traffic-manager as the chart installs it, with its rights."""
    config = {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": "traffic-manager", "labels": MANAGER_LABELS},
        "data": {"client.yaml": "dns: {}\nrouting: {}\n"},
    }
    reads: list[Rule] = [
        ("", ["nodes", "namespaces", "pods", "services"], ["list", "watch"]),
        ("networking.k8s.io", ["servicecidrs"], ["list", "watch"]),
        ("discovery.k8s.io", ["endpointslices"], ["list", "watch"]),
        ("authentication.k8s.io", ["tokenreviews"], ["create"]),
        ("admissionregistration.k8s.io", ["mutatingwebhookconfigurations"], ["patch"]),
    ]
    own: list[Rule] = [
        ("", ["services"], ["create", "delete"]),
        ("", ["secrets"], ["get", "update"]),
    ]
    certificates = {
        "kind": "Secret",
        "apiVersion": "v1",
        "metadata": {"name": "traffic-manager-tls", "labels": MANAGER_LABELS},
    }
    name = "traffic-manager"
    ports = [("agents", "TCP", AGENT_PORT, AGENT_PORT), ("webhook", "TCP", 443, WEBHOOK_PORT)]
    return [
        namespace(MANAGER_NAMESPACE),
        (MANAGER_NAMESPACE, service_account(name, MANAGER_LABELS)),
        *grant(name, MANAGER_NAMESPACE, reads),
        *grant(name, MANAGER_NAMESPACE, own, MANAGER_NAMESPACE),
        (MANAGER_NAMESPACE, config),
        (MANAGER_NAMESPACE, certificates),
        (MANAGER_NAMESPACE, service(name, MANAGER_LABELS, ports)),
        ("", webhook()),
        (MANAGER_NAMESPACE, deployment(name, 1, MANAGER_LABELS, manager_pod())),
    ]


def workloads() -> list[Placed]:
    """Return what users of the sandbox find in it."""
    empty = service("empty", {"app": "nobody"}, [("http", "TCP", 80, 8080)])
    return [
        namespace("shop"),
        *(("default", one) for one in web()),
        *(("shop", one) for one in [*web(), *echo(), *db(), empty, external()]),
    ]


def everything(topology: Topology, options: Options) -> list[Placed]:
    """Return all objects that the sandbox starts with."""
    return [
        *nodes(topology, options.version),
        *api_service(topology),
        *cluster_dns(topology, options.upstream),
        *workloads(),
        *(manager() if options.manager else ()),
    ]
