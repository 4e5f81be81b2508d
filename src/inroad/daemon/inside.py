"""Is this workstation inside the cluster's network already, being a node or a pod itself?

Routes alone can't tell: an office network may have the cluster's numbers. So a pod of the traffic-manager
is asked, past the VIF; only its own answer counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from inroad.core.host_config import Network
from inroad.core.routing import inside_candidates
from inroad.daemon.cluster_view import ClusterView
from inroad.host.choose import OWN_MARK
from inroad.host.routes.api import HostRoute
from inroad.host.routes.reach import answers

HEALTH_PORT = 15702


async def find(
    cluster: ClusterView, routes: Sequence[HostRoute], own: str, *, routed: bool
) -> frozenset[Network]:
    """Return the pod subnets that this host reaches without us; usually none, and then nothing is tried.

    `routed`: routes of ours are there. Where sockets can't be marked (macOS, Windows), nothing passes the
    VIF by any more then, and the earlier answer stands.
    """
    if routed and not OWN_MARK:
        return frozenset(cluster.inside)
    candidates = inside_candidates(cluster.plan(), routes, (), own) | set(cluster.inside)
    if not candidates or not cluster.info.pod_ips:
        return frozenset()
    patience = cluster.settings.config.connectivity_check
    asked = (
        answers(address, HEALTH_PORT, mark=OWN_MARK, timeout=patience) for address in cluster.info.pod_ips
    )
    return frozenset(candidates) if any(await asyncio.gather(*asked)) else frozenset()
