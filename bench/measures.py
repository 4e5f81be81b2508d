"""What is measured on a path. A measure runs one tool once and returns one or more named values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.paths import Way
from bench.places import BenchFailed
from bench.servers import HTTP, IPERF

SECONDS_PER = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Row:
    """A line of the table: a value's key, what it is, its unit, and whether more is better."""

    key: str
    label: str
    unit: str
    more_is_better: bool = True


@dataclass(frozen=True)
class Measure:
    """`run(way, seconds, directory)` returns a value for each of `rows`, or {} where it does not apply."""

    name: str
    rows: tuple[Row, ...]
    run: Callable[[Way, int, Path], dict[str, float]]


def iperf(key: str, *flags: str) -> Callable[[Way, int, Path], dict[str, float]]:
    """Return a measure of bulk TCP in Gbit/s, as the receiver counted it."""

    def run(way: Way, seconds: int, directory: Path) -> dict[str, float]:
        del directory
        argv = ["iperf3", "-J", "-c", way.target, "-p", str(IPERF), "-t", str(seconds), "-O", "1", *flags]
        report = json.loads(way.client.run(*argv))
        return {key: report["end"]["sum_received"]["bits_per_second"] / 1e9}

    return run


def wrk(way: Way, seconds: int, connections: int, *flags: str) -> str:
    """Run wrk and return what it printed; raises `BenchFailed` when requests failed."""
    threads = "1" if connections == 1 else "2"
    argv = ["wrk", "--latency", "-t", threads, "-c", str(connections), "-d", f"{seconds}s", *flags]
    text = way.client.run(*argv, f"http://{way.target}:{HTTP}/")
    if "Non-2xx" in text or "Requests/sec" not in text:
        raise BenchFailed(f"wrk on {way.name}: {text[-300:]}")
    return text


def latency(text: str, percentile: str) -> float:
    """Return a percentile of wrk's latencies, in microseconds."""
    found = re.search(rf"^\s+{percentile}%\s+([\d.]+)(us|ms|s|m)$", text, re.MULTILINE)
    if found is None:
        raise BenchFailed(f"wrk printed no {percentile}th percentile")
    return float(found[1]) * SECONDS_PER[found[2]] * 1e6


def rate(text: str) -> float:
    """Return wrk's requests per second."""
    found = re.search(r"Requests/sec:\s+([\d.]+)", text)
    return float(found[1]) if found else 0.0


def keep_alive(way: Way, seconds: int, directory: Path) -> dict[str, float]:
    """Measure one connection, one request after the other."""
    del directory
    text = wrk(way, seconds, 1)
    return {"http_p50": latency(text, "50"), "http_p99": latency(text, "99")}


def requests(way: Way, seconds: int, directory: Path) -> dict[str, float]:
    """Measure requests on 64 kept connections."""
    del directory
    return {"http_rps": rate(wrk(way, seconds, 64))}


def connections(way: Way, seconds: int, directory: Path) -> dict[str, float]:
    """Measure requests that each need a new connection, 32 at a time."""
    del directory
    return {"conns": rate(wrk(way, seconds, 32, "-H", "Connection: close"))}


def dns(way: Way, seconds: int, directory: Path) -> dict[str, float]:
    """Measure queries for names that the server has in its memory, 20 clients."""
    if not way.dns:
        return {}
    names = directory / f"names-{way.name}"
    names.write_text("".join(f"{name} A\n" for name in way.names))
    argv = ["dnsperf", "-s", way.dns, "-d", str(names), "-c", "20", "-l", str(seconds)]
    text = way.client.run(*argv)
    found = re.search(r"Queries per second:\s+([\d.]+)", text)
    lost = re.search(r"Queries lost:\s+(\d+)", text)
    if found is None or "NOERROR" not in text:
        raise BenchFailed(f"dnsperf on {way.name}: {text[-500:]}")
    return {"dns_qps": float(found[1]), "dns_lost": float(lost[1]) if lost else 0.0}


MEASURES = (
    Measure("tcp-up", (Row("tcp_up", "TCP one flow, up", "Gbit/s"),), iperf("tcp_up")),
    Measure("tcp-down", (Row("tcp_down", "TCP one flow, down", "Gbit/s"),), iperf("tcp_down", "-R")),
    Measure(
        "keep-alive",
        (
            Row("http_p50", "HTTP keep-alive, 1 connection, p50", "µs", more_is_better=False),
            Row("http_p99", "HTTP keep-alive, 1 connection, p99", "µs", more_is_better=False),
        ),
        keep_alive,
    ),
    Measure("requests", (Row("http_rps", "HTTP requests/s, 64 connections", "1/s"),), requests),
    Measure("connections", (Row("conns", "new connections/s, 32 at a time", "1/s"),), connections),
    Measure(
        "dns",
        (
            Row("dns_qps", "cached DNS queries/s", "1/s"),
            Row("dns_lost", "DNS queries lost", "", more_is_better=False),
        ),
        dns,
    ),
)
