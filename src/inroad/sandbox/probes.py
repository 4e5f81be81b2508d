"""A kubelet's probes: HTTP GET, TCP connect, a command; from the node, as a kubelet makes them."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from inroad.host.run import run_async
from inroad.sandbox import netns
from inroad.sandbox.container import Container
from inroad.sandbox.place import Place

Json = dict[str, Any]
EAGER = 0.05
"""Seconds before a container that was never ready is probed again; doubles up to the probe's own period."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is probed: a container of a pod at `address`, from the network namespace `node`."""

    container: Container
    place: Place
    node: Path
    address: str
    environment: Mapping[str, str]


def watch(target: Target, changed: Callable[[], None]) -> list[Coroutine[Any, Any, None]]:
    """Return what keeps a container's `ready` true and restarts it when it no longer lives; runs for ever."""
    found = [_readiness(target, changed)]
    if target.container.spec.get("livenessProbe"):
        found.append(_liveness(target))
    return found


async def _readiness(target: Target, changed: Callable[[], None]) -> None:
    """Follow the readiness probe; without one, running is ready."""
    container = target.container
    probe = container.spec.get("readinessProbe")
    threshold = int((probe or {}).get("failureThreshold", 3))
    period = float((probe or {}).get("periodSeconds", 10))
    while True:
        await container.running.wait()
        await _started(target)
        wait, failures = EAGER, 0
        while container.running.is_set():
            ready = probe is None or await succeeds(probe, target)
            failures = 0 if ready else failures + 1
            # One failure does not unmake a ready container, failureThreshold of them do.
            ready = ready or (container.ready and failures < threshold)
            if ready != container.ready and container.running.is_set():
                container.ready = ready
                changed()
            wait = period if ready else min(2 * wait, period)
            await _pause(container, wait)


async def _started(target: Target) -> None:
    """Wait for the startup probe, if there is one; a container that never starts is ended."""
    container = target.container
    probe = container.spec.get("startupProbe")
    failures, wait = 0, EAGER
    while probe and container.running.is_set() and not await succeeds(probe, target):
        failures += wait >= float(probe.get("periodSeconds", 10))
        if failures >= int(probe.get("failureThreshold", 3)):
            container.restart()
            return
        wait = min(2 * wait, float(probe.get("periodSeconds", 10)))
        await _pause(container, wait)


async def _liveness(target: Target) -> None:
    container = target.container
    probe = container.spec["livenessProbe"]
    period = float(probe.get("periodSeconds", 10))
    while True:
        await container.running.wait()
        failures = 0
        await _started(target)
        await _pause(container, max(period, float(probe.get("initialDelaySeconds", 0))))
        while container.running.is_set():
            failures = 0 if await succeeds(probe, target) else failures + 1
            if failures >= int(probe.get("failureThreshold", 3)):
                container.restart()
            await _pause(container, period)


async def _pause(container: Container, seconds: float) -> None:
    """Wait, but not longer than the container runs."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(container.ended.wait(), seconds)


def port_of(container: Json, port: int | str) -> int:
    """Return a probe's port as a number; it may be the name of one of the container's ports."""
    for one in container.get("ports") or ():
        if one.get("name") == port:
            return int(one["containerPort"])
    return int(port)


async def succeeds(probe: Json, target: Target) -> bool:
    """Make one probe; tell whether it succeeded."""
    timeout = float(probe.get("timeoutSeconds", 1))
    try:
        async with asyncio.timeout(timeout):
            if "exec" in probe:
                variables = [f"{key}={value}" for key, value in target.environment.items()]
                argv = ["/usr/bin/env", "-i", *variables, *probe["exec"]["command"]]
                return (await run_async(target.place.command(argv), timeout=timeout)).ok
            kind = "httpGet" if "httpGet" in probe else "tcpSocket"
            wanted = probe.get(kind)
            if wanted is None:
                return False  # grpc: not here
            port = port_of(target.container.spec, wanted["port"])
            with await connect(target.node, wanted.get("host") or target.address, port) as sock:
                return kind == "tcpSocket" or await _http_ok(sock, wanted)
    except (OSError, TimeoutError, ValueError):
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


async def _http_ok(sock: socket.socket, wanted: Json) -> bool:
    reader, writer = await asyncio.open_connection(sock=sock)
    headers = "".join(f"{one['name']}: {one['value']}\r\n" for one in wanted.get("httpHeaders") or ())
    path = wanted.get("path", "/")
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: probe\r\nUser-Agent: kube-probe/1.34\r\n"
        f"{headers}Connection: close\r\n\r\n".encode()
    )
    try:
        line = (await reader.readline()).split()
        return len(line) > 1 and 200 <= int(line[1]) < 400
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
