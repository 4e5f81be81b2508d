"""What is measured on a path. A measure runs one tool once and returns one or more named values."""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.paths import Way, descriptors
from bench.places import BenchFailed, Place
from bench.servers import HTTP, IPERF, UDP
from bench.sessions import connect, node_changes

UDP_RATES = (1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 40_000, 60_000, 80_000, 100_000)
SECONDS_PER = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Row:
    """A line of the table: a value's key, what it is, its unit, and whether more is better."""

    key: str
    label: str
    unit: str
    more_is_better: bool = True


Run = Callable[[Way, int, Path], dict[str, float]]


@dataclass(frozen=True)
class Measure:
    """`run(way, seconds, directory)` returns a value for each of `rows`.

    `needs`: the field of `Way` that must be set; elsewhere the measure does not apply.
    """

    name: str
    rows: tuple[Row, ...]
    run: Run
    needs: str = "target"

    def applies(self, way: Way) -> bool:
        """Tell whether the way has what is measured."""
        return bool(getattr(way, self.needs))


def iperf(key: str, *flags: str, warm_up: int = 1) -> Run:
    """Return a measure of bulk TCP in Gbit/s, as the receiver counted it after some seconds of warming up."""

    def run(way: Way, seconds: int, directory: Path) -> dict[str, float]:
        del directory
        argv = ["iperf3", "-J", "-c", way.target, "-p", str(IPERF), "-t", str(seconds), "-O", str(warm_up)]
        argv += flags
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
    """Measure requests that each need a new connection, 32 at a time, and what they leave open."""
    del directory
    before = descriptors(way.pids)
    found = {"conns": rate(wrk(way, seconds, 32, "-H", "Connection: close"))}
    if way.pids:
        deadline = time.monotonic() + 2
        while (after := descriptors(way.pids)) > before and time.monotonic() < deadline:
            time.sleep(0.1)
        found["descriptors"] = after - before
    return found


def udp(way: Way, seconds: int, directory: Path) -> dict[str, float]:
    """Measure UDP round trips, and the highest of a few rates at which no datagram is lost."""
    del directory
    tool = [sys.executable, "-m", "bench.udp_tool"]
    trips = float(way.client.run(*tool, "ask", way.target, str(UDP), str(seconds)))
    best = 0.0
    for wanted in UDP_RATES:
        text = way.client.run(*tool, "flood", way.target, str(UDP), "1", str(wanted))
        report = json.loads(text)
        if report["received"] < report["sent"] or report["rate"] < 0.9 * wanted:
            break
        best = report["rate"]
    return {"udp_trips": trips, "udp_rate": best}


STALL = """
iperf3 -c $0 -p $1 -R -t 600 >/dev/null & reader=$!
trap 'kill -KILL $reader; exit' TERM
sleep 1
kill -STOP $reader
wait
"""


def beside_stalled(way: Way, seconds: int, directory: Path) -> dict[str, float]:
    """Measure small requests alone, then beside a download whose reader was stopped in full flight."""
    del directory
    alone = latency(wrk(way, seconds, 1), "99")
    with way.client.process("bash", "-c", STALL, way.target, str(IPERF)):
        time.sleep(2)  # until every buffer on the way is full
        beside = latency(wrk(way, seconds, 1), "99")
    return {"stalled_p99": beside, "stalled_ratio": beside / alone}


def beside_bulk(way: Way, seconds: int, directory: Path) -> dict[str, float]:
    """Measure small requests alone, then beside one bulk flow each way."""
    del directory
    alone = latency(wrk(way, seconds, 1), "99")
    argv = ["iperf3", "-c", way.target, "-p", str(IPERF), "-t", str(seconds + 3), "--bidir"]
    with way.client.process(*argv):
        time.sleep(2)  # until the bulk flows fill the cable
        beside = latency(wrk(way, seconds, 1), "99")
    return {"alone": alone / 1000, "beside": beside / 1000}


def dns(way: Way, seconds: int, directory: Path) -> dict[str, float]:
    """Measure queries for names that the server has in its memory, 20 clients."""
    names = directory / f"names-{way.name}"
    names.write_text("".join(f"{name} A\n" for name in way.names))
    text = dnsperf(way, names, "-l", str(seconds))
    each = dnsperf(way, names, "-l", "1", "-v")
    times = sorted(map(float, re.findall(r"^> NOERROR \S+ A ([\d.]+)$", each, re.MULTILINE)))
    return {
        "dns_qps": rate_of(text),
        "dns_lost": float(text.partition("Queries lost:")[2].split()[0]),
        "dns_p99": times[int(len(times) * 0.99)] * 1e6,
    }


