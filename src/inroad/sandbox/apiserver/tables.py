"""Server-side printing: objects as rows of a `Table`, with the columns `kubectl get` shows.

The columns are those of kubernetes `pkg/printers/internalversion`; priority 0 is shown always, 1 with
`-o wide`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from inroad.sandbox.apiserver import ages, cells
from inroad.sandbox.apiserver.resources import Resource

Json = dict[str, Any]
Row = Callable[[Json, float], Sequence[Any]]
"""(object, present time) to its cells."""


@dataclass(frozen=True, slots=True)
class Columns:
    """How one kind is printed: names of columns and what fills them.

    In front of a name: `*` only with -o wide, `#` an integer, `@` a date.
    """

    names: tuple[str, ...]
    row: Row


def table(resource: Resource, objects: Iterable[Json], now: float, include: str, metadata: Json) -> Json:
    """Return a Table of these objects. `include` is the request's includeObject: Metadata, Object or None."""
    columns = _COLUMNS.get(resource.plural, _DEFAULT)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [_definition(name) for name in columns.names],
        "rows": [row(resource, obj, now, include) for obj in objects],
    }


def row(resource: Resource, obj: Json, now: float, include: str) -> Json:
    """Return one object's row."""
    one: Json = {"cells": list(_COLUMNS.get(resource.plural, _DEFAULT).row(obj, now))}
    if include == "Object":
        one["object"] = obj
    elif include != "None":
        one["object"] = partial(obj)
    return one


