"""Medians over the rounds, ratios between paths, as a table and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence

from bench.measures import Row

Values = dict[str, dict[str, list[float]]]
"""values[row key][path name] is one number a round."""

DNS_PEER = "direct"
"""Beside the direct path runs dnsmasq: what our DNS server is compared with."""
OURS = ("inroad", "names", "sandbox")
MANAGER, AGENTS = "sandbox", ("relayed", "agent")
"""Agents are compared with the traffic-manager that dials itself."""


def medians(values: Values) -> dict[str, dict[str, float]]:
    """Return the median over the rounds of every value."""
    return {
        key: {path: statistics.median(numbers) for path, numbers in paths.items() if numbers}
        for key, paths in values.items()
    }


def ratio(row: Row, found: dict[str, float], own: str, other: str) -> float | None:
    """Return how good one path is compared with another: 1 is as good, more is better."""
    mine, theirs = found.get(own), found.get(other)
    if not mine or not theirs:
        return None
    return mine / theirs if row.more_is_better else theirs / mine


def ratios(row: Row, found: dict[str, float], names: Sequence[str]) -> dict[str, float]:
    """Return the ratios that can be had, by title such as `inroad/haproxy`."""
    others = (DNS_PEER,) if row.key.startswith("dns") else ("haproxy", "sshuttle")
    if not set(others) & set(found):
        others = (DNS_PEER,)
    pairs = [(own, other) for own in OURS if own in names for other in others if other in names]
    pairs += [(own, MANAGER) for own in AGENTS if own in names and MANAGER in names]
    all_of_them = {f"{own}/{other}": ratio(row, found, own, other) for own, other in pairs}
    return {title: value for title, value in all_of_them.items() if value is not None}


def number(value: float | None) -> str:
    """Format a value to three or more digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 20 else f"{value:.2f}"


def table(rows: Sequence[Row], names: Sequence[str], notes: dict[str, str], values: Values) -> str:
    """Return the table as text."""
    found = medians(values)
    titles = {row.key: f"{row.label} [{row.unit}]" if row.unit else row.label for row in rows}
    label = max(map(len, titles.values()))
    lines = [f"{'':<{label}}" + "".join(f"{name:>10}" for name in names) + "   ratios (more is better)"]
    for row in rows:
        cells = found.get(row.key, {})
        if not cells:
            continue
        columns = "".join(f"{number(cells.get(name)):>10}" for name in names)
        shown = "  ".join(f"{title} {value:.2f}" for title, value in ratios(row, cells, names).items())
        lines.append(f"{titles[row.key]:<{label}}{columns}   {shown}")
    lines += ["", *(f"{name}: {note}" for name, note in notes.items() if note)]
    return "\n".join(lines)


def document(
    rows: Sequence[Row], names: Sequence[str], notes: dict[str, str], values: Values
) -> dict[str, object]:
    """Return everything as JSON-ready values."""
    found = medians(values)
    return {
        "host": {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
        "paths": notes,
        "measures": {
            row.key: {
                "label": row.label,
                "unit": row.unit,
                "median": found.get(row.key, {}),
                "rounds": values.get(row.key, {}),
                "ratios": ratios(row, found.get(row.key, {}), names),
            }
            for row in rows
        },
    }
