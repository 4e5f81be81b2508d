"""The reverse zones of subnets: which names below `in-addr.arpa` and `ip6.arpa` their PTRs have."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from inroad.core.host_config import Network

MAX_ZONES = 256
"""systemd-resolved takes 1,024 domains a link at most, and each of them is tried for each name."""
MAX_SPLIT = 4
"""Bits that a subnet may be short of a whole zone: sixteen zones."""


def zones(subnets: Iterable[Network], limit: int = MAX_ZONES) -> tuple[str, ...]:
    """List the zones that cover all subnets and as little else as `limit` zones allow, in order.

    Zones end at octets (IPv4) or hexadecimal digits (IPv6), so 10.96.0.0/12 has sixteen. A subnet that
    would have more gets the one around it; too many of all subnets are joined to the next larger ones.
    """
    found = {network for subnet in subnets for network in _split(subnet)}
    while len(found) > limit:
        finest = max(map(_fineness, found))
        joined = {_wider(network) if _fineness(network) == finest else network for network in found}
        if joined == found:  # nothing but whole octets and digits is left
            break
        found = joined
    kept = {network for network in found if not any(_inside(network, other) for other in found)}
    return tuple(_zone(network) for network in sorted(kept, key=lambda n: (n.version, n)))


def _fineness(network: Network) -> float:
    """How long the prefix is, for both families on one scale; the shortest zones count as 0."""
    return network.prefixlen / network.max_prefixlen if network.prefixlen > _step(network) else 0.0


def _step(network: Network) -> int:
    return 8 if network.version == 4 else 4


def _split(subnet: Network) -> Iterable[Network]:
    step = _step(subnet)
    # A zone for nothing but the root of the tree does not exist: 0.0.0.0/0 has 256 zones.
    length = max(-(-subnet.prefixlen // step) * step, step)
    if length - subnet.prefixlen <= MAX_SPLIT or length == step:
        return subnet.subnets(new_prefix=length)
    return (subnet.supernet(new_prefix=length - step),)


def _wider(network: Network) -> Network:
    step = _step(network)
    return network.supernet(new_prefix=max(network.prefixlen - step, step))


def _inside(network: Network, other: Network) -> bool:
    return (
        network.version == other.version and network != other and network.subnet_of(other)  # type: ignore[arg-type]
    )


def _zone(network: Network) -> str:
    step = _step(network)
    pointer = network.network_address.reverse_pointer.split(".")
    skipped = (network.max_prefixlen - network.prefixlen) // step
    return ".".join(pointer[skipped:])


def covering(zone: str) -> Network:
    """Return the subnet whose addresses' PTRs lie in `zone`; the reverse of `zones`."""
    labels = zone.split(".")
    digits = labels[-3::-1]
    if labels[-2] == "in-addr":
        octets = [*digits, "0", "0", "0", "0"][:4]
        return ip_network(f"{'.'.join(octets)}/{8 * len(digits)}")
    whole = "".join(digits).ljust(32, "0")
    groups = ":".join(whole[at : at + 4] for at in range(0, 32, 4))
    return ip_network(f"{groups}/{4 * len(digits)}")
