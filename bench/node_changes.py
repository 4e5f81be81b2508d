"""`python -m bench.node_changes CHANGES`: from a node in the cluster to a route on this workstation.

Runs where inroad is connected, as who has a kubeconfig. Nodes with a pod subnet each are created and
deleted by turns; printed is, as JSON, the milliseconds from before each request until the kernel told of the
route's coming or going.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from ipaddress import ip_network

from inroad.core.host_config import ROUTE_TABLE
from inroad.host.routes.rtnetlink import GROUPS, RTM_DELROUTE, RTM_NEWROUTE, messages, parse_shape
from inroad.kube import credentials
from inroad.kube.client import ApiClient
from inroad.kube.credentials import PluginOutput
from inroad.kube.exec_plugin import Invocation

PATIENCE = 30.0
NODES = "/api/v1/nodes"


def subnet(number: int) -> str:
    """Return the pod subnet of a node that nobody else has."""
    return f"10.251.{number % 256}.0/24"


class Routes:
    """Hears of the routes in inroad's table."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self._socket.setblocking(False)
        self._socket.bind((0, GROUPS))

    async def until(self, kind: int, network: str) -> None:
        """Return when a route to the network has come (RTM_NEWROUTE) or gone (RTM_DELROUTE)."""
        wanted = ip_network(network)
        key = (wanted.network_address.packed, wanted.prefixlen)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            while True:
                data = await loop.sock_recv(self._socket, 1 << 18)
                for told, _, _, body in messages(data):
                    if told == kind and parse_shape(body)[:2] == (ROUTE_TABLE, key):
                        return


def no_plugin(invocation: Invocation) -> PluginOutput:
    """The sandbox's kubeconfig needs none."""
    raise SystemExit(f"{invocation.argv[0]} is not run here")


async def main(changes: int) -> None:
    """Measure and print."""
    client = ApiClient(credentials.load("", "", os.environ, no_plugin))
    routes, took = Routes(), []
    try:
        for number in range(changes):
            name, cidr = f"bench-node-{number // 2}", subnet(number // 2)
            begun = time.monotonic()
            if number % 2 == 0:
                body = {"metadata": {"name": name}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}}
                await client.create(NODES, {"apiVersion": "v1", "kind": "Node", **body})
                await routes.until(RTM_NEWROUTE, cidr)
            else:
                await client.delete(f"{NODES}/{name}")
                await routes.until(RTM_DELROUTE, cidr)
            took.append((time.monotonic() - begun) * 1e3)
    finally:
        await client.close()
    print(json.dumps(took))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
