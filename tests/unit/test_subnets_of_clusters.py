"""Clusters of the kinds found in the field -> the subnets that the traffic-manager tells.

The address plans follow the kinds' own documentation (kubeadm with flannel, EKS VPC CNI, GKE alias ranges,
Calico IPAM, Cilium cluster-pool, k3s, kind); the objects are built here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.core.errors import ConfigInvalid
from inroad.manager.pod_subnets import COVER_SOURCE, NODE_SOURCE, PodSubnets, Strategy, cover
from inroad.manager.service_subnets import cover as service_cover
from inroad.manager.service_subnets import from_error, outside
from inroad.manager.settings import Settings


@dataclass(frozen=True)
class Kind:
    """`nodes`: their podCIDRs. `pods`: addresses, comma-separated for dual stack."""

    nodes: tuple[str, ...]
    pods: tuple[str, ...]
    subnets: tuple[str, ...]
    own: str = ""
    avoid: tuple[str, ...] = ()
    cover_subnets: tuple[str, ...] = field(default=())
    """What `coverPodIPs` gives, where it differs."""


KINDS = {
    "kubeadm with flannel": Kind(
        nodes=("10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"),
        pods=("10.244.0.2", "10.244.0.3", "10.244.1.7", "10.244.2.9"),
        own="10.244.1.7",
        subnets=("10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"),
        cover_subnets=("10.244.0.0/22",),
    ),
    "a new cluster: only system pods on one node": Kind(
        nodes=("10.244.0.0/24", "10.244.1.0/24"),
        pods=("10.244.0.2", "10.244.0.3"),
        subnets=("10.244.0.0/24", "10.244.1.0/24"),
        cover_subnets=("10.244.0.0/24",),
    ),
    "EKS: addresses of the VPC, no podCIDR, the API server's interfaces between them": Kind(
        nodes=("", "", ""),
        pods=("192.168.12.44", "192.168.30.9", "192.168.41.201", "192.168.77.3"),
        avoid=("192.168.50.17",),
        subnets=("192.168.0.0/19", "192.168.41.0/24", "192.168.77.0/24"),
    ),
    "EKS with custom networking: pods in 100.64/16": Kind(
        nodes=("", ""),
        pods=("100.64.3.1", "100.64.80.5", "10.0.4.9"),
        subnets=("10.0.4.0/24", "100.64.0.0/17"),
    ),
    "GKE alias ranges: a /24 of the pod range for each node": Kind(
        nodes=("10.4.0.0/24", "10.4.3.0/24", "10.4.128.0/24"),
        pods=("10.4.0.5", "10.4.3.6", "10.4.128.7", "10.4.128.8"),
        subnets=("10.4.0.0/24", "10.4.3.0/24", "10.4.128.0/24"),
        cover_subnets=("10.4.0.0/16",),
    ),
    "GKE with 32 pods a node: podCIDRs are /26": Kind(
        nodes=("10.4.0.0/26", "10.4.0.64/26", "10.4.0.128/26"),
        pods=("10.4.0.5", "10.4.0.70", "10.4.0.130"),
        subnets=("10.4.0.0/26", "10.4.0.64/26", "10.4.0.128/26"),
        cover_subnets=("10.4.0.0/24",),
    ),
    "Calico: its own blocks, podCIDR is kubeadm's and unused": Kind(
        nodes=("10.244.0.0/24", "10.244.1.0/24"),
        pods=("172.16.77.128", "172.16.77.129", "172.16.201.3", "172.16.201.64"),
        own="172.16.77.129",
        subnets=("172.16.0.0/16",),
    ),
    "Cilium cluster-pool: CiliumNode has the ranges, podCIDR is unused": Kind(
        nodes=("10.42.0.0/24", "10.42.1.0/24"),
        pods=("10.0.0.12", "10.0.1.99", "10.0.2.3"),
        subnets=("10.0.0.0/22",),
    ),
    "k3s on one node": Kind(
        nodes=("10.42.0.0/24",), pods=("10.42.0.4", "10.42.0.5"), subnets=("10.42.0.0/24",)
    ),
    "kind": Kind(
        nodes=("10.244.0.0/24", "10.244.1.0/24"),
        pods=("10.244.0.2", "10.244.1.2"),
        subnets=("10.244.0.0/24", "10.244.1.0/24"),
        cover_subnets=("10.244.0.0/23",),
    ),
    "dual stack": Kind(
        nodes=("10.244.1.0/24,fd00:10:244:1::/64", "10.244.2.0/24,fd00:10:244:2::/64"),
        pods=("10.244.1.3,fd00:10:244:1::3", "10.244.2.3,fd00:10:244:2::3"),
        subnets=("10.244.1.0/24", "fd00:10:244:1::/64", "10.244.2.0/24", "fd00:10:244:2::/64"),
        cover_subnets=("10.244.0.0/22", "fd00:10:244:1::/64", "fd00:10:244:2::/64"),
    ),
    "single-stack IPv6": Kind(
        nodes=("fd00:10:244:1::/64",),
        pods=("fd00:10:244:1::a", "fd00:10:244:1::b"),
        subnets=("fd00:10:244:1::/64",),
    ),
    "IPv6 with a /80 a node (EKS prefix delegation): never tighter than /64": Kind(
        nodes=("",),
        pods=("2600:1f14:1:2:abcd::5", "2600:1f14:1:2:ef01::9"),
        subnets=("2600:1f14:1:2::/64",),
    ),
    "mixed: virtual nodes have no podCIDR, their pods are covered": Kind(
        nodes=("10.244.0.0/24", "10.244.1.0/24", ""),
        pods=("10.244.0.2", "10.244.1.2", "10.244.1.3", "10.8.5.1"),
        subnets=("10.244.0.0/24", "10.244.1.0/24", "10.8.5.0/24"),
        cover_subnets=("10.244.0.0/23", "10.8.5.0/24"),
    ),
    "nothing runs and nodes have no podCIDR": Kind(nodes=("",), pods=(), subnets=()),
}


def of(kind: Kind, strategy: Strategy = "auto") -> PodSubnets:
    own = (ip_address(kind.own),) if kind.own else ()
    subnets = PodSubnets(strategy, own=own, avoid={ip_address(text) for text in kind.avoid})
    for number, texts in enumerate(kind.nodes):
        networks = tuple(ip_network(text) for text in texts.split(",") if text)
        subnets.node(f"node-{number}", networks)
    for texts in kind.pods:
        subnets.pod((), texts.split(","))
    return subnets


@pytest.mark.parametrize("name", KINDS)
def test_auto(name: str) -> None:
    found = of(KINDS[name]).subnets()
    assert tuple(str(network) for network, _ in found) == KINDS[name].subnets


@pytest.mark.parametrize("name", KINDS)
def test_cover_pod_ips(name: str) -> None:
    found = of(KINDS[name], "coverPodIPs").subnets()
    assert {str(network) for network, _ in found} == set(KINDS[name].cover_subnets or KINDS[name].subnets)
    assert {source for _, source in found} <= {COVER_SOURCE}


def test_node_pod_cidrs_are_taken_even_where_no_pod_is_in_them() -> None:
    found = of(KINDS["Calico: its own blocks, podCIDR is kubeadm's and unused"], "nodePodCIDRs").subnets()
    assert [str(network) for network, source in found if source == NODE_SOURCE] == [
        "10.244.0.0/24",
        "10.244.1.0/24",
    ]


def test_environment_is_verbatim() -> None:
    networks = (ip_network("10.0.0.0/8"), ip_network("10.1.0.0/16"))
    assert PodSubnets("environment", networks).subnets() == [(network, "podCIDRs") for network in networks]


def test_a_pod_that_goes_leaves_nothing_and_only_new_blocks_matter() -> None:
    subnets = PodSubnets()
    assert subnets.pod((), ["10.1.0.1"]) is True
    assert subnets.pod((), ["10.1.0.2"]) is False
    assert subnets.pod(["10.1.0.1"], ["10.1.0.3"]) is False
    assert subnets.pod(["10.1.0.2"], ()) is False
    assert subnets.pod(["10.1.0.3"], ["10.2.0.3"]) is True
    assert [str(network) for network, _ in subnets.subnets()] == ["10.2.0.0/24"]
    assert subnets.pod(["10.2.0.3"], ()) is True
    assert subnets.subnets() == []


def test_a_node_that_goes_takes_its_subnet_along() -> None:
    subnets = of(KINDS["kind"])
    subnets.node("node-1", None)
    assert {str(network): source for network, source in subnets.subnets()} == {
        "10.244.0.0/24": NODE_SOURCE,
        "10.244.1.0/24": COVER_SOURCE,
    }


addresses = st.lists(st.builds(IPv4Address, st.integers(0x0A000000, 0x0A03FFFF)), min_size=1, max_size=40)


@given(addresses, st.lists(st.builds(IPv4Address, st.integers(0x0A000000, 0x0A03FFFF)), max_size=3))
def test_a_cover_holds_every_pod_and_keeps_out_what_it_can(
    pods: list[IPv4Address], avoid: list[IPv4Address]
) -> None:
    blocks = sorted({int(address) >> 8 for address in pods})
    networks = cover(4, blocks, avoid)
    for address in pods:
        assert sum(address in network for network in networks) == 1
    for network in networks:
        assert 16 <= network.prefixlen <= 24
        halves = list(network.subnets()) if network.prefixlen < 24 else []
        assert all(any(pod in half for pod in pods) for half in halves), "as tight as can be"
        for address in avoid:
            if address in network:
                assert int(address) >> 8 in blocks, "only a block with pods of its own takes it in"


def test_the_cover_is_the_same_in_whatever_order_pods_came() -> None:
    pods = [f"10.{number % 3}.{number % 7}.{number % 250 + 1}" for number in range(500)]
    results = set()
    for seed in range(5):
        subnets = PodSubnets()
        for text in random.Random(seed).sample(pods, len(pods)):
            subnets.pod((), [text])
        results.add(tuple(sorted(str(network) for network, _ in subnets.subnets())))
    assert len(results) == 1


IS_INVALID = 'Service "x" is invalid: spec.clusterIPs: Invalid value: '
VALID = "The range of valid IPs is "
ERRORS = {
    # Kubernetes 1.19
    'Service "x" is invalid: spec.clusterIP: Invalid value: "1.1.1.1": provided IP is not in the valid '
    f"range. {VALID}10.96.0.0/12": ("10.96.0.0/12",),
    # 1.20 and 1.21
    f'{IS_INVALID}[]string{{"1.1.1.1"}}: failed to allocated ip:1.1.1.1 with error:provided IP is not in the '
    f"valid range. {VALID}172.20.0.0/16": ("172.20.0.0/16",),
    # 1.22 to 1.32
    f'{IS_INVALID}[]string{{"1.1.1.1"}}: failed to allocate IP 1.1.1.1: the provided IP (1.1.1.1) is not in '
    f"the valid range. {VALID}10.43.0.0/16": ("10.43.0.0/16",),
    f'{IS_INVALID}[]string{{"1::1"}}: failed to allocate IP 1::1: the provided IP (1::1) is not in the valid '
    f"range. {VALID}fd00:10:96::/112": ("fd00:10:96::/112",),
    # 1.33 and later, a dry run, 1.34.4 and 1.35.4 alike: one of the ranges
    f'{IS_INVALID}["1.1.1.1"]: failed to allocate IP 1.1.1.1: the provided IP (1.1.1.1) is not in the valid '
    f"range. {VALID}10.97.0.0/24": ("10.97.0.0/24",),
    # 1.33 and later, had it not been a dry run: the allocator has several ranges and names none
    f'{IS_INVALID}["1.1.1.1"]: failed to allocate IP 1.1.1.1: the provided network does not match the '
    "current range": (),
    # a list of them
    f"{VALID}172.30.0.0/16,fd02::/112.": ("172.30.0.0/16", "fd02::/112"),
    "The range of valid ports is 30000-32767": (),
    "services is forbidden: exceeded quota: none": (),
    f"{VALID}10.96.0.0/99": (),
    "": (),
}


@pytest.mark.parametrize("text", ERRORS)
def test_ranges_in_error_messages(text: str) -> None:
    assert tuple(str(network) for network in from_error(text)) == ERRORS[text]


def test_addresses_outside_of_what_was_told() -> None:
    told = from_error(f"{VALID}10.96.0.0/16")
    assert outside(["10.96.3.4", "10.97.0.9", "fd00::1"], told) == ["10.97.0.9", "fd00::1"]


def test_cover_of_cluster_ips() -> None:
    seen = ["10.96.0.1", "10.96.200.3", "10.97.0.1", "172.20.0.10", "fd00:10:96::a", "fd00:10:96::b"]
    assert [str(network) for network in service_cover(seen)] == [
        "10.96.0.0/15",
        "172.20.0.0/16",
        "fd00:10:96::/112",
    ]
    assert service_cover([]) == ()


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"POD_CIDR_STRATEGY": "guess"}, "podCIDRStrategy is 'guess'"),
        ({"POD_CIDR_STRATEGY": "environment"}, "podCIDRs is empty"),
        ({"POD_CIDRS": "10.0.0.0/8, 10.300.0.0/16"}, "podCIDRs: '10.300.0.0/16'"),
        ({"NAMESPACE_SELECTOR": '{"matchNames": ["x"]}'}, "namespaceSelector: "),
        ({"SERVICE_CIDRS": "10.96.0.1/16"}, "serviceCIDRs: 10.96.0.1/16 has host bits set"),
    ],
)
def test_a_wrong_setting_is_named(environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        Settings.of(environ)
    assert words in caught.value.message


def test_a_namespace_selector_is_written_as_a_query_takes_it() -> None:
    labels = '"matchLabels": {"team": "shop", "env": "dev"}'
    expressions = (
        '{"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "x", "operator": "DoesNotExist"}, '
        '{"key": "y", "operator": "Exists"}, {"key": "z", "operator": "NotIn", "values": ["q"]}'
    )
    settings = Settings.of({"NAMESPACE_SELECTOR": f'{{{labels}, "matchExpressions": [{expressions}]}}'})
    assert settings.namespace_selector == "env=dev,team=shop,tier in (a,b),!x,y,z notin (q)"
