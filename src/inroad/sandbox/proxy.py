"""Writes the service rules into every node's kernel whenever services or endpoints change.

Pure decisions are in `services.py`; here the store is read and `nft` is fed. Changes that come together are
written together: a burst costs one table.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import asyncio
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Any

from inroad.core.errors import SandboxFailed
from inroad.host.run import require, run_async, tool
from inroad.sandbox.apiserver.collection import Change
from inroad.sandbox.apiserver.store import Store
from inroad.sandbox.controller import Controller
from inroad.sandbox.services import Backend, Rules, ServicePort
from inroad.sandbox.state import Home
from inroad.sandbox.topology import Address, Topology

Json = dict[str, Any]
GATHER = 0.02
"""Seconds to wait for further changes before the table is written."""


class ServiceProxy(Controller):
    """kube-proxy for all nodes, the control plane included."""

    watches = ("services", "endpointslices")

    def __init__(self, store: Store, home: Home, topology: Topology) -> None:
        self.home = home
        self.topology = topology
        self._written: dict[str, str] = {}
        self._flows: set[tuple[Address, Address]] = set()
        super().__init__(store)

    def keys(self, plural: str, change: Change) -> Iterable[str]:
        """Everything is one table."""
        return ["all"]

    async def reconcile(self, key: str) -> None:
        """Write the table where it changed."""
        await asyncio.sleep(GATHER)
        ports = tuple(service_ports(self.store))
        addresses = frozenset(port.address for port in ports)
        places = ["control-plane", *(node.name for node in self.topology.nodes)]
        await asyncio.gather(*(self._write(place, addresses, ports) for place in places))
        flows = {
            (port.address, one.address) for port in ports if port.protocol == "udp" for one in port.backends
        }
        gone, self._flows = self._flows - flows, flows
        if gone:
            await asyncio.gather(*(self._forget(place, gone) for place in places))

    async def _write(self, place: str, addresses: frozenset[Any], ports: tuple[ServicePort, ...]) -> None:
        node = self.topology.node(place)
        text = Rules(
            service_networks=self.topology.service_networks,
            pods=self.topology.pod_networks,
            local_pods=node.pod_networks if node else (),
            addresses=addresses,
            ports=ports,
        ).text()
        if self._written.get(place) == text:
            return
        inside = f"--net={self.home.namespace_path(place)}"
        argv = [require("nsenter", "util-linux"), inside, require("nft", "nftables"), "-f", "-"]
        done = await run_async(argv, stdin=text)
        if not done.ok:
            raise SandboxFailed(f"nft refused the service rules of {place}: {done.stderr.strip()}")
        self._written[place] = text

    async def _forget(self, place: str, gone: set[tuple[Address, Address]]) -> None:
        """Have the kernel forget UDP flows to endpoints that are gone.

        UDP has no end: a client that keeps its port would be sent to the dead endpoint for as long as it
        speaks (kube-proxy's "stale" conntrack entries). TCP connections end by themselves.
        """
        conntrack = tool("conntrack")
        if conntrack is None:
            return
        inside = [require("nsenter", "util-linux"), f"--net={self.home.namespace_path(place)}", conntrack]
        for service, endpoint in gone:
            family = "ipv6" if service.version == 6 else "ipv4"
            match = ["-f", family, "-p", "udp", "--orig-dst", str(service), "--reply-src", str(endpoint)]
            await run_async([*inside, "-D", *match])  # it fails when there is no such flow


def service_ports(store: Store) -> Iterator[ServicePort]:
    """Yield every port of every service that has a cluster address, with its endpoints."""
    slices: dict[str, list[Json]] = {}
    for entry in store.collection("endpointslices").select(None):
        name = (entry.labels or {}).get("kubernetes.io/service-name", "")
        slices.setdefault(f"{entry.namespace}/{name}", []).append(entry.object())
    for entry in store.collection("services").select(None):
        spec = entry.object()["spec"]
        for text in spec.get("clusterIPs", ()):
            if text == "None":
                continue
            address = ip_address(text)
            mine = [one for one in slices.get(entry.key, ()) if one["addressType"] == f"IPv{address.version}"]
            for port in spec.get("ports", ()):
                yield ServicePort(
                    entry.key,
                    address,
                    port["protocol"].lower(),
                    port["port"],
                    tuple(backends(mine, port.get("name", ""), port["protocol"])),
                    port.get("nodePort", 0),
                )


def backends(slices: Iterable[Json], port_name: str, protocol: str) -> list[Backend]:
    """Return the endpoints of one port: the ready ones, else those that end but still serve."""
    ready: list[Backend] = []
    ending: list[Backend] = []
    for one in slices:
        numbers = [
            port["port"]
            for port in one.get("ports") or ()
            if port.get("name", "") == port_name and port.get("protocol", "TCP") == protocol
        ]
        for endpoint in one.get("endpoints") or ():
            conditions = endpoint.get("conditions", {})
            found = [Backend(ip_address(endpoint["addresses"][0]), number) for number in numbers]
            if conditions.get("ready", True):
                ready += found
            elif conditions.get("serving") and conditions.get("terminating"):
                ending += found
    return ready or ending
