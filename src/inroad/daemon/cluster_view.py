"""What the session knows of its cluster, and what it wants of host and resolver because of it."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network

from inroad.core import conflicts
from inroad.core.dns_policy import DnsPolicy
from inroad.core.errors import ConfigInvalid, NamespaceUnknown
from inroad.core.host_config import Network
from inroad.core.messages import ClusterInfo
from inroad.core.origin import Wishes, Workload
from inroad.core.routing import Routing, decide
from inroad.core.subnets import Plan, plan
from inroad.daemon.origins import Origins
from inroad.daemon.settings import Settings
from inroad.host.routes.api import HostRoute


def pinned(via: str, namespace: str) -> Workload | None:
    """Read `--via`: `deploy/NAME`, `sts/NAME` or `pod/NAME`; raises `ConfigInvalid`."""
    return workload(via, namespace) if via else None


def workload(text: str, namespace: str) -> Workload:
    """Read a workload's name as users write it; raises `ConfigInvalid`."""
    kind, _, name = text.partition("/")
    kinds = {"deployment": "deploy", "deploy": "deploy", "statefulset": "sts", "sts": "sts", "pod": "pod"}
    if kind not in kinds or not name:
        raise ConfigInvalid(f"{text!r} is no workload", "write deploy/NAME, sts/NAME or pod/NAME")
    return Workload(namespace, f"{kinds[kind]}/{name}")


class ClusterView:
    """The newest state that the manager pushed, and the decisions that follow from it.

    `known` is set with the first state, `changed` with each; whoever acts on a change clears it.
    `api_servers` and `name_servers` are the addresses of those that are reached without the VIF,
    `host_search` the workstation's own search domains.
    """

    def __init__(self, namespace: str, settings: Settings, via: Workload | None = None) -> None:
        self.namespace = namespace
        self.origins = Origins(Wishes(namespace, via))
        self.settings = settings
        self.warnings: list[str] = []
        self.info = ClusterInfo(generation=0)
        self.api_servers: tuple[str, ...] = ()
        self.name_servers: tuple[str, ...] = ()
        self.host_search: tuple[str, ...] = ()
        self.conflict_wishes = conflicts.Wishes()
        self.inside: frozenset[Network] = frozenset()
        self.routing = Routing()
        self.known = asyncio.Event()
        self.changed = asyncio.Event()
        self.on_names: Callable[[tuple[str, ...]], None] = lambda names: None

    def update(self, info: ClusterInfo) -> None:
        """Take the manager's newest state."""
        self.info = info
        self.warnings = self.settings.from_manager(info.client_config)
        self.known.set()
        self.changed.set()

    def reached(self, api_servers: tuple[str, ...]) -> None:
        """Take the addresses at which the API server was reached: it may have moved."""
        if api_servers != self.api_servers:
            self.api_servers = api_servers
            self.changed.set()

    def names_changed(self, names: tuple[str, ...]) -> None:
        """Services got other addresses."""
        self.on_names(names)

    def check_namespace(self, namespace: str) -> None:
        """Raise `NamespaceUnknown`, naming the nearest one, if the cluster has no such namespace."""
        known = self.info.namespaces
        if known and namespace not in known:
            near = difflib.get_close_matches(namespace, known, 1)
            raise NamespaceUnknown(
                f"the cluster has no namespace {namespace}",
                f"did you mean {near[0]}?" if near else "kubectl get namespaces",
            )

    def never(self) -> tuple[Network, ...]:
        """Return what must not be routed into the VIF: the API server, the workstation's name servers."""
        hosts = (host.partition("%")[0] for host in (*self.api_servers, *self.name_servers))
        return tuple(dict.fromkeys(ip_network(ip_address(host)) for host in hosts))

    def plan(self) -> Plan:
        """Return which subnets the VIF would get on a host without routes."""
        config = self.settings.config
        return plan(
            discovered=[(ip_network(one.cidr), one.source, one.kind) for one in self.info.subnets],
            also=config.also_proxy,
            never=config.never_proxy,
            always_never=self.never(),
            inside=self.inside,
        )

    def decide(self, routes: Sequence[HostRoute], own: str) -> None:
        """Decide what the VIF (`own`) gets beside the host's `routes`; raises `SubnetConflict`."""
        config = self.settings.config
        wishes = replace(
            self.conflict_wishes, allow=config.allow_conflicting, auto=config.auto_resolve_conflicts
        )
        self.routing = decide(self.plan(), routes, wishes, own=own, pools=config.virtual_subnets)

    def mapped_namespaces(self) -> tuple[str, ...]:
        """Return whose names resolve: those that the user mapped, else all that the manager knows."""
        return self.settings.config.mapped_namespaces or self.info.namespaces

    def search(self) -> tuple[str, ...]:
        """Return the search list: the connected namespace, then those of the attachments."""
        attached = (one.namespace for one in self.origins.wishes.attachments)
        return tuple(dict.fromkeys((self.namespace, *attached)))

    def dns_policy(self) -> DnsPolicy:
        """Return which names go to the cluster."""
        config = self.settings.config
        return DnsPolicy(
            namespace=self.namespace,
            attached=self.search()[1:],
            mapped_namespaces=self.mapped_namespaces(),
            cluster_domain=self.info.domain,
            routed_subnets=self.routing.subnets,
            include_suffixes=config.include_suffixes,
            exclude_suffixes=config.exclude_suffixes,
            excludes=config.excludes,
            mappings=config.mappings,
            search=self.host_search,
            lookup_timeout=int(config.lookup_timeout * 1000),
            recursion_check=config.recursion_check,
        )
