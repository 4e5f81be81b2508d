"""The ways from a client to the servers. A path is entered once and measured many times."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import servers
from bench.places import BenchFailed, Place, chain

INROAD = (sys.executable, "-I", "-m", "inroad")


@dataclass(frozen=True)
class Way:
    """An open path: where the client stands and what it asks for.

    `target`: address of iperf3 and HTTP. `dns`: address of a name server, "" where the path has none;
    `names`: names that it knows.
    """

    name: str
    client: Place
    target: str
    dns: str = ""
    names: tuple[str, ...] = ()
    note: str = ""


@contextlib.contextmanager
def direct(directory: Path) -> Iterator[Way]:
    """Client and servers in two namespaces with one cable; beside the client, dnsmasq for names."""
    with chain(["client", "server"]) as (client, server), contextlib.ExitStack() as stack:
        stack.enter_context(servers.targets(server, directory))
        stack.enter_context(servers.dnsmasq(client, directory))
        names = tuple(f"name{n}.bench.test" for n in range(servers.NAMES))
        yield Way("direct", client, "198.18.0.2", "198.18.0.1", names, "one veth; names: dnsmasq")


@contextlib.contextmanager
def haproxy(directory: Path) -> Iterator[Way]:
    """Two TCP relays in C, each in a namespace of its own: the practical limit of a relayed path."""
    with contextlib.ExitStack() as stack:
        places = stack.enter_context(chain(["client2", "relay1", "relay2", "server2"]))
        client, first, second, server = places
        stack.enter_context(servers.targets(server, directory))
        stack.enter_context(servers.relay(second, directory, "198.18.2.2"))
        stack.enter_context(servers.relay(first, directory, "198.18.1.2"))
        yield Way("haproxy", client, "198.18.0.2", note="two TCP relays")


@contextlib.contextmanager
def inroad(directory: Path) -> Iterator[Way]:
    """The sandbox's workstation, connected through its API server's port-forward, to a pod's address."""
    name = "bench"

    def sandbox(*arguments: str) -> str:
        done = subprocess.run(
            [*INROAD, "sandbox", *arguments], capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise BenchFailed(f"inroad sandbox {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def place(where: str, user: str = "root") -> Place:
        return Place(where, (*INROAD, "sandbox", "exec", "--name", name, "--in", where, "--user", user, "--"))

    with contextlib.ExitStack() as stack:
        stack.callback(sandbox, "down", "--name", name)
        state = json.loads(sandbox("up", "--name", name, "--json"))
        pod = next(where for where in sorted(state["places"]) if where.startswith("pod/shop/web"))
        workstation, server = place("workstation"), place(pod)
        for each in (
            workstation,
            server,
            *(place(p) for p in state["places"] if p.startswith("pod/inroad/")),
        ):
            each.tune()
        stack.enter_context(servers.targets(server, directory))
        workstation.run(*INROAD, "connect", "-n", "shop", "-o", "json")
        status = json.loads(workstation.run(*INROAD, "status", "-o", "json"))
        services = ("web.shop", "web.default", "echo.shop", "empty.shop")
        names = tuple(f"{service}.svc.{status['cluster_domain']}" for service in services)
        note = f"{status['vif']['mode']} mode, through the sandbox's API server"
        target: str = state["places"][pod]["addresses"][0]
        yield Way("inroad", workstation, target, status["dns"]["address"], names, note)
        workstation.run(*INROAD, "quit")


PATHS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Way]]] = {
    "direct": direct,
    "haproxy": haproxy,
    "inroad": inroad,
}
