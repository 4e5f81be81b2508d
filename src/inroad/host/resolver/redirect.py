"""Leading packets for the host's name servers to ours: what is wanted, and how it is written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import Protocol

from inroad.core.host_config import Address

NAME = "inroad_dns"
"""Our nftables table; in capitals, our iptables chain."""
PRIORITY = -110
"""Before Docker's and everybody's DNAT (-100), behind connection tracking (-200)."""

Target = tuple[Address, int]


@dataclass(frozen=True, slots=True)
class Redirection:
    """Packets of this host to port `port` of `servers`, UDP and TCP, go to `target` of their family.

    Those with `mark` go where they were sent. A server of a family without target is left alone.
    """

    servers: tuple[Address, ...]
    targets: tuple[Target, ...]
    mark: int
    port: int = 53

    def pairs(self) -> list[tuple[Target, tuple[Address, ...]]]:
        """List each family's target with its servers, families without either left out."""
        found = []
        for target in self.targets:
            servers = tuple(server for server in self.servers if server.version == target[0].version)
            if servers:
                found.append((target, servers))
        return found


class Redirect(Protocol):
    """Puts a `Redirection` into the kernel."""

    tool: str
    on_lost: Callable[[], None]
    """Called when the rules went without our doing."""

    async def set(self, wanted: Redirection | None) -> None:
        """Make the kernel's rules of ours be `wanted`, at once; None removes them.

        Raises `HostChangeFailed` or `ToolMissing`, and leaves the rules as they were.
        """

    async def close(self) -> None:
        """Remove the rules. Idempotent."""


def nft_commands(wanted: Redirection) -> str:
    """Write the whole table as one line of nft commands, which the kernel takes as one change.

    The table belongs to the process that makes it (`flags owner`, Linux 5.12) and dies with it.
    """
    commands = [
        f"add table inet {NAME} {{ flags owner; }}",
        f"add chain inet {NAME} output {{ type nat hook output priority {PRIORITY}; policy accept; }}",
        f"flush chain inet {NAME} output",
        f"add rule inet {NAME} output meta mark {wanted.mark:#x} return",
    ]
    for (address, port), servers in wanted.pairs():
        family = "ip" if isinstance(address, IPv4Address) else "ip6"
        goal = f"{address}:{port}" if family == "ip" else f"[{address}]:{port}"
        commands.append(
            f"add rule inet {NAME} output {family} daddr {{ {', '.join(map(str, servers))} }} "
            f"meta l4proto {{ tcp, udp }} th dport {wanted.port} dnat {family} to {goal}"
        )
    return "; ".join(commands)


def iptables_rules(wanted: Redirection, version: int) -> list[str]:
    """List the rules of our chain, for `iptables` (4) or `ip6tables` (6), without the chain's name."""
    rules = [f"-m mark --mark {wanted.mark:#x} -j RETURN"]
    for (address, port), servers in wanted.pairs():
        if address.version == version:
            goal = f"{address}:{port}" if version == 4 else f"[{address}]:{port}"
            rules += [
                f"-d {server} -p {protocol} --dport {wanted.port} -j DNAT --to-destination {goal}"
                for server in servers
                for protocol in ("udp", "tcp")
            ]
    return rules


def addresses_of(servers: Sequence[tuple[str, int]]) -> tuple[Address, ...]:
    """Return the addresses of name servers on port 53, without scopes and doubles."""
    return tuple(dict.fromkeys(ip_address(host.partition("%")[0]) for host, port in servers if port == 53))
