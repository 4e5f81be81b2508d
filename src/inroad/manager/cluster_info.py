"""Reads the cluster and works out what clients need: subnets, namespaces, domain, names that changed.

Reflectors feed `PodSubnets` and small dicts; a change that matters marks the state as old, and a moment
later (`Debounce`) the newest whole state is computed and handed over. A state is never queued.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import msgspec
import structlog

from inroad.core.host_config import Network
from inroad.core.messages import ClusterInfo, Subnet
from inroad.kube.client import ApiClient
from inroad.kube.reflector import Key
from inroad.manager import objects, service_subnets
from inroad.manager.debounce import Debounce
from inroad.manager.followed import Collections, Followed
from inroad.manager.pod_subnets import PodSubnets, parse_networks
from inroad.manager.settings import Settings

MAX_NAMES = 1_000
"""Changed names to one message: with 320 bytes each at most it stays far below a frame's size."""

log = structlog.get_logger()


class ClusterInfoSource:
    """Calls `on_change` with the whole state whenever it changed, `on_names` with services that did."""

    def __init__(
        self,
        client: ApiClient,
        *,
        on_change: Callable[[ClusterInfo], None],
        on_names: Callable[[tuple[str, ...]], None] = lambda names: None,
        settings: Settings | None = None,
        resolv_conf: Path = Path("/etc/resolv.conf"),
    ) -> None:
        self._client = client
        self._on_change = on_change
        self._on_names = on_names
        self._settings = settings or Settings.of(os.environ)
        self._resolv_conf = resolv_conf
        self._pods = PodSubnets(
            self._settings.pod_cidr_strategy, self._settings.pod_cidrs, self._settings.pod_addresses
        )
        self._asked: tuple[Network, ...] = ()
        self._generation = 0
        self._last: ClusterInfo | None = None
        self._changed_names: set[str] = set()
        self._asking: asyncio.Task[None] | None = None
        self._publish = Debounce(self._publish_now)
        self._collections = Collections(client, self._settings.namespaces, self._publish)

    async def start(self) -> None:
        """Begin to read the cluster; the first state follows when all of it has been read."""
        core, networking, discovery = "/api/v1", "/apis/networking.k8s.io/v1", "/apis/discovery.k8s.io/v1"
        selector = self._settings.namespace_selector
        wanted = {"labelSelector": selector} if selector else {}
        for followed in (
            Followed(core, "nodes", objects.Node, objects.node_networks, self._node_changed),
            Followed(core, "pods", objects.Pod, objects.pod_addresses, self._pod_changed, namespaced=True),
            Followed(core, "namespaces", objects.Named, objects.exists, self._changed, params=wanted),
            Followed(
                core,
                "services",
                objects.Service,
                objects.service_addresses,
                self._service_changed,
                namespaced=True,
            ),
            Followed(networking, "servicecidrs", objects.ServiceCidr, objects.cidrs, self._changed),
            Followed(
                discovery,
                "endpointslices",
                objects.Slice,
                objects.endpoints,
                self._slice_changed,
                namespaced=True,
            ),
        ):
            self._collections.follow(followed)
        if not self._settings.service_cidrs:
            self._asking = asyncio.create_task(self._ask())

    async def close(self) -> None:
        """Stop reading."""
        self._publish.close()
        await self._collections.close()
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self) -> None:
        self._asked = await service_subnets.ask(self._client, self._settings.namespace)
        self._publish()

    @property
    def _ready(self) -> bool:
        return self._collections.settled and (self._asking is None or self._asking.done())

    def _changed(self, key: Key, old: object, new: object) -> None:
        del key, old, new
        self._publish()

    def _node_changed(self, key: Key, old: object, new: tuple[str, ...] | None) -> None:
        del old
        try:
            self._pods.node(key[1], parse_networks(new) if new is not None else None)
        except ValueError as error:
            log.warning("podCIDR not understood", node=key[1], error=str(error))
        self._publish()

    def _pod_changed(self, key: Key, old: tuple[str, ...] | None, new: tuple[str, ...] | None) -> None:
        del key
        if self._pods.pod(old or (), new or ()):
            self._publish()

    def _service_changed(self, key: Key, old: object, new: object) -> None:
        del old, new
        self._name_changed(key[1], key[0])

    def _slice_changed(
        self, key: Key, old: tuple[str, frozenset[str]] | None, new: tuple[str, frozenset[str]] | None
    ) -> None:
        """Endpoints are what a headless Service's name answers with; for others the ClusterIP is."""
        if new and key[0] == "default" and new[0] == "kubernetes":
            self._pods.avoid = {ip_address(address) for address in new[1] if _is_address(address)}
        for service in {found[0] for found in (old, new) if found}:
            addresses = self._collections.find("services", (key[0], service))
            if addresses is None or "None" in addresses:
                self._name_changed(service, key[0])

    def _name_changed(self, service: str, namespace: str) -> None:
        if self._generation:  # nobody has been told anything before
            self._changed_names.add(f"{service}.{namespace}")
        self._publish()

    def _publish_now(self) -> None:
        """Hand over the newest state, if it differs, and the names that changed."""
        if not self._ready:
            return
        names, self._changed_names = tuple(sorted(self._changed_names)), set()
        for start in range(0, len(names), MAX_NAMES):
            self._on_names(names[start : start + MAX_NAMES])
        state = self._state(self._generation)
        if state == self._last:
            return
        self._generation += 1
        self._last = msgspec.structs.replace(state, generation=self._generation)
        log.info("cluster", generation=self._generation, subnets=len(state.subnets))
        self._on_change(self._last)

    def _state(self, generation: int) -> ClusterInfo:
        services = [Subnet(str(network), "service", source) for network, source in self._service_subnets()]
        pods = [Subnet(str(network), "pod", source) for network, source in self._pods.subnets()]
        domain, dns_ip = _names(self._resolv_conf, self._settings.namespace)
        return ClusterInfo(
            generation=generation,
            subnets=(*services, *pods),
            namespaces=self._namespaces(),
            domain=domain,
            dns_ip=dns_ip,
            pod_ips=tuple(str(address) for address in self._settings.pod_addresses),
        )

    def _namespaces(self) -> tuple[str, ...]:
        """Return those that clients may map: the configured ones, whether they exist or not, else all."""
        found = (key[1] for key, _ in self._collections.items("namespaces"))
        return self._settings.namespaces or tuple(sorted(found))

    def _service_subnets(self) -> list[tuple[Network, str]]:
        """Return the first of the ways to know them that gives any."""
        configured = self._settings.service_cidrs
        if configured:
            return [(network, "serviceCIDRs") for network in configured]
        listed = parse_networks(
            cidr for _, cidrs in self._collections.items("servicecidrs") for cidr in cidrs
        )
        if listed:
            return [(network, "ServiceCIDR") for network in dict.fromkeys(listed)]
        services = self._collections.items("services")
        seen = [address for _, found in services for address in found if _is_address(address)]
        # With several ServiceCIDRs the API server names one of them, any: services show the others.
        rest = service_subnets.cover(service_subnets.outside(seen, self._asked))
        told = [(network, "API server's answer") for network in self._asked]
        return told + [(network, "cover of ClusterIPs") for network in rest]


def _is_address(text: str) -> bool:
    with suppress(ValueError):
        ip_address(text)
        return True
    return False


def _names(resolv_conf: Path, namespace: str) -> tuple[str, str]:
    """Return the cluster's domain and its DNS server's address, as this pod's resolv.conf has them."""
    domain, server = "cluster.local", ""
    try:
        lines = resolv_conf.read_text(errors="replace").splitlines()
    except OSError:
        return domain, server
    for words in (line.split() for line in lines):
        if words[:1] == ["nameserver"] and len(words) > 1:
            server = server or words[1]
        elif words[:1] == ["search"]:
            prefix = f"{namespace}.svc."
            domain = next((name[len(prefix) :] for name in words[1:] if name.startswith(prefix)), domain)
    return domain.rstrip("."), server
