"""inroad's data plane without Kubernetes: both ends of a tunnel over a plain TCP connection.

`python -m bench.link_ends far PORT` dials for whoever connects, as the traffic-manager does.
`python -m bench.link_ends near ADDRESS PORT SUBNET` makes the VIF and routes the subnet into it, as the
daemon does. Each prints `ready` and goes on until it is told to end. The parts are those of the programs;
only names, sessions and the API server are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import tempfile
from contextlib import AsyncExitStack
from ipaddress import ip_address, ip_network
from pathlib import Path

import uvloop

from inroad.core.host_config import FWMARK, RouteConfig
from inroad.daemon.relay import Relay
from inroad.host.journal import Journal
from inroad.host.routes.choose import open_routes
from inroad.host.vif.api import VifConfig
from inroad.host.vif.choose import open_vif
from inroad.origin.dial import Dialler
from inroad.tunnel.api import Link
from inroad.tunnel.stream import connect_stream, serve_stream

VIF = VifConfig(name="inroad0", addresses=(ip_address("246.246.0.1"),), mark=FWMARK)


async def until_told() -> None:
    """Say that all is ready and wait for a signal."""
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    print("ready", flush=True)
    await end.wait()


async def far(port: int) -> None:
    """Dial for every client that connects to the port."""
    dialler = Dialler()
    links: set[Link] = set()

    def attach(link: Link) -> None:
        link.on_open = dialler.serve
        links.add(link)  # nobody else holds it

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", port))
    await serve_stream([listener], attach)
    await until_told()


async def near(address: str, port: int, subnet: str, mode: str) -> None:
    """Lead a subnet through the tunnel to the far end."""
    async with AsyncExitStack() as undo:
        relay = Relay()
        relay.vif = await open_vif(VifConfig(VIF.name, VIF.addresses, VIF.mtu, mode, VIF.mark), relay)
        undo.push_async_callback(relay.vif.close)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, FWMARK)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
        relay.link = await connect_stream(sock)
        scratch = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        routes = await open_routes(Journal(scratch / "journal"))
        undo.push_async_callback(routes.close)
        quickack = relay.vif.kind == "tun"
        await routes.apply(RouteConfig(VIF.name, (ip_network(subnet),), quickack=quickack))
        undo.push_async_callback(routes.apply, RouteConfig())
        await until_told()


def main() -> None:
    """Run one end."""
    parser = argparse.ArgumentParser()
    ends = parser.add_subparsers(dest="end", required=True)
    one = ends.add_parser("far")
    one.add_argument("port", type=int)
    other = ends.add_parser("near")
    other.add_argument("address")
    other.add_argument("port", type=int)
    other.add_argument("subnet")
    other.add_argument("--mode", default="auto")
    options = parser.parse_args()
    if options.end == "far":
        uvloop.run(far(options.port))
    else:
        uvloop.run(near(options.address, options.port, options.subnet, options.mode))
    os._exit(0)


if __name__ == "__main__":
    main()
