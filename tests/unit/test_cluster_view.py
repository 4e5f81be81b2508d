"""What the session does with what it is told of its cluster."""

from __future__ import annotations

from inroad.core.messages import ClusterInfo, Subnet
from inroad.daemon.cluster_view import ClusterView
from inroad.daemon.settings import Settings

PODS = Subnet("10.244.0.0/16", "pod", "node podCIDR")


def holes(cluster: ClusterView) -> list[str]:
    return [str(network) for network in cluster.plan().never]


async def test_an_api_server_that_moves_into_a_pod_subnet_stays_reachable() -> None:
    cluster = ClusterView("shop", Settings())
    cluster.update(ClusterInfo(1, (PODS,)))
    cluster.reached(("192.0.2.1",))
    assert holes(cluster) == []
    cluster.changed.clear()
    cluster.reached(("10.244.9.9", "192.0.2.1"))
    assert cluster.changed.is_set()
    assert holes(cluster) == ["10.244.9.9/32"]
    cluster.changed.clear()
    cluster.reached(("10.244.9.9", "192.0.2.1"))
    assert not cluster.changed.is_set(), "each new link is none"


async def test_name_servers_in_a_pod_subnet_are_left_to_the_host() -> None:
    cluster = ClusterView("shop", Settings())
    cluster.update(ClusterInfo(1, (PODS, Subnet("fd00:10:244::/48", "pod", "node podCIDR"))))
    cluster.name_servers = ("10.244.0.53", "fe80::1%eth0", "127.0.0.53", "fd00:10:244::53")
    assert holes(cluster) == ["10.244.0.53/32", "fd00:10:244::53/128"]
