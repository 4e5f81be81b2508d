"""Is this workstation inside the cluster's network already, being a node or a pod itself?

Routes alone can't tell: an office network may have the cluster's numbers. So a pod of the traffic-manager
is asked, past the VIF; only its own answer counts. Services need a node's rules besides (kube-proxy's), so
the cluster's name server is asked by its service address. Where that answers, their subnets are left alone
too: those rules would send a packet on to a pod with the VIF's source address, and no other node can answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from inroad.core.host_config import Network
from inroad.core.routing import inside_candidates
from inroad.daemon.cluster_view import ClusterView
from inroad.host.routes.api import HostRoute
from inroad.host.routes.choose import OWN_MARK
from inroad.host.routes.reach import answers, resolves

HEALTH_PORT = 15702


async def find(
    cluster: ClusterView, routes: Sequence[HostRoute], own: str, *, routed: bool
) -> frozenset[Network]:
    """Return the subnets that this host reaches without us; usually none, and then nothing is tried.

    `routed`: routes of ours are there. Where sockets can't be marked (macOS, Windows), nothing passes the
    VIF by any more then, and the earlier answer stands.
    """
    if routed and not OWN_MARK:
        return frozenset(cluster.inside)
    services = {ip_network(one.cidr) for one in cluster.info.subnets if one.kind == "service"}
    candidates = (inside_candidates(cluster.plan(), routes, (), own) | cluster.inside) - services
    if not candidates or not cluster.info.pod_ips:
        return frozenset()
    patience = cluster.settings.config.connectivity_check
    asked = (
        answers(address, HEALTH_PORT, mark=OWN_MARK, timeout=patience) for address in cluster.info.pod_ips
    )
    if not any(await asyncio.gather(*asked)):
        return frozenset()
    server = cluster.info.dns_ip
    if server and any(ip_address(server) in network for network in services):
        name = f"kubernetes.default.svc.{cluster.info.domain}"
        if await resolves(server, name, mark=OWN_MARK, timeout=patience):
            candidates |= services
    return frozenset(candidates)
