"""Which subnets the cluster's pods are in: the nodes' podCIDRs, or a cover of the pods' addresses.

Pure, and told of one change at a time. Pod addresses are only counted by block (IPv4 /24, IPv6 /64):
that is as tight as a cover gets, so a pod event costs two dict operations and 100,000 pods some
thousands of counters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal

from inroad.core.host_config import Address, Network

Strategy = Literal["auto", "nodePodCIDRs", "coverPodIPs", "environment"]

BLOCK = {4: 24, 6: 64}
"""Prefix length of the tightest cover of each family."""
GROUP = {4: 16, 6: 64}
"""Prefix length of the widest cover: addresses further apart get covers of their own."""
BITS = {4: 32, 6: 128}

NODE_SOURCE = "node podCIDR"
COVER_SOURCE = "cover of pod IPs"
ENVIRONMENT_SOURCE = "podCIDRs"

Found = list[tuple[Network, str]]
"""Subnets with where they came from."""


@dataclass
class PodSubnets:
    """The pods' addresses and the nodes' subnets as known now.

    `configured` are the subnets of the strategy `environment`. `avoid`: addresses that a cover must not
    take in if it can be helped (the API server's own). `own`: the manager's pod addresses.
    """

    strategy: Strategy = "auto"
    configured: Sequence[Network] = ()
    own: tuple[Address, ...] = ()
    avoid: set[Address] = field(default_factory=set)
    _nodes: dict[str, tuple[Network, ...]] = field(default_factory=dict)
    _blocks: dict[int, Counter[int]] = field(default_factory=lambda: {4: Counter(), 6: Counter()})

    def node(self, name: str, networks: tuple[Network, ...] | None) -> None:
        """A node has these subnets now; None: it is gone."""
        if networks is None:
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = networks

    def pod(self, old: Iterable[str], new: Iterable[str]) -> bool:
        """A pod's addresses changed; returns whether that can change the subnets."""
        changed = False
        for text in old:
            version, block = _block(text)
            counter = self._blocks[version]
            counter[block] -= 1
            if not counter[block]:
                del counter[block]
                changed = True
        for text in new:
            version, block = _block(text)
            counter = self._blocks[version]
            counter[block] += 1
            changed |= counter[block] == 1
        return changed

    def subnets(self) -> Found:
        """Return the pods' subnets by the strategy."""
        if self.strategy == "environment":
            return [(network, ENVIRONMENT_SOURCE) for network in self.configured]
        nodes = self._node_networks()
        if self.strategy == "coverPodIPs" or not (nodes and self._viable(nodes)):
            return self._cover(())
        return [(network, NODE_SOURCE) for network in nodes] + self._cover(nodes)

    def _node_networks(self) -> list[Network]:
        """Return the nodes' subnets, each once, in order."""
        return list(dict.fromkeys(network for networks in self._nodes.values() for network in networks))

    def _viable(self, nodes: Sequence[Network]) -> bool:
        """Tell whether pods really get their addresses from the nodes' subnets.

        Calico and clouds hand out others and leave podCIDR as a leftover of kubeadm.
        """
        if self.strategy == "nodePodCIDRs":
            return True
        if any(address in network for address in self.own for network in nodes):
            return True
        inside = _Blocks(nodes)
        total = within = 0
        for version, counter in self._blocks.items():
            for block, count in counter.items():
                total += count
                within += count if inside.touch(version, block) else 0
        return 0 < total <= within * 2

    def _cover(self, apart_from: Sequence[Network]) -> Found:
        """Cover the addresses outside of the nodes' subnets."""
        inside = _Blocks(apart_from)
        found: Found = []
        for version, counter in self._blocks.items():
            blocks = sorted(block for block in counter if not inside.touch(version, block))
            found += [(network, COVER_SOURCE) for network in cover(version, blocks, self.avoid)]
        return found


class _Blocks:
    """Answers whether a block and one of many networks have addresses in common, quickly."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._wide: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for network in networks:
            version, length = network.version, min(network.prefixlen, BLOCK[network.version])
            prefixes = self._wide[version].setdefault(BLOCK[version] - length, set())
            prefixes.add(int(network.network_address) >> (BITS[version] - length))

    def touch(self, version: int, block: int) -> bool:
        """Tell it for block number `block`, which is an address without its last bits."""
        return any(block >> shift in prefixes for shift, prefixes in self._wide[version].items())


def cover(version: int, blocks: Sequence[int], avoid: Iterable[Address]) -> list[Network]:
    """Return the smallest sensible subnets around blocks (sorted numbers).

    One subnet for each group, tightened to its blocks' longest common prefix, and split where it would
    take in an address of `avoid`, as far as blocks allow.
    """
    shift = BLOCK[version] - GROUP[version]
    low = BITS[version] - BLOCK[version]
    kept_out = [int(address) >> low for address in avoid if address.version == version]
    groups: dict[int, list[int]] = {}
    for block in blocks:
        groups.setdefault(block >> shift, []).append(block)
    return [network for group in groups.values() for network in _split(version, group, kept_out)]


def _split(version: int, blocks: list[int], kept_out: Sequence[int]) -> list[Network]:
    """Return one subnet around `blocks`, or those around its halves where that keeps an address out."""
    free = (blocks[0] ^ blocks[-1]).bit_length()
    prefix = blocks[0] >> free
    if not free or not any(block >> free == prefix and block not in blocks for block in kept_out):
        return [_network(version, prefix << free, BLOCK[version] - free)]
    middle = ((prefix << 1) | 1) << (free - 1)
    lower = [block for block in blocks if block < middle]
    upper = [block for block in blocks if block >= middle]
    return _split(version, lower, kept_out) + _split(version, upper, kept_out)


def _network(version: int, block: int, length: int) -> Network:
    address = block << (BITS[version] - BLOCK[version])
    return IPv4Network((address, length)) if version == 4 else IPv6Network((address, length))


def _block(text: str) -> tuple[int, int]:
    """Return (4 or 6, block number) of an address."""
    address = ip_address(text)
    return address.version, int(address) >> (BITS[address.version] - BLOCK[address.version])


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Parse CIDRs; host bits are allowed. Raises `ValueError` naming the wrong one."""
    return tuple(ip_network(text.strip(), strict=False) for text in texts if text.strip())
