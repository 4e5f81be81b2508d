"""The cables between the machines, and the one door from the workstation to the cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from tests.e2e.cluster.machine import Machine, MachineFailed

API_PORT = 6443
API_ADDRESS = "192.168.190.2"
LAN_ADDRESS = "192.168.190.1"
WORKSTATION_ADDRESS = "192.168.190.10"
NODE_NETWORK, NODE_NETWORK_V6 = "172.18.0", "fd00:172:18::"
POD_CIDRS = "10.244.0.0/16,fd00:10:244::/56"
SERVICE_CIDRS = "10.96.0.0/16,fd00:10:96::/112"
CLUSTER_DNS = "10.96.0.10"

# What the workstation may send to the cluster: the API server's port. Everything else is dropped, as between
# an office and a cluster's private network; what the cluster sends to the office leaves with a translated
# address. Priority -150 is before kube-proxy's own chains.
DOOR = f"""
table inet door {{
    chain arriving {{
        type filter hook prerouting priority -150; policy accept;
        iifname "lan0" ct state established,related accept
        iifname "lan0" ip daddr {API_ADDRESS} tcp dport {API_PORT} accept
        iifname "lan0" meta l4proto ipv6-icmp accept
        iifname "lan0" drop
    }}
    chain leaving {{
        type nat hook postrouting priority 100; policy accept;
        oifname "lan0" masquerade
    }}
}}
"""


def node_addresses(number: int) -> tuple[str, str]:
    """Return a node's two addresses on the network between the nodes."""
    return f"{NODE_NETWORK}.{number + 1}", f"{NODE_NETWORK_V6}{number + 1}"


def cable(one: Machine, interface: str, other: Machine, far_interface: str) -> None:
    """Join two machines by a veth pair; neither end is ever in the host's own namespace."""
    add = (
        "ip",
        "link",
        "add",
        interface,
        "type",
        "veth",
        "peer",
        "name",
        far_interface,
        "netns",
        str(other.pid),
    )
    # Only its network: `pid` is the host's number, which the machine's own PID namespace does not know.
    done = subprocess.run(one.enter(add, ["--net"]), capture_output=True, text=True, check=False)
    if done.returncode:
        raise MachineFailed(f"{' '.join(add)}: {done.stderr}")
    one.run("ip", "link", "set", interface, "up")
    other.run("ip", "link", "set", far_interface, "up")


def connect_lan(lan: Machine, workstation: Machine, node_1: Machine) -> None:
    """Make the office network: workstation, name server and the API server's address on one bridge."""
    lan.run("ip", "link", "add", "br0", "type", "bridge")
    lan.run("ip", "address", "add", f"{LAN_ADDRESS}/24", "dev", "br0")
    lan.run("ip", "link", "set", "br0", "up")
    for machine, interface, address in (
        (workstation, "eth0", WORKSTATION_ADDRESS),
        (node_1, "lan0", API_ADDRESS),
    ):
        cable(lan, f"to-{machine.name}"[:15], machine, interface)
        lan.run("ip", "link", "set", f"to-{machine.name}"[:15], "master", "br0")
        machine.run("ip", "address", "add", f"{address}/24", "dev", interface)
    workstation.run("ip", "route", "add", "default", "via", LAN_ADDRESS)
    node_1.run("nft", "-f", "-", stdin=DOOR)


def connect_nodes(nodes: Sequence[Machine]) -> None:
    """Join the nodes by a bridge on the first one, and let them forward."""
    first = nodes[0]
    first.run("ip", "link", "add", "nodes0", "type", "bridge")
    for number, node in enumerate(nodes, start=1):
        interface = "nodes0"
        if node is not first:
            cable(first, f"to-{node.name}"[:15], node, interface)
            first.run("ip", "link", "set", f"to-{node.name}"[:15], "master", "nodes0")
        v4, v6 = node_addresses(number)
        node.run("ip", "address", "add", f"{v4}/24", "dev", interface)
        node.run("ip", "address", "add", f"{v6}/64", "dev", interface, "nodad")
        node.run("ip", "link", "set", interface, "up")
        # Service addresses are translated after routing, so they need a route, if only the default one.
        node.run(
            "ip", "route", "add", "default", "via", LAN_ADDRESS if node is first else node_addresses(1)[0]
        )
        v6_way = ("dev", interface) if node is first else ("via", node_addresses(1)[1])
        node.run("ip", "-6", "route", "add", "default", *v6_way)
        for setting in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            node.run("sysctl", "-q", "-w", f"{setting}=1")


def route_pods(nodes: Sequence[Machine], pod_cidrs: Sequence[Sequence[str]]) -> None:
    """Route each node's pod subnets on every other node, as a cloud's router or a network plugin does."""
    for node in nodes:
        for number, (other, cidrs) in enumerate(zip(nodes, pod_cidrs, strict=True), start=1):
            if other is node:
                continue
            for cidr in cidrs:
                via = node_addresses(number)[1 if ":" in cidr else 0]
                node.run("ip", "route", "replace", cidr, "via", via)
