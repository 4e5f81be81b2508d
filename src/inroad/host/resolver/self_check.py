"""Whether the host's names really arrive at our server: the proof that a back end works here.

A fresh random name is looked up as any program would, and our server answers it with its own address
(`core.dns_policy`, rule `self-check`). Nobody else does, and no cache has seen the name.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable

from inroad.core.dns_policy import SELF_CHECK
from inroad.core.host_config import ResolverConfig

TIMEOUT = 2.0
INTERVAL = 0.2
"""Seconds until another name is tried beside those that have got no answer yet."""

Resolve = Callable[[str], Awaitable[list[str]]]
"""Look a name up through the host; returns addresses as text, none where there is no such name."""


async def resolve_as_programs_do(name: str) -> list[str]:
    """Ask the C library, in a thread that nobody waits for when the host's resolver hangs."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def settle(addresses: list[str]) -> None:
        if not found.done():
            found.set_result(addresses)

    def ask() -> None:
        try:
            infos = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError:
            infos = []
        try:
            loop.call_soon_threadsafe(settle, [str(info[4][0]) for info in infos])
        except RuntimeError:  # the loop has ended meanwhile
            return

    threading.Thread(target=ask, name="self-check", daemon=True).start()
    return await found


async def names_arrive(
    wanted: ResolverConfig, resolve: Resolve = resolve_as_programs_do, timeout: float = TIMEOUT
) -> bool:
    """Tell whether names of the routed domains reach our server within `timeout` seconds."""
    if wanted.server is None or not wanted.routed:
        return False
    domain = "svc" if "svc" in wanted.routed else wanted.routed[-1]
    expected = {str(server[0]) for server in (wanted.server, wanted.server6) if server is not None}
    end = asyncio.get_running_loop().time() + timeout
    asking: set[asyncio.Future[list[str]]] = set()
    try:
        while (left := end - asyncio.get_running_loop().time()) > 0:
            name = f"{secrets.token_hex(8)}.{SELF_CHECK.decode()}.{domain}"
            asking.add(asyncio.ensure_future(resolve(name)))
            until = asyncio.get_running_loop().time() + min(INTERVAL, left)
            while (pause := until - asyncio.get_running_loop().time()) > 0:
                done, _ = await asyncio.wait(asking, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                asking -= done
                if any(not expected.isdisjoint(task.result()) for task in done):
                    return True
                if not asking:
                    await asyncio.sleep(max(until - asyncio.get_running_loop().time(), 0))
        return False
    finally:
        for task in asking:
            task.cancel()
