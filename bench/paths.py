"""The ways from a client to the servers. A path is entered once and measured many times."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench import servers
from bench.places import Place, Slow, chain

INROAD = (sys.executable, "-I", "-m", "inroad")
TUNNEL_PORT = 7000


@dataclass(frozen=True)
class Lookups:
    """A DNS server of ours, `Way.dns`, with name servers behind it.

    `wild`: a pattern of names of the cluster that exist, whatever `{n}` stands for. `other`: the same for
    names that are not the cluster's. `cluster`: where the cluster's name server runs, on 127.0.0.1 there.
    `fallback`: the address of the name server for other names. `round_trip`: returns the tunnel's, in us.
    """

    wild: str
    other: str
    cluster: Place
    fallback: str
    round_trip: Callable[[], float]


@dataclass(frozen=True)
class Way:
    """An open path: where the client stands and what it asks for.

    `target`: address of iperf3, HTTP and UDP echo. `dns`: address of a name server that knows `names`, ""
    where the path has none. `agent`: the pod of the traffic-agent that dials. `pids`: our
    processes, whose descriptors are counted. `udp`: whether the path carries it. `lookups`: what the measures
    of lookups need, where the path has it.
    """

    name: str
    client: Place
    target: str
    dns: str = ""
    names: tuple[str, ...] = ()
    note: str = ""
    pids: tuple[int, ...] = ()
    udp: bool = True
    lookups: Lookups | None = None
    agent: Place | None = None


class OpenPath(Protocol):
    """Opens a path; with `slow` its long cable is like that."""

    def __call__(self, directory: Path, slow: Slow | None = None) -> contextlib.AbstractContextManager[Way]:
        """Open it until the block ends."""


@contextlib.contextmanager
def direct(directory: Path, slow: Slow | None = None) -> Iterator[Way]:
    """Client and servers in two namespaces with one cable; beside the client, dnsmasq for names."""
    with contextlib.ExitStack() as stack:
        client, server = stack.enter_context(chain(["client", "server"], slow))
        stack.enter_context(servers.targets(server, directory))
        stack.enter_context(servers.dnsmasq(client, directory))
        names = tuple(f"name{n}.bench.test" for n in range(servers.NAMES))
        yield Way("direct", client, "198.18.0.2", "198.18.0.1", names, "one cable; names: dnsmasq")


@contextlib.contextmanager
def haproxy(directory: Path, slow: Slow | None = None) -> Iterator[Way]:
    """Two TCP relays in C, each in a namespace of its own: the practical limit of a relayed path."""
    with contextlib.ExitStack() as stack:
        names = ["client2", "relay1", "relay2", "server2"]
        client, first, second, server = stack.enter_context(chain(names, slow, 1))
        stack.enter_context(servers.targets(server, directory))
        stack.enter_context(servers.relay(second, directory, "198.18.2.2"))
        stack.enter_context(servers.relay(first, directory, "198.18.1.2"))
        yield Way("haproxy", client, "198.18.0.2", note="two TCP relays", udp=False)


@contextlib.contextmanager
def sshuttle(directory: Path, slow: Slow | None = None) -> Iterator[Way]:
    """sshuttle over an SSH connection between two namespaces; the far one reaches the servers."""
    with contextlib.ExitStack() as stack:
        client, gate, server = stack.enter_context(chain(["client3", "gate3", "server3"], slow))
        stack.enter_context(servers.targets(server, directory))
        key = stack.enter_context(servers.sshd(gate, directory))
        client.run("ip", "route", "add", "default", "via", "198.18.0.2")  # its redirection needs some route
        trust = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        ssh = f"ssh -i {key} -p {servers.SSH} {trust}"
        argv = ["sshuttle", "--method", "nft", "--ssh-cmd", ssh, "-r", "root@198.18.0.2", "198.18.1.0/24"]
        stack.enter_context(client.process(*argv, log=directory / "sshuttle.log"))
        client.wait_answering("198.18.1.2", servers.HTTP)
        yield Way("sshuttle", client, "198.18.1.2", note="over SSH", udp=False)


@contextlib.contextmanager
def inroad(directory: Path, slow: Slow | None = None) -> Iterator[Way]:
    """inroad's data plane over a plain TCP connection: work ── cluster ── server, nothing forwards."""
    with contextlib.ExitStack() as stack:
        work, cluster, server = stack.enter_context(chain(["work", "cluster", "server4"], slow))
        stack.enter_context(servers.targets(server, directory))
        ends = (sys.executable, "-m", "bench.link_ends")
        far = stack.enter_context(cluster.ready(*ends, "far", str(TUNNEL_PORT)))
        near = stack.enter_context(work.ready(*ends, "near", "198.18.0.2", str(TUNNEL_PORT), "198.18.1.0/24"))
        pids = (far.pid, near.pid, *children(near.pid))
        yield Way("inroad", work, "198.18.1.2", note="tunnel over a plain TCP connection", pids=pids)


@contextlib.contextmanager
def names(directory: Path, slow: Slow | None = None) -> Iterator[Way]:
    """inroad's DNS server over a plain TCP connection; dnsmasq is both name servers behind it."""
    with contextlib.ExitStack() as stack:
        work, cluster = stack.enter_context(chain(["names", "lookups"], slow))
        stack.enter_context(servers.wild_dnsmasq(work, "127.0.0.1", "wild.test"))
        stack.enter_context(servers.wild_dnsmasq(cluster, "127.0.0.1", "svc.cluster.local"))
        conf = directory / "pod.conf"
        conf.write_text(
            "search bench.svc.cluster.local svc.cluster.local cluster.local\nnameserver 127.0.0.1\n"
        )
        ends = (sys.executable, "-m", "bench.names_ends")
        stack.enter_context(cluster.ready(*ends, "far", str(TUNNEL_PORT), str(conf)))
        own = "198.18.0.1"
        near = stack.enter_context(
            work.ready(*ends, "near", "198.18.0.2", str(TUNNEL_PORT), own, "127.0.0.1")
        )

        def round_trip() -> float:
            near.send_signal(signal.SIGUSR1)
            return float(near.stdout.readline() if near.stdout else 0)

        known = tuple(f"name{n}.bench.svc.cluster.local" for n in range(servers.NAMES))
        lookups = Lookups("x{n}.bench.svc.cluster.local", "x{n}.wild.test", cluster, "127.0.0.1", round_trip)
        note = "our DNS server, tunnel over a plain TCP connection"
        yield Way("names", work, "", own, known, note, udp=False, lookups=lookups)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descriptors(pids: tuple[int, ...]) -> int:
    """Count the open files of processes."""
    return sum(sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()) for pid in pids)


PATHS: dict[str, OpenPath] = {
    "direct": direct,
    "haproxy": haproxy,
    "sshuttle": sshuttle,
    "inroad": inroad,
    "names": names,
}
