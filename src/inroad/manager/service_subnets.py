"""Which subnets the cluster's Services get their addresses from.

Kubernetes tells by ServiceCIDR objects since 1.33; before, and for whoever may not list them, only the
error of an impossible Service says it; the cover of the ClusterIPs that are seen is the last resort.

The error names a range in every release, as long as the request is a dry run. Since 1.33 it names one of
the cluster's ranges of that family, any of them, and without `dryRun` it names none (read from
kube-apiserver 1.34.4 and 1.35.4).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network

import structlog

from inroad.core.errors import InroadError
from inroad.core.host_config import Network
from inroad.kube.client import ApiClient
from inroad.kube.failures import ApiStatus

IMPOSSIBLE = {"IPv4": "1.1.1.1", "IPv6": "1::1"}
NARROWEST = {4: 16, 6: 112}
_CIDR = re.compile(r"[0-9A-Fa-f:.]*[0-9A-Fa-f:]/\d{1,3}")
_NAME = "inroad-service-subnet-probe"

log = structlog.get_logger()


def from_error(message: str) -> tuple[Network, ...]:
    """Return the CIDRs after "The range of valid IPs is" in the API server's message."""
    _, found, rest = message.partition("range of valid IPs is")
    networks = []
    for text in _CIDR.findall(rest) if found else ():
        try:
            networks.append(ip_network(text, strict=False))
        except ValueError:
            continue
    return tuple(dict.fromkeys(networks))


def outside(addresses: Iterable[str], networks: Iterable[Network]) -> list[str]:
    """Return the addresses that none of the networks holds."""
    known = tuple(networks)
    return [text for text in addresses if not any(ip_address(text) in network for network in known)]


def cover(addresses: Iterable[str]) -> tuple[Network, ...]:
    """Return the /16s (IPv6: /112s) that ClusterIPs are in, neighbours joined."""
    v4: set[IPv4Network] = set()
    v6: set[IPv6Network] = set()
    for text in addresses:
        address = ip_address(text)
        if address.version == 4:
            v4.add(IPv4Network((int(address), NARROWEST[4]), strict=False))
        else:
            v6.add(IPv6Network((int(address), NARROWEST[6]), strict=False))
    return (*collapse_addresses(sorted(v4)), *collapse_addresses(sorted(v6)))


async def ask(client: ApiClient, namespace: str) -> tuple[Network, ...]:
    """Ask for a Service that can't be, as a dry run, and read the error; () when it says nothing."""
    found: list[Network] = []
    for family, address in IMPOSSIBLE.items():
        try:
            found += await _ask(client, namespace, family, address)
        except InroadError as error:
            log.info("service subnet not told", family=family, error=str(error))
    return tuple(dict.fromkeys(found))


async def _ask(client: ApiClient, namespace: str, family: str, address: str) -> tuple[Network, ...]:
    path = f"/api/v1/namespaces/{namespace}/services"
    name = f"{_NAME}-{family.lower()}"
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"ports": [{"port": 443}], "clusterIP": address, "ipFamilies": [family]},
    }
    try:
        await client.create(path, body, {"dryRun": "All"})
    except ApiStatus as error:
        return from_error(error.message)
    try:  # it was possible, and a server that ignores dryRun has it now
        await client.delete(f"{path}/{name}")
    except ApiStatus as error:
        if error.status != 404:
            raise
    return ()
