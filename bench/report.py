"""Medians over the rounds, ratios between paths, as a table and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence

from bench.measures import Row
from bench.paths import Way

Values = dict[str, dict[str, list[float]]]
"""values[row key][path name] is one number a round."""

COMPARED = {"dns_qps": "direct"}
"""The path that inroad is compared with, where it is not the two relays (names: dnsmasq)."""


def medians(values: Values) -> dict[str, dict[str, float]]:
    """Return the median over the rounds of every value."""
    return {
        key: {path: statistics.median(numbers) for path, numbers in paths.items() if numbers}
        for key, paths in values.items()
    }


def ratio(row: Row, found: dict[str, float]) -> float | None:
    """Return how good inroad is: 1 is as good as what it is compared with, more is better."""
    other = found.get(COMPARED.get(row.key, "haproxy"))
    own = found.get("inroad")
    if not own or not other:
        return None
    return own / other if row.more_is_better else other / own


def number(value: float | None) -> str:
    """Format a value to three or more digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 20 else f"{value:.2f}"


def table(rows: Sequence[Row], ways: Sequence[Way], values: Values) -> str:
    """Return the table as text."""
    found = medians(values)
    label = max(len(f"{row.label} [{row.unit}]") for row in rows)
    head = f"{'':<{label}}" + "".join(f"{way.name:>11}" for way in ways) + "     ratio"
    lines = [head]
    for row in rows:
        cells = found.get(row.key, {})
        title = f"{row.label} [{row.unit}]" if row.unit else row.label
        columns = "".join(f"{number(cells.get(way.name)):>11}" for way in ways)
        lines.append(f"{title:<{label}}{columns}{number(ratio(row, cells)):>10}")
    notes = [f"{way.name}: {way.note}" for way in ways if way.note]
    why = "ratio: inroad to haproxy (DNS: to dnsmasq); 1 is as good, more is better. " + "; ".join(notes)
    return "\n".join([*lines, "", why])


def document(rows: Sequence[Row], ways: Sequence[Way], values: Values, rounds: int, seconds: int) -> object:
    """Return everything as JSON-ready values."""
    found = medians(values)
    return {
        "host": {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
        "rounds": rounds,
        "seconds": seconds,
        "paths": {way.name: way.note for way in ways},
        "measures": {
            row.key: {
                "label": row.label,
                "unit": row.unit,
                "median": found.get(row.key, {}),
                "rounds": values.get(row.key, {}),
                "ratio": ratio(row, found.get(row.key, {})),
            }
            for row in rows
        },
    }
