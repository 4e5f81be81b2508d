"""Fills a store with nodes and pods that exist as objects only, to measure at a large cluster's size."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any

from inroad.sandbox.apiserver.store import Store

Json = dict[str, Any]
PREFIX = "synthetic"
PER_NAMESPACE = 1000
_IMAGE = "registry.example.com/team/service:1.2.3"
_NODES = IPv4Network("172.16.0.0/12")
_PODS = IPv4Network("10.128.0.0/9")
"""Pod CIDRs are /24 parts of this: 32,768 nodes at most."""


def populate(store: Store, nodes: int, pods: int) -> None:
    """Create `nodes` nodes and `pods` running, ready pods spread over them and over namespaces.

    Their names begin with `synthetic-`, so that schedulers and kubelets leave them alone: the pods are on
    nodes that no kubelet serves. At least one node is made when there are pods.
    """
    nodes = max(nodes, 1 if pods else 0)
    if nodes > 1 << (24 - _PODS.prefixlen):
        raise ValueError(f"at most {1 << (24 - _PODS.prefixlen)} synthetic nodes fit into {_PODS}")
    for index in range(nodes):
        store.load("nodes", _node(index))
    for start in range(0, pods, PER_NAMESPACE):
        store.create("namespaces", {"metadata": {"name": f"{PREFIX}-{start // PER_NAMESPACE}"}})
    for obj in _pods(nodes, pods, store.timestamp()):
        store.load("pods", obj)


def _node(index: int) -> Json:
    cidr = str(_PODS[index * 256]) + "/24"
    name = f"{PREFIX}-{index}"
    return {
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
            },
        },
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": str(_NODES[index + 1])},
                {"type": "Hostname", "address": name},
            ],
            "capacity": {"cpu": "8", "memory": "32Gi", "pods": "250"},
            "allocatable": {"cpu": "8", "memory": "31Gi", "pods": "250"},
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "KubeletReady",
                    "message": "kubelet is posting ready status",
                }
            ],
            "nodeInfo": {"kubeletVersion": "v1.34.0", "osImage": "synthetic", "architecture": "amd64"},
        },
    }


def _pods(nodes: int, pods: int, started: str) -> Iterator[Json]:
    for index in range(pods):
        node = index % nodes
        workload = f"workload-{index // 10}"
        yield {
            "metadata": {
                "name": f"{PREFIX}-{index}",
                "namespace": f"{PREFIX}-{index // PER_NAMESPACE}",
                "labels": {"app": workload, "pod-template-hash": "5d4f8c7b9d", "tier": f"t{index % 5}"},
                "annotations": {"example.com/made-for": "measurements of lists and watches"},
                "ownerReferences": [
                    {
                        "apiVersion": "apps/v1",
                        "kind": "ReplicaSet",
                        "name": f"{workload}-5d4f8c7b9d",
                        "uid": f"00000000-0000-4000-8000-{index // 10:012d}",
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": {"nodeName": f"{PREFIX}-{node}", "containers": [_container()]},
            "status": _status(str(_PODS[node * 256 + 2 + index // nodes % 253]), node, started),
        }


def _container() -> Json:
    return {
        "name": "main",
        "image": _IMAGE,
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": [{"name": "LOG_LEVEL", "value": "info"}, {"name": "MODE", "value": "cluster"}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
    }


def _status(address: str, node: int, started: str) -> Json:
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "hostIP": str(_NODES[node + 1]),
        "startTime": started,
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": started}
            for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        ],
        "containerStatuses": [
            {
                "name": "main",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "image": _IMAGE,
                "imageID": "",
                "state": {"running": {"startedAt": started}},
            }
        ],
    }