def partial(obj: Json) -> Json:
    """Return an object's metadata alone."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": obj.get("metadata", {}),
    }


def _definition(name: str) -> Json:
    plain = name.lstrip("*#@")
    return {
        "name": plain,
        "type": {"#": "integer", "@": "date"}.get(name[0], "string"),
        "format": "name" if plain == "Name" else "",
        "description": "",
        "priority": 1 if name.startswith("*") else 0,
    }


def _name(obj: Json) -> str:
    return str(obj["metadata"]["name"])


def _age(obj: Json, now: float) -> str:
    return ages.since(obj["metadata"].get("creationTimestamp"), now)


def _pod(obj: Json, now: float) -> Sequence[Any]:
    status = obj.get("status", {})
    return (
        _name(obj),
        cells.pod_ready(obj),
        cells.pod_status(obj),
        cells.pod_restarts(obj, now),
        _age(obj, now),
        status.get("podIP") or "<none>",
        obj["spec"].get("nodeName") or "<none>",
        status.get("nominatedNodeName") or "<none>",
        "<none>",
    )


def _service(obj: Json, now: float) -> Sequence[Any]:
    spec = obj["spec"]
    return (
        _name(obj),
        spec["type"],
        "<none>" if spec["type"] == "ExternalName" else spec.get("clusterIP") or "<none>",
        cells.service_external(obj),
        cells.service_ports(spec),
        _age(obj, now),
        cells.labels(spec.get("selector")),
    )


def _node(obj: Json, now: float) -> Sequence[Any]:
    info = obj.get("status", {}).get("nodeInfo", {})
    return (
        _name(obj),
        cells.node_status(obj),
        cells.node_roles(obj),
        _age(obj, now),
        info.get("kubeletVersion", ""),
        cells.node_address(obj, "InternalIP"),
        cells.node_address(obj, "ExternalIP"),
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    )


def _deployment(obj: Json, now: float) -> Sequence[Any]:
    status = obj.get("status", {})
    return (
        _name(obj),
        f"{status.get('readyReplicas', 0)}/{obj['spec'].get('replicas', 1)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        _age(obj, now),
        *cells.containers(obj),
        cells.selector(obj["spec"].get("selector")),
    )


def _replicaset(obj: Json, now: float) -> Sequence[Any]:
    status = obj.get("status", {})
    return (
        _name(obj),
        obj["spec"].get("replicas", 1),
        status.get("replicas", 0),
        status.get("readyReplicas", 0),
        _age(obj, now),
        *cells.containers(obj),
        cells.selector(obj["spec"].get("selector")),
    )


def _statefulset(obj: Json, now: float) -> Sequence[Any]:
    ready = obj.get("status", {}).get("readyReplicas", 0)
    return (_name(obj), f"{ready}/{obj['spec'].get('replicas', 1)}", _age(obj, now), *cells.containers(obj))


def _daemonset(obj: Json, now: float) -> Sequence[Any]:
    status = obj.get("status", {})
    return (
        _name(obj),
        status.get("desiredNumberScheduled", 0),
        status.get("currentNumberScheduled", 0),
        status.get("numberReady", 0),
        status.get("updatedNumberScheduled", 0),
        status.get("numberAvailable", 0),
        cells.labels(obj["spec"]["template"]["spec"].get("nodeSelector")),
        _age(obj, now),
        *cells.containers(obj),
        cells.selector(obj["spec"].get("selector")),
    )


def _endpointslice(obj: Json, now: float) -> Sequence[Any]:
    addresses = [one for endpoint in obj.get("endpoints") or () for one in endpoint.get("addresses") or ()]
    ports = [str(port.get("port", "*")) for port in obj.get("ports") or ()]
    return (
        _name(obj),
        obj.get("addressType", ""),
        cells.shortened(ports, "<unset>"),
        cells.shortened(addresses, "<unset>"),
        _age(obj, now),
    )


def _event(obj: Json, now: float) -> Sequence[Any]:
    about = obj.get("involvedObject", {})
    last = obj.get("lastTimestamp") or obj.get("eventTime")
    first = obj.get("firstTimestamp") or obj.get("eventTime")
    return (
        ages.since(last, now),
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{about.get('kind', '').lower()}/{about.get('name', '')}",
        about.get("fieldPath", ""),
        obj.get("source", {}).get("component", "") or obj.get("reportingComponent", ""),
        str(obj.get("message", "")).strip(),
        ages.since(first, now),
        str(obj.get("count", 1)),
        _name(obj),
    )


def _binding(obj: Json, now: float) -> Sequence[Any]:
    role = obj.get("roleRef", {})
    return (
        _name(obj),
        f"{role.get('kind', '')}/{role.get('name', '')}",
        _age(obj, now),
        *cells.subjects(obj.get("subjects") or ()),
    )


def _count(field: str) -> Row:
    return lambda obj, now: (_name(obj), len(obj.get(field) or ()), _age(obj, now))


def _role(obj: Json, now: float) -> Sequence[Any]:
    return (_name(obj), obj["metadata"].get("creationTimestamp", ""))


_WORKLOAD = ("*Containers", "*Images", "*Selector")
_BINDING = Columns(("Name", "Role", "Age", "*Users", "*Groups", "*ServiceAccounts"), _binding)
_DEFAULT = Columns(("Name", "Age"), lambda obj, now: (_name(obj), _age(obj, now)))
_COLUMNS: dict[str, Columns] = {
    "pods": Columns(
        (
            "Name",
            "Ready",
            "Status",
            "Restarts",
            "Age",
            "*IP",
            "*Node",
            "*Nominated Node",
            "*Readiness Gates",
        ),
        _pod,
    ),
    "services": Columns(
        ("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "*Selector"), _service
    ),
    "nodes": Columns(
        (
            "Name",
            "Status",
            "Roles",
            "Age",
            "Version",
            "*Internal-IP",
            "*External-IP",
            "*OS-Image",
            "*Kernel-Version",
            "*Container-Runtime",
        ),
        _node,
    ),
    "namespaces": Columns(
        ("Name", "Status", "Age"),
        lambda obj, now: (_name(obj), obj.get("status", {}).get("phase", ""), _age(obj, now)),
    ),
    "deployments": Columns(("Name", "Ready", "Up-to-date", "Available", "Age", *_WORKLOAD), _deployment),
    "replicasets": Columns(("Name", "#Desired", "#Current", "#Ready", "Age", *_WORKLOAD), _replicaset),
    "statefulsets": Columns(("Name", "Ready", "Age", *_WORKLOAD[:2]), _statefulset),
    "daemonsets": Columns(
        (
            "Name",
            "#Desired",
            "#Current",
            "#Ready",
            "#Up-to-date",
            "#Available",
            "Node Selector",
            "Age",
            *_WORKLOAD,
        ),
        _daemonset,
    ),
    "endpointslices": Columns(("Name", "AddressType", "Ports", "Endpoints", "Age"), _endpointslice),
    "endpoints": Columns(
        ("Name", "Endpoints", "Age"),
        lambda obj, now: (_name(obj), cells.endpoints(obj), _age(obj, now)),
    ),
    "events": Columns(
        (
            "Last Seen",
            "Type",
            "Reason",
            "Object",
            "*Subobject",
            "*Source",
            "Message",
            "*First Seen",
            "*Count",
            "*Name",
        ),
        _event,
    ),
    "secrets": Columns(
        ("Name", "Type", "Data", "Age"),
        lambda obj, now: (_name(obj), obj.get("type", ""), len(obj.get("data") or ()), _age(obj, now)),
    ),
    "configmaps": Columns(
        ("Name", "Data", "Age"),
        lambda obj, now: (
            _name(obj),
            len(obj.get("data") or ()) + len(obj.get("binaryData") or ()),
            _age(obj, now),
        ),
    ),
    "serviceaccounts": Columns(("Name", "Secrets", "Age"), _count("secrets")),
    "mutatingwebhookconfigurations": Columns(("Name", "#Webhooks", "Age"), _count("webhooks")),
    "leases": Columns(
        ("Name", "Holder", "Age"),
        lambda obj, now: (_name(obj), obj.get("spec", {}).get("holderIdentity", ""), _age(obj, now)),
    ),
    "servicecidrs": Columns(
        ("Name", "CIDRs", "Age"),
        lambda obj, now: (_name(obj), ",".join(obj["spec"].get("cidrs") or ()), _age(obj, now)),
    ),
    "ipaddresses": Columns(
        ("Name", "ParentRef"), lambda obj, now: (_name(obj), cells.parent(obj.get("spec", {})))
    ),
    "poddisruptionbudgets": Columns(
        ("Name", "Min Available", "Max Unavailable", "#Allowed Disruptions", "Age"),
        lambda obj, now: (
            _name(obj),
            str(obj["spec"].get("minAvailable", "N/A")),
            str(obj["spec"].get("maxUnavailable", "N/A")),
            obj.get("status", {}).get("disruptionsAllowed", 0),
            _age(obj, now),
        ),
    ),
    "roles": Columns(("Name", "@Created At"), _role),
    "clusterroles": Columns(("Name", "@Created At"), _role),
    "rolebindings": _BINDING,
    "clusterrolebindings": _BINDING,
}
