"""The kinds that this API server serves, as one table.

Names, short names and categories as `kubectl api-resources` prints them for Kubernetes 1.34.
"""

from __future__ import annotations

from dataclasses import dataclass

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object: where it is served and what it can do."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    generation: bool = False
    """metadata.generation counts changes of the spec."""
    since: tuple[int, int] = (1, 0)
    """The first Kubernetes version (major, minor) that serves it in this version."""
    singular_name: str = ""
    verbs: tuple[str, ...] = VERBS
    """Review kinds only know `create` and are never stored."""

    @property
    def singular(self) -> str:
        """The name for one object: `pod`."""
        return self.singular_name or self.kind.lower()

    @property
    def group_version(self) -> str:
        """What an object's apiVersion says."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The name in messages: `deployments.apps`, `pods`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def stored(self) -> bool:
        """False for kinds that are questions rather than objects."""
        return "get" in self.verbs


_RBAC = "rbac.authorization.k8s.io"
_ADMISSION = "admissionregistration.k8s.io"
_AUTHORIZATION = "authorization.k8s.io"
_NETWORK = "networking.k8s.io"
_CREATE = ("create",)
_ALL = ("all",)

RESOURCES: tuple[Resource, ...] = (
    Resource("configmaps", "ConfigMap", short=("cm",)),
    Resource("endpoints", "Endpoints", short=("ep",), singular_name="endpoints"),
    Resource("events", "Event", short=("ev",)),
    Resource(
        "namespaces",
        "Namespace",
        namespaced=False,
        short=("ns",),
        subresources=("finalize", "status"),
        verbs=tuple(verb for verb in VERBS if verb != "deletecollection"),
    ),
    Resource("nodes", "Node", namespaced=False, short=("no",), subresources=("status",)),
    Resource(
        "pods",
        "Pod",
        short=("po",),
        categories=_ALL,
        generation=True,
        subresources=("binding", "ephemeralcontainers", "eviction", "log", "portforward", "status"),
    ),
    Resource("secrets", "Secret"),
    Resource("serviceaccounts", "ServiceAccount", short=("sa",), subresources=("token",)),
    Resource("services", "Service", short=("svc",), categories=_ALL, subresources=("status",)),
    Resource(
        "daemonsets",
        "DaemonSet",
        "apps",
        short=("ds",),
        categories=_ALL,
        subresources=("status",),
        generation=True,
    ),
    Resource(
        "deployments",
        "Deployment",
        "apps",
        short=("deploy",),
        categories=_ALL,
        subresources=("scale", "status"),
        generation=True,
    ),
    Resource(
        "replicasets",
        "ReplicaSet",
        "apps",
        short=("rs",),
        categories=_ALL,
        subresources=("scale", "status"),
        generation=True,
    ),
    Resource(
        "statefulsets",
        "StatefulSet",
        "apps",
        short=("sts",),
        categories=_ALL,
        subresources=("scale", "status"),
        generation=True,
    ),
    Resource("leases", "Lease", "coordination.k8s.io"),
    Resource("endpointslices", "EndpointSlice", "discovery.k8s.io", generation=True),
    Resource(
        "servicecidrs",
        "ServiceCIDR",
        _NETWORK,
        namespaced=False,
        subresources=("status",),
        since=(1, 33),
    ),
    Resource("ipaddresses", "IPAddress", _NETWORK, namespaced=False, short=("ip",), since=(1, 33)),
    Resource(
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        "policy",
        short=("pdb",),
        subresources=("status",),
        generation=True,
    ),
    Resource("clusterrolebindings", "ClusterRoleBinding", _RBAC, namespaced=False),
    Resource("clusterroles", "ClusterRole", _RBAC, namespaced=False),
    Resource("rolebindings", "RoleBinding", _RBAC),
    Resource("roles", "Role", _RBAC),
    Resource(
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        _ADMISSION,
        namespaced=False,
        generation=True,
    ),
    Resource("tokenreviews", "TokenReview", "authentication.k8s.io", namespaced=False, verbs=_CREATE),
    Resource(
        "selfsubjectreviews", "SelfSubjectReview", "authentication.k8s.io", namespaced=False, verbs=_CREATE
    ),
    Resource("localsubjectaccessreviews", "LocalSubjectAccessReview", _AUTHORIZATION, verbs=_CREATE),
    Resource(
        "selfsubjectaccessreviews", "SelfSubjectAccessReview", _AUTHORIZATION, namespaced=False, verbs=_CREATE
    ),
    Resource(
        "selfsubjectrulesreviews", "SelfSubjectRulesReview", _AUTHORIZATION, namespaced=False, verbs=_CREATE
    ),
    Resource("subjectaccessreviews", "SubjectAccessReview", _AUTHORIZATION, namespaced=False, verbs=_CREATE),
)

BY_PATH: dict[tuple[str, str, str], Resource] = {(r.group, r.version, r.plural): r for r in RESOURCES}
BY_PLURAL: dict[str, Resource] = {r.plural: r for r in RESOURCES}
BY_KIND: dict[tuple[str, str], Resource] = {(r.group_version, r.kind): r for r in RESOURCES}


def resource_of(obj: dict[str, object]) -> Resource:
    """Return the resource that serves an object of this apiVersion and kind; KeyError when none does."""
    return BY_KIND[str(obj.get("apiVersion", "")), str(obj.get("kind", ""))]
