"""Where our policy rule stands among the rules of others.

`not fwmark OURS lookup OURTABLE` must come before the first rule that could send an ordinary local packet
elsewhere: WireGuard's `not fwmark X lookup X` (wg-quick, just above main), Tailscale's `lookup 52` (5270),
or main itself. Rules that only match what a program marked or bound (Tailscale's own packets, 5210-5250;
source-based routing; VRFs) are somebody's exception and stay before ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from inroad.core.host_config import FWMARK, ROUTE_TABLE, Network
from inroad.host.routes.rtnetlink import AF_INET, AF_INET6, PROTOCOL, RT_TABLE_LOCAL, Rule

_EXCEPTIONS = frozenset({"from", "iif", "oif", "l3mdev", "tun_id"})
"""Selectors that an unbound local socket's first lookup never matches."""


def is_ours(rule: Rule) -> bool:
    """True for a rule that a daemon of ours put there."""
    return rule.table == ROUTE_TABLE and rule.fwmark == FWMARK and rule.invert


def shadows(rule: Rule, subnets: Iterable[Network]) -> bool:
    """Tell whether a packet of an ordinary program to one of `subnets` may end at `rule`."""
    if rule.table == RT_TABLE_LOCAL or rule.selectors & _EXCEPTIONS:
        return False
    if rule.fwmark and not rule.invert:
        return False
    to = rule.to
    return to is None or any(to.version == net.version and to.overlaps(net) for net in subnets)


def wanted_rule(rules: Sequence[Rule], family: int, subnets: Sequence[Network]) -> Rule:
    """Return our rule for `family`, placed among `rules`, which are in the kernel's order.

    A rule of ours that already stands before every shadowing rule is kept where it is.
    """
    others = [rule for rule in rules if rule.family == family and not is_ours(rule)]
    first = next((rule.priority for rule in others if shadows(rule, subnets)), 32_766)
    for rule in rules:
        if rule.family == family and is_ours(rule) and rule.priority < first and rule.protocol == PROTOCOL:
            return ours(family, rule.priority)
    return ours(family, max(first - 1, 0))


def ours(family: int, priority: int) -> Rule:
    """Return our rule at `priority`."""
    return Rule(
        family, priority, ROUTE_TABLE, invert=True, fwmark=FWMARK, fwmask=0xFFFFFFFF, protocol=PROTOCOL
    )


FAMILIES = {4: AF_INET, 6: AF_INET6}
