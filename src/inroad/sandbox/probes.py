"""A kubelet's probes: HTTP GET, TCP connect, a command; from the node, as a kubelet makes them."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from inroad.host.run import run_async
from inroad.sandbox import netns
from inroad.sandbox.place import Place

Json = dict[str, Any]
EAGER = 0.05
"""Seconds before a container that was never ready is probed again; doubles up to the probe's own period."""


def port_of(container: Json, port: int | str) -> int:
    """Return a probe's port as a number; it may be the name of one of the container's ports."""
    for one in container.get("ports", ()):
        if one.get("name") == port:
            return int(one["containerPort"])
    return int(port)


async def succeeds(
    probe: Json, container: Json, place: Place, node: Path, address: str, environment: Mapping[str, str]
) -> bool:
    """Make one probe of a pod at `address` from the network namespace `node`; tell whether it succeeded."""
    timeout = float(probe.get("timeoutSeconds", 1))
    try:
        async with asyncio.timeout(timeout):
            if "exec" in probe:
                argv = ["/usr/bin/env", "-i", *(f"{k}={v}" for k, v in environment.items())]
                done = await run_async(place.command([*argv, *probe["exec"]["command"]]), timeout=timeout)
                return done.ok
            kind = "httpGet" if "httpGet" in probe else "tcpSocket"
            target = probe.get(kind)
            if target is None:
                return False  # grpc: not here
            port = port_of(container, target["port"])
            with await connect(node, target.get("host") or address, port) as sock:
                return kind == "tcpSocket" or await _http_ok(sock, target)
    except (OSError, TimeoutError):
        return False


async def connect(namespace: Path, host: str, port: int) -> socket.socket:
    """Return a connected non-blocking socket that lives in `namespace`."""
    family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    sock = netns.open_socket(namespace, family, socket.SOCK_STREAM)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    return sock


async def _http_ok(sock: socket.socket, target: Json) -> bool:
    reader, writer = await asyncio.open_connection(sock=sock)
    headers = "".join(f"{one['name']}: {one['value']}\r\n" for one in target.get("httpHeaders", ()))
    path = target.get("path", "/")
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: probe\r\nUser-Agent: kube-probe/1.34\r\n"
        f"{headers}Connection: close\r\n\r\n".encode()
    )
    try:
        line = (await reader.readline()).split()
        return len(line) > 1 and 200 <= int(line[1]) < 400
    except ValueError:
        return False
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