def dnsperf(way: Way, names: Path, *flags: str) -> str:
    """Ask for the names of a file, as 20 clients; returns what was printed. Raises `BenchFailed`."""
    text = way.client.run("dnsperf", "-s", way.dns, "-d", str(names), "-c", "20", *flags)
    if "NOERROR" not in text:
        raise BenchFailed(f"dnsperf on {way.name}: {text[-500:]}")
    return text


def rate_of(text: str) -> float:
    """Return dnsperf's queries per second."""
    found = re.search(r"Queries per second:\s+([\d.]+)", text)
    if found is None:
        raise BenchFailed(f"dnsperf printed no rate: {text[-500:]}")
    return float(found[1])


def lookups(way: Way, seconds: int, directory: Path) -> dict[str, float]:
    """Measure names that are in no cache: many at once, one after the other, and what we add to either."""
    if way.lookups is None:
        return {}
    behind, turn = way.lookups, secrets.token_hex(3)
    names = directory / f"lookups-{way.name}"
    names.write_text("".join(f"{behind.wild.format(n=f'{turn}{n}')} A\n" for n in range(6_000 * seconds)))
    trip = behind.round_trip()

    def ask(place: Place, server: str, name: str) -> float:
        argv = [sys.executable, "-m", "bench.names_ends", "ask", server, str(500 * seconds), name]
        return float(place.run(*argv))

    theirs = ask(behind.cluster, "127.0.0.1", behind.wild)
    ours = ask(way.client, way.dns, behind.wild)
    through = ask(way.client, way.dns, behind.other)
    past = ask(way.client, behind.fallback, behind.other)
    return {
        "dns_uncached": rate_of(dnsperf(way, names, "-n", "1")),
        "dns_lookup": ours,
        "dns_lookup_added": ours - trip - theirs,
        "dns_fallback_added": through - past,
        "dns_memory": float(way.client.run(sys.executable, "-m", "bench.names_ends", "memory", "100000")),
    }


MEASURES = (
    Measure("tcp-up", (Row("tcp_up", "TCP one flow, up", "Gbit/s"),), iperf("tcp_up")),
    Measure("tcp-down", (Row("tcp_down", "TCP one flow, down", "Gbit/s"),), iperf("tcp_down", "-R")),
    Measure("tcp-8", (Row("tcp_8", "TCP 8 flows, up", "Gbit/s"),), iperf("tcp_8", "-P", "8")),
    Measure(
        "keep-alive",
        (
            Row("http_p50", "HTTP keep-alive, 1 connection, p50", "µs", more_is_better=False),
            Row("http_p99", "HTTP keep-alive, 1 connection, p99", "µs", more_is_better=False),
        ),
        keep_alive,
    ),
    Measure("requests", (Row("http_rps", "HTTP requests/s, 64 connections", "1/s"),), requests),
    Measure(
        "connections",
        (
            Row("conns", "new connections/s, 32 at a time", "1/s"),
            Row("descriptors", "descriptors left open by them", "", more_is_better=False),
        ),
        connections,
    ),
    Measure(
        "udp",
        (
            Row("udp_trips", "UDP round trips/s, one association", "1/s"),
            Row("udp_rate", "UDP datagrams/s of 1,200 bytes, none lost", "1/s"),
        ),
        udp,
        needs="udp",
    ),
    Measure(
        "stalled",
        (
            Row("stalled_p99", "HTTP p99 beside a stalled download", "µs", more_is_better=False),
            Row("stalled_ratio", "that as a multiple of p99 alone", "", more_is_better=False),
        ),
        beside_stalled,
    ),
    Measure(
        "dns",
        (
            Row("dns_qps", "cached DNS queries/s", "1/s"),
            Row("dns_p99", "cached DNS queries, 20 clients, p99", "µs", more_is_better=False),
            Row("dns_lost", "DNS queries lost", "", more_is_better=False),
        ),
        dns,
        needs="dns",
    ),
    Measure(
        "lookups",
        (
            Row("dns_uncached", "DNS lookups/s over the tunnel", "1/s"),
            Row("dns_lookup", "one DNS lookup over the tunnel, p50", "µs", more_is_better=False),
            Row("dns_lookup_added", "beyond round trip and cluster DNS", "µs", more_is_better=False),
            Row("dns_fallback_added", "added to a name of the fallback's", "µs", more_is_better=False),
            Row("dns_memory", "100,000 cached answers", "MB", more_is_better=False),
        ),
        lookups,
        needs="lookups",
    ),
    Measure(
        "connect",
        (
            Row("connect", "inroad connect", "ms", more_is_better=False),
            Row("connect_host", "of that, planning and changing the host", "ms", more_is_better=False),
        ),
        connect,
    ),
    Measure(
        "node-changes",
        (
            Row("node_p50", "from a changed node to its route, p50", "ms", more_is_better=False),
            Row("node_p99", "from a changed node to its route, p99", "ms", more_is_better=False),
        ),
        node_changes,
    ),
)
