"""What of the cluster's objects the traffic-manager reads, and what it keeps of each."""

from __future__ import annotations

import sys

import msgspec

from inroad.kube.reflector import Meta


class NodeSpec(msgspec.Struct, rename={"pod_cidr": "podCIDR", "pod_cidrs": "podCIDRs"}, gc=False):
    """Its pods' subnets, when its cluster hands them out by node."""

    pod_cidr: str = ""
    pod_cidrs: list[str] = []


class Node(msgspec.Struct):
    """A v1 Node."""

    metadata: Meta
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)


class PodIP(msgspec.Struct, gc=False):
    """One of a pod's addresses."""

    ip: str = ""


class PodSpec(msgspec.Struct, rename="camel", gc=False):
    """Whether the pod lives in its node's network namespace."""

    host_network: bool = False


class PodStatus(msgspec.Struct, rename={"pod_ip": "podIP", "pod_ips": "podIPs"}):
    """Whether it still runs, and where."""

    phase: str = ""
    pod_ip: str = ""
    pod_ips: list[PodIP] = []


class Pod(msgspec.Struct):
    """A v1 Pod."""

    metadata: Meta
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)


class Named(msgspec.Struct):
    """Any object of which only its existence matters."""

    metadata: Meta


class ServiceSpec(msgspec.Struct, rename={"cluster_ip": "clusterIP", "cluster_ips": "clusterIPs"}):
    """A Service's addresses: `None` for a headless one, empty for an external name."""

    cluster_ip: str = ""
    cluster_ips: list[str] = []
    external_name: str = msgspec.field(default="", name="externalName")


class Service(msgspec.Struct):
    """A v1 Service."""

    metadata: Meta
    spec: ServiceSpec = msgspec.field(default_factory=ServiceSpec)


class Labelled(Meta, gc=False):
    """Metadata with labels."""

    labels: dict[str, str] = msgspec.field(default_factory=dict)


class Endpoint(msgspec.Struct):
    """One endpoint."""

    addresses: list[str] = []


class Slice(msgspec.Struct):
    """A discovery.k8s.io/v1 EndpointSlice."""

    metadata: Labelled
    endpoints: list[Endpoint] | None = None


class CidrSpec(msgspec.Struct):
    """One or two subnets."""

    cidrs: list[str] = []


class ServiceCidr(msgspec.Struct):
    """A networking.k8s.io/v1 ServiceCIDR."""

    metadata: Meta
    spec: CidrSpec = msgspec.field(default_factory=CidrSpec)


def pod_addresses(pod: Pod) -> tuple[str, ...] | None:
    """Return what counts of a pod: its addresses, unless they are its node's or nobody's any more."""
    if pod.spec.host_network or pod.status.phase in ("Succeeded", "Failed"):
        return None
    return tuple(item.ip for item in pod.status.pod_ips if item.ip) or (
        (pod.status.pod_ip,) if pod.status.pod_ip else None
    )


def node_networks(node: Node) -> tuple[str, ...]:
    """Return the node's pod subnets, () when it has none."""
    return tuple(node.spec.pod_cidrs) or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())


def service_addresses(service: Service) -> tuple[str, ...]:
    """Return what a Service's name answers with: its ClusterIPs, `None`, or an external name."""
    spec = service.spec
    return tuple(spec.cluster_ips) or (spec.cluster_ip or spec.external_name,)


def endpoints(found: Slice) -> tuple[str, frozenset[str]] | None:
    """Return the slice's Service and addresses; None when it is of no Service."""
    service = found.metadata.labels.get("kubernetes.io/service-name", "")
    addresses = frozenset(address for item in found.endpoints or () for address in item.addresses)
    return (sys.intern(service), addresses) if service else None


def exists(found: Named) -> bool:
    """Keep nothing but that it is there."""
    return bool(found.metadata.name)


def cidrs(found: ServiceCidr) -> tuple[str, ...]:
    """Return the subnets of a ServiceCIDR."""
    return tuple(found.spec.cidrs)
