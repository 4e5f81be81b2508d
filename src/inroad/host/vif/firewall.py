"""Which rule of the host's firewall is in the way, and what to do about it.

Only reads. Asked when a connection that reflection sent back into the host did not arrive.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from inroad.host.run import run_async, tool

FAMILIES = {4: ("ip", "inet"), 6: ("ip6", "inet")}


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain on the input hook that drops or rejects: by policy, or by its last rule."""

    family: str
    table: str
    name: str
    why: str

    def __str__(self) -> str:
        return f"chain {self.family} {self.table} {self.name} ({self.why})"


def culprits(ruleset: list[dict[str, Any]], version: int) -> list[Chain]:
    """Return the input chains that drop what no rule of theirs accepts.

    `ruleset`: the list in the JSON of `nft -j list ruleset`. iptables-nft's chains are among them.
    """
    found = []
    for item in ruleset:
        chain = item.get("chain")
        if not chain or chain.get("hook") != "input" or chain["family"] not in FAMILIES[version]:
            continue
        identity = (chain["family"], chain["table"], chain["name"])
        rules = [
            rule["expr"]
            for entry in ruleset
            if (rule := entry.get("rule")) and (rule["family"], rule["table"], rule["chain"]) == identity
        ]
        ending = [key for expression in rules[-1] for key in expression] if rules else []
        if chain.get("policy") == "drop":
            found.append(Chain(*identity, "policy drop"))
        elif "drop" in ending or "reject" in ending:
            found.append(Chain(*identity, f"its last rule is {'drop' if 'drop' in ending else 'reject'}"))
    return found


def remedy(chains: list[Chain], interface: str) -> str:
    """Return what to type so that connections arriving on the VIF are let in."""
    if any(chain.table == "firewalld" for chain in chains):
        return f"firewall-cmd --zone=trusted --add-interface={interface}"
    if tool("ufw") is not None:
        return f"ufw allow in on {interface}"
    for chain in chains:
        if chain.table == "filter" and chain.name == "INPUT":
            command = "ip6tables" if chain.family == "ip6" else "iptables"
            return f"{command} -I INPUT -i {interface} -j ACCEPT"
        return f"nft insert rule {chain.family} {chain.table} {chain.name} iifname {interface} accept"
    return f"iptables -I INPUT -i {interface} -j ACCEPT (or the like of it in your firewall)"


async def explain(version: int, interface: str) -> tuple[str, str]:
    """Return what drops connections on the input hook ("" where it can't be told), and the remedy."""
    chains: list[Chain] = []
    nft = tool("nft")
    if nft is not None:
        listed = await run_async([nft, "-j", "list", "ruleset"])
        if listed.ok:
            chains = culprits(json.loads(listed.stdout)["nftables"], version)
    return ", ".join(map(str, chains)), remedy(chains, interface)
