"""Services get addresses and node ports here, as `pkg/registry/core/service` gives them out.

The ranges are those of the ServiceCIDR objects, so that a range added at run time is used at once. What is
taken is noted when a service is committed, never before: a request that fails or is dry leaves nothing.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from inroad.sandbox.apiserver.resources import BY_PLURAL
from inroad.sandbox.apiserver.service_rules import family_of, pair_addresses, policy_causes, shape_causes
from inroad.sandbox.apiserver.status import ApiError, Cause, internal, invalid

Json = dict[str, Any]
Network = IPv4Network | IPv6Network

_SERVICES = BY_PLURAL["services"]
_NODE_PORTS = range(30000, 32768)
_DYNAMIC_OFFSET = 256
"""The lower part of a range (at most 256 addresses) is left for addresses that people choose."""


class ServiceAddresses:
    """Allocates for one cluster: its ranges in order of preference, its version (for the error texts)."""

    def __init__(self, version: tuple[int, int], choose: random.Random | None = None) -> None:
        self.version = version
        self._random = choose or random.Random()  # noqa: S311 -- addresses, not secrets
        self.taken: dict[str, str] = {}
        """Every allocated address and the `namespace/name` that has it."""
        self.ports: dict[tuple[str, int], str] = {}
        """Every node port as (protocol, port), and who has it."""

    def fill(
        self, obj: Json, before: Json | None, ranges: Sequence[Network], *, dry_run: bool = False
    ) -> None:
        """Complete families, addresses and node ports of a new or changed service, in place; 422 or 500."""
        name = obj["metadata"]["name"]
        spec = obj["spec"]
        old = before["spec"] if before else {}
        causes = shape_causes(spec)
        if causes:
            raise invalid(_SERVICES, name, causes)
        if spec["type"] == "ExternalName":
            for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
                spec.pop(key, None)
            return
        pair_addresses(spec, old)
        had, has = old.get("clusterIP"), spec.get("clusterIP")
        if had and has and had != has and old.get("type") != "ExternalName":
            value = self._list_text(spec["clusterIPs"])
            cause = Cause.invalid("spec.clusterIPs[0]", value, "may not change once set")
            raise invalid(_SERVICES, name, [cause])
        self._families(name, spec, old, ranges)
        owner = f"{obj['metadata'].get('namespace', '')}/{name}"
        if spec.get("clusterIP") != "None":
            self._addresses(name, owner, spec, ranges, dry_run=dry_run)
        self._node_ports(name, owner, spec, old)

    def note(self, obj: Json | None, before: Json | None) -> None:
        """Account for what a committed change took and gave back."""
        for service, take in ((before, False), (obj, True)):
            if service is None:
                continue
            owner = f"{service['metadata'].get('namespace', '')}/{service['metadata']['name']}"
            for address in service["spec"].get("clusterIPs", ()):
                if address != "None":
                    _book(self.taken, address, owner, take)
            for key in _node_port_keys(service["spec"]):
                _book(self.ports, key, owner, take)

    def _families(self, name: str, spec: Json, old: Json, ranges: Sequence[Network]) -> None:
        configured = list(dict.fromkeys(f"IPv{network.version}" for network in ranges))
        headless = spec.get("clusterIP") == "None"
        unselective = headless and not spec.get("selector")
        default = old.get("ipFamilyPolicy") or ("RequireDualStack" if unselective else "SingleStack")
        policy: str = spec.get("ipFamilyPolicy") or default
        spec["ipFamilyPolicy"] = policy
        addresses = [] if headless else [one for one in spec.get("clusterIPs", ()) if one]
        families: list[str] = list(spec.get("ipFamilies") or ())
        if old and policy == "SingleStack":
            if addresses == old.get("clusterIPs"):
                addresses = addresses[:1]
                spec["clusterIPs"] = addresses or spec.get("clusterIPs", [])[:1]
            if families == old.get("ipFamilies"):
                families = families[:1]
        causes = policy_causes(policy, addresses, families)
        for index, address in enumerate(addresses[len(families) :], len(families)):
            if family_of(address) in configured:
                families.append(family_of(address))
            else:
                causes.append(
                    Cause.invalid(
                        f"spec.clusterIPs[{index}]",
                        self._list_text(spec["clusterIPs"]),
                        f"{family_of(address)} is not configured on this cluster",
                    )
                )
        if not unselective:
            if policy == "RequireDualStack" and len(configured) < 2:
                why = "this cluster is not configured for dual-stack services"
                causes.append(Cause.invalid("spec.ipFamilyPolicy", f'"{policy}"', why))
            causes += [
                Cause.invalid(f"spec.ipFamilies[{index}]", f'"{family}"', "not configured on this cluster")
                for index, family in enumerate(families)
                if family not in configured
            ]
        if causes:
            raise invalid(_SERVICES, name, causes)
        families = families or configured[:1]
        if policy != "SingleStack" and len(families) == 1 and (unselective or len(configured) == 2):
            families.append("IPv6" if families[0] == "IPv4" else "IPv4")
        spec["ipFamilies"] = families
        if headless:
            spec["clusterIPs"] = ["None"]

    def _addresses(
        self, name: str, owner: str, spec: Json, ranges: Sequence[Network], *, dry_run: bool
    ) -> None:
        wanted = list(spec.get("clusterIPs") or ())
        result = []
        for index, family in enumerate(spec["ipFamilies"]):
            inside = [network for network in ranges if f"IPv{network.version}" == family]
            if index < len(wanted) and wanted[index]:
                result.append(self._claim(name, owner, spec, wanted[index], inside, dry_run=dry_run))
            else:
                result.append(self._next(inside))
        spec["clusterIPs"] = result
        spec["clusterIP"] = result[0]

    def _claim(
        self, name: str, owner: str, spec: Json, address: str, ranges: Sequence[Network], *, dry_run: bool
    ) -> str:
        address = str(ip_address(address))
        if self.taken.get(address) == owner:
            return address
        if not any(_usable(network, address) for network in ranges):
            raise self._outside(name, spec, address, ranges, dry_run=dry_run)
        if dry_run and self._has_objects():
            return address  # only the IPAddress object, which a dry run does not make, would collide
        if address in self.taken:
            raise self._not_allocated(name, spec, address, "provided IP is already allocated")
        return address

    def _next(self, ranges: Sequence[Network]) -> str:
        for network in ranges:
            first, last = 1, network.num_addresses - (2 if network.version == 4 else 1)
            last = min(last, 1 << 16)  # kube-apiserver too hands out at most 65,536 of an IPv6 range
            offset = min(max(16, network.num_addresses // 16), _DYNAMIC_OFFSET)
            for low, high in ((offset, last), (first, min(offset, last))):
                address = self._random_free(network, low, high)
                if address:
                    return address
        raise internal("failed to allocate a serviceIP: range is full")

    def _random_free(self, network: Network, low: int, high: int) -> str:
        """Return a free address between two offsets, starting at a random one; '' when all are taken."""
        size = high - low + 1
        if size <= 0:
            return ""
        start = self._random.randrange(size)
        for step in range(size):
            address = str(network[low + (start + step) % size])
            if address not in self.taken:
                return address
        return ""

    def _has_objects(self) -> bool:
        """Say whether ServiceCIDR and IPAddress objects are what addresses come from (1.33 and later)."""
        return self.version >= (1, 33)

    def _outside(
        self, name: str, spec: Json, address: str, ranges: Sequence[Network], *, dry_run: bool
    ) -> ApiError:
        """Return the error for an address that no range holds: clients read the range from it.

        With ServiceCIDR objects only a dry run names a range: it goes to one of the allocators, whichever a
        map's iteration gives, while a real request looks for the one that has the address.
        """
        valid = str(self._random.choice(ranges)) if ranges else ""
        if self.version < (1, 20):
            why = f"provided IP is not in the valid range. The range of valid IPs is {valid}"
            return invalid(_SERVICES, name, [Cause.invalid("spec.clusterIP", f'"{address}"', why)])
        if self.version < (1, 22):
            why = (
                f"failed to allocated ip:{address} with error:provided IP is not in the valid range. "
                f"The range of valid IPs is {valid}"
            )
            value = self._list_text(spec["clusterIPs"])
            return invalid(_SERVICES, name, [Cause.invalid("spec.clusterIPs", value, why)])
        if self._has_objects() and not dry_run:
            why = "the provided network does not match the current range"
        else:
            why = f"the provided IP ({address}) is not in the valid range. The range of valid IPs is {valid}"
        return self._not_allocated(name, spec, address, why)

    def _not_allocated(self, name: str, spec: Json, address: str, why: str) -> ApiError:
        value = self._list_text(spec["clusterIPs"])
        cause = Cause.invalid("spec.clusterIPs", value, f"failed to allocate IP {address}: {why}")
        return invalid(_SERVICES, name, [cause])

    def _list_text(self, values: Iterable[str]) -> str:
        """Print a list as the version does: Go's %#v at first, JSON since 1.33."""
        inside = ", ".join(f'"{value}"' for value in values)
        return f"[{inside}]".replace(", ", ",") if self._has_objects() else f"[]string{{{inside}}}"

    def _node_ports(self, name: str, owner: str, spec: Json, old: Json) -> None:
        if spec["type"] not in ("NodePort", "LoadBalancer"):
            for port in spec.get("ports", ()):
                port.pop("nodePort", None)
            return
        kept = {(p.get("protocol"), p.get("port")): p.get("nodePort") for p in old.get("ports", ())}
        chosen: set[tuple[str, int]] = set()
        for index, port in enumerate(spec.get("ports", ())):
            wanted = port.get("nodePort") or kept.get((port["protocol"], port["port"]))
            if not wanted:
                port["nodePort"] = self._free_port(port["protocol"], chosen)
                chosen.add((port["protocol"], port["nodePort"]))
                continue
            field = f"spec.ports[{index}].nodePort"
            if wanted not in _NODE_PORTS:
                why = "provided port is not in the valid range. The range of valid ports is 30000-32767"
                raise invalid(_SERVICES, name, [Cause.invalid(field, str(wanted), why)])
            if self.ports.get((port["protocol"], wanted), owner) != owner:
                why = "provided port is already allocated"
                raise invalid(_SERVICES, name, [Cause.invalid(field, str(wanted), why)])
            port["nodePort"] = wanted

    def _free_port(self, protocol: str, chosen: Collection[tuple[str, int]]) -> int:
        start = self._random.randrange(len(_NODE_PORTS))
        for step in range(len(_NODE_PORTS)):
            port = _NODE_PORTS[(start + step) % len(_NODE_PORTS)]
            if (protocol, port) not in self.ports and (protocol, port) not in chosen:
                return port
        raise internal("failed to allocate a nodePort: range is full")


def parse_ranges(cidrs: Iterable[str]) -> list[Network]:
    """Return CIDR texts as networks."""
    return [ip_network(cidr) for cidr in cidrs]


def _usable(network: Network, address: str) -> bool:
    one = ip_address(address)
    if one.version != network.version or one not in network or one == network.network_address:
        return False
    return network.version == 6 or one != network.broadcast_address


def _book(table: dict[Any, str], key: Any, owner: str, take: bool) -> None:
    if take:
        table[key] = owner
    elif table.get(key) == owner:
        del table[key]


def _node_port_keys(spec: Json) -> list[tuple[str, int]]:
    return [
        (port.get("protocol", "TCP"), port["nodePort"])
        for port in spec.get("ports", ())
        if port.get("nodePort")
    ]
