"""Services and their pods become EndpointSlices, and Endpoints for those who still read them.

A slice has one address family, one set of port numbers and at most 100 endpoints, as Kubernetes makes them.
Services without a selector are left alone: somebody else writes their slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Any

from inroad.sandbox.apiserver.collection import Change
from inroad.sandbox.controller import Controller, both, split

Json = dict[str, Any]
MANAGED_BY = "endpointslice-controller.k8s.io"
SLICE_SIZE = 100
Ports = tuple[tuple[str, str, int], ...]
"""(name, protocol, number), as one pod has them: a named targetPort may differ between pods."""


class EndpointsController(Controller):
    """Keeps the slices of every service with a selector."""

    watches = ("services", "pods")

    def keys(self, plural: str, change: Change) -> Iterable[str]:
        """Name the service itself, or those that select the pod, or did."""
        if plural == "services":
            return [change.entry.key]
        labels = [entry.labels or {} for entry in both(change)]
        found = []
        for service in self.store.collection("services").select(change.entry.namespace):
            selector = service.object()["spec"].get("selector")
            if selector and any(selector.items() <= one.items() for one in labels):
                found.append(service.key)
        return found

    async def reconcile(self, key: str) -> None:
        """Make a service's slices what its pods say."""
        namespace, name = split(key)
        service = self.store.find("services", name, namespace)
        present = self.store.list(
            "endpointslices",
            namespace,
            labels={"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": MANAGED_BY},
        )
        wanted: list[Json] = []
        if service is not None and not service["spec"].get("selector"):
            return
        if service is not None and service["spec"].get("type") != "ExternalName":
            pods = self.store.list("pods", namespace, labels=service["spec"]["selector"])
            wanted = slices(service, pods)
        self._apply(namespace, wanted, present)
        self._endpoints(namespace, name, wanted)

    def _apply(self, namespace: str, wanted: list[Json], present: list[Json]) -> None:
        for want in wanted:
            old = next((one for one in present if _kind(one) == _kind(want)), None)
            old = old or next((one for one in present if one["addressType"] == want["addressType"]), None)
            if old is None:
                self.store.create("endpointslices", want, namespace)
                continue
            present.remove(old)
            self.store.update("endpointslices", {**old, **want, "metadata": old["metadata"]}, namespace)
        for old in present:
            self.store.delete("endpointslices", old["metadata"]["name"], namespace)

    def _endpoints(self, namespace: str, name: str, wanted: list[Json]) -> None:
        old = self.store.find("endpoints", name, namespace)
        if not wanted:
            if old is not None:
                self.store.delete("endpoints", name, namespace)
            return
        body = {"metadata": {"name": name}, "subsets": subsets(wanted)}
        if old is None:
            self.store.create("endpoints", body, namespace)
        else:
            self.store.update("endpoints", {**old, "subsets": body["subsets"]}, namespace)


def _kind(one: Json) -> tuple[str, str]:
    return one["addressType"], repr(one.get("ports"))


def slices(service: Json, pods: Sequence[Json]) -> list[Json]:
    """Return the slices of a service whose selector selects these pods."""
    spec, metadata = service["spec"], service["metadata"]
    found: list[Json] = []
    for family in spec.get("ipFamilies", ["IPv4"]):
        groups: dict[Ports, list[Json]] = {}
        for pod in sorted(pods, key=lambda one: str(one["metadata"]["name"])):
            address = _address(pod, family)
            ports = port_numbers(spec.get("ports", ()), pod)
            if address and ports is not None:
                groups.setdefault(ports, []).append(endpoint(service, pod, address))
        if not groups:
            groups[()] = []
        for ports, endpoints in groups.items():
            found += [
                _slice(metadata, family, ports, endpoints[start : start + SLICE_SIZE])
                for start in range(0, max(len(endpoints), 1), SLICE_SIZE)
            ]
    return found


def _slice(service: Json, family: str, ports: Ports, endpoints: list[Json]) -> Json:
    labels = {
        "kubernetes.io/service-name": service["name"],
        "endpointslice.kubernetes.io/managed-by": MANAGED_BY,
    }
    owner = {
        "apiVersion": "v1",
        "kind": "Service",
        "name": service["name"],
        "uid": service["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "metadata": {
            "generateName": service["name"] + "-",
            "labels": labels,
            "ownerReferences": [owner],
        },
        "addressType": family,
        "ports": [{"name": name, "protocol": kind, "port": number} for name, kind, number in ports],
        "endpoints": endpoints,
    }


def _address(pod: Json, family: str) -> str | None:
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return None
    found = [one["ip"] for one in pod.get("status", {}).get("podIPs", ())]
    return next((one for one in found if f"IPv{ip_address(one).version}" == family), None)


def port_numbers(ports: Sequence[Json], pod: Json) -> Ports | None:
    """Return a service's ports as numbers of this pod; None when it lacks a port that is named."""
    found: list[tuple[str, str, int]] = []
    for port in ports:
        target = port.get("targetPort") or port["port"]
        if isinstance(target, str) and not target.isdigit():
            declared = [
                one["containerPort"]
                for container in pod["spec"]["containers"]
                for one in container.get("ports", ())
                if one.get("name") == target and one.get("protocol", "TCP") == port.get("protocol", "TCP")
            ]
            if not declared:
                return None
            target = declared[0]
        found.append((port.get("name", ""), port.get("protocol", "TCP"), int(target)))
    return tuple(found)


def is_ready(pod: Json) -> bool:
    """Tell whether a pod's Ready condition holds."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def endpoint(service: Json, pod: Json, address: str) -> Json:
    """Return one endpoint; a terminating pod is never ready but may still serve."""
    metadata, spec = pod["metadata"], pod["spec"]
    serving = is_ready(pod)
    terminating = "deletionTimestamp" in metadata
    everyone = bool(service["spec"].get("publishNotReadyAddresses"))
    found: Json = {
        "addresses": [address],
        "conditions": {
            "ready": everyone or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "nodeName": spec.get("nodeName", ""),
        "targetRef": {
            "kind": "Pod",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
    }
    if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]:
        found["hostname"] = spec["hostname"]
    return found


def subsets(wanted: Iterable[Json]) -> list[Json]:
    """Return what an Endpoints object says for the same pods, in the first family only."""
    found: list[Json] = []
    first = None
    for one in wanted:
        first = first or one["addressType"]
        if one["addressType"] != first or not one["endpoints"]:
            continue
        subset: Json = {}
        for entry in one["endpoints"]:
            if entry["conditions"]["terminating"]:
                continue
            address = {
                "ip": entry["addresses"][0],
                "nodeName": entry["nodeName"],
                "targetRef": entry["targetRef"],
            }
            if "hostname" in entry:
                address["hostname"] = entry["hostname"]
            key = "addresses" if entry["conditions"]["ready"] else "notReadyAddresses"
            subset.setdefault(key, []).append(address)
        if subset:
            found.append({**subset, "ports": one["ports"]})
    return found
