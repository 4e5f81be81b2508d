"""Statuses as text. Pure: a status in, lines out; colours only where the caller says so."""

from __future__ import annotations

from collections.abc import Iterable

import click

from inroad.core.status import Outcome, Status, SubnetStatus

LABEL_WIDTH = 12
SHOWN_SUBNETS = 8


def rows(pairs: Iterable[tuple[str, str]]) -> str:
    """Align (label, value) pairs; pairs without a value are left out, values of several lines indented."""
    lines = []
    for label, value in pairs:
        first, *others = value.splitlines() or [""]
        if first:
            lines.append("  " + click.style(f"{label:<{LABEL_WIDTH}}", dim=True) + first)
            lines += [" " * (LABEL_WIDTH + 2) + other for other in others]
    return "\n".join(lines)


def subnets(found: list[SubnetStatus]) -> str:
    """One line a subnet, with its source; only the first few of many."""
    shown = found[:SHOWN_SUBNETS]
    width = max((len(subnet.cidr) for subnet in shown), default=0)
    lines = [f"{subnet.cidr:<{width}}  {subnet.source}" for subnet in shown]
    if len(found) > len(shown):
        lines.append(f"and {len(found) - len(shown)} more (inroad status -o json)")
    return "\n".join(lines)


def status_text(status: Status) -> str:
    """Return the text of `inroad status`."""
    head = _headline(status)
    warnings = [click.style("warning: ", fg="yellow") + warning for warning in status.warnings]
    if not status.connected:
        return "\n".join([head, *warnings])
    resolver, vif, tunnel, dns = status.resolver, status.vif, status.tunnel, status.dns
    link = tunnel.state
    if tunnel.state == "up":
        flows = f"{tunnel.flows} flow{'' if tunnel.flows == 1 else 's'}"
        link = f"up, round trip {tunnel.round_trip_ms:.1f} ms, {flows}"
    elif tunnel.since:
        link = f"{tunnel.state} since {tunnel.since}"
    table = rows(
        [
            ("context", status.context),
            ("cluster", f"{status.server} ({status.cluster_domain})"),
            ("namespace", status.namespace),
            ("manager", f"{tunnel.manager_pod or 'no pod'} in {status.manager_namespace}"),
            ("link", link),
            (
                "interface",
                f"{vif.name}, {vif.mode}: {vif.reason}" if vif.reason else f"{vif.name}, {vif.mode}",
            ),
            ("names", f"{resolver.kind}: {resolver.reason}" if resolver.reason else resolver.kind),
            (
                "dns server",
                f"{dns.address}:{dns.port}" + (f", else {', '.join(dns.fallback)}" * bool(dns.fallback)),
            ),
            ("origin", _origin(status)),
            ("attached", "\n".join(status.attachments)),
            ("subnets", subnets(status.subnets)),
            ("virtual", "\n".join(_moved(status))),
            ("never", "\n".join(status.never_proxy)),
            ("since", f"{status.since}, by {status.user}" if status.user else status.since),
        ]
    )
    return "\n".join([head, table, *warnings])


def _origin(status: Status) -> str:
    """Who dials and looks up, and why."""
    origin = status.origin
    who = "the traffic-manager" if origin.kind == "traffic-manager" else f"{origin.kind} agent {origin.pod}"
    path = f"; {origin.path}" if origin.path.kind else ""
    return f"{who}: {origin.reason}{path}" if origin.reason else ""


def _moved(status: Status) -> Iterable[str]:
    """The subnets that have virtual addresses, and the addresses used last, a line each."""
    for moved in status.moved:
        via = f", dialled by {moved.workload}" if moved.workload else ""
        yield f"{moved.cidr}{via}: {moved.reason}"
    for one in status.virtual[-SHOWN_SUBNETS:]:
        yield f"{one.virtual} is {one.address}" + (f" by {one.workload}" if one.workload else "")
    hidden = status.virtual_addresses - len(status.virtual[-SHOWN_SUBNETS:])
    if hidden > 0:
        yield f"and {hidden} more (inroad status -o json)"


def _headline(status: Status) -> str:
    if status.connected and status.state in ("", "connected"):
        return click.style("Connected", fg="green", bold=True)
    if status.connected or status.state not in ("", "disconnected"):
        return click.style(status.state.capitalize(), fg="yellow", bold=True)
    return "Not connected"


def outcome_text(outcome: Outcome) -> str:
    """Return the text that ends `inroad connect`: where we are, and what to try next."""
    status = outcome.status
    head = {
        "connected": f"Connected to {status.context} in {outcome.elapsed_ms / 1000:.1f} s",
        "namespace": f"Still connected to {status.context}; the namespace is now {status.namespace}",
        "unchanged": f"Connected to {status.context} already",
    }.get(outcome.change, f"Connected to {status.context}")
    table = rows(
        [
            ("namespace", status.namespace),
            ("subnets", ", ".join(subnet.cidr for subnet in status.subnets[:SHOWN_SUBNETS])),
            ("names", f"{status.resolver.kind} resolver"),
            ("manager", f"{status.tunnel.manager_pod}, round trip {status.tunnel.round_trip_ms:.1f} ms"),
        ]
    )
    hint = "Try curl http://SERVICE/ now; inroad status tells more, inroad quit puts everything back."
    warnings = [click.style("warning: ", fg="yellow") + warning for warning in status.warnings]
    return "\n".join([click.style(head, fg="green", bold=True), table, *warnings, hint])
