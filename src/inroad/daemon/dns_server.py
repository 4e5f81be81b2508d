"""The DNS server of the workstation: its sockets, and the wires to what answers.

Reading order of a query: `dns_batch` (asked within the last second: done), `dns_answering` (cache, rules),
`dns_lookups` (cluster) or `dns_fallback` (the name servers that the workstation had before).
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import structlog

from inroad.core.dns_policy import DnsPolicy
from inroad.core.errors import HostChangeFailed
from inroad.core.recursion import Recursion
from inroad.daemon.dns_answering import Answering
from inroad.daemon.dns_fallback import Server
from inroad.daemon.dns_listener import Listener, TcpClient, listen_udp
from inroad.daemon.dns_lookups import AskCluster

ATTEMPTS = 20

log = structlog.get_logger()


def bind(family: int, target: tuple[Any, ...]) -> tuple[socket.socket, socket.socket]:
    """Bind UDP and TCP sockets to one address; raises OSError.

    Any port (0) means one that is free for both: a port free for the one only is given up again.
    """
    for _ in range(ATTEMPTS):
        udp, stream = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_STREAM)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            udp.bind(target)
            stream.bind(udp.getsockname())
        except OSError as error:
            udp.close()
            stream.close()
            if target[1]:
                raise
            problem = error
        else:
            return udp, stream
    raise problem


class DnsServer:
    """Answers the workstation's queries. To be made, `start`ed and used on one event loop."""

    def __init__(
        self,
        *,
        lookup: AskCluster,
        fallback: tuple[Server, ...] = (),
        mark: int = 0,
        policy: DnsPolicy,
        capacity: int = 20_000,
    ) -> None:
        self.addresses: list[Server] = []
        self._answering = Answering(lookup, policy, fallback, mark=mark, capacity=capacity)
        self._udp: list[Listener] = []
        self._tcp: list[asyncio.Server] = []
        self._connections: set[TcpClient] = set()

    async def start(self, addresses: Sequence[Server], *, elsewhere: bool = False) -> None:
        """Listen on UDP and TCP of each (address, port); port 0 takes any, `addresses` tells which.

        `elsewhere`: take another port of the address where the one that is wanted is taken. Raises
        `HostChangeFailed` when an address can't be had; then nothing listens.
        """
        try:
            for address, port in addresses:
                await self._listen(address, port, elsewhere=elsewhere)
        except OSError as error:
            await self.close()
            why = os.strerror(error.errno or errno.EIO).lower()
            raise HostChangeFailed(
                f"the DNS server can't listen on {address} port {port}: {why}",
                f"see who does: ss -lnup 'sport = :{port}'",
            ) from None
        policy = self._answering.policy
        if not policy.own_addresses:
            own = tuple(ip_address(address.partition("%")[0]) for address, _ in self.addresses)
            self._answering.configure(replace(policy, own_addresses=own))

    async def _listen(self, address: str, port: int, *, elsewhere: bool) -> None:
        family, _, _, _, target = socket.getaddrinfo(
            address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )[0]
        try:
            udp, stream = bind(family, target)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not elsewhere:
                raise
            udp, stream = bind(family, (target[0], 0, *target[2:]))
            log.warning("port taken, listening on another", address=address, port=port)
        try:
            connect = functools.partial(TcpClient, self._answering.handle, self._connections)
            self._tcp.append(await asyncio.get_running_loop().create_server(connect, sock=stream))
        except BaseException:
            udp.close()
            stream.close()
            raise
        self.addresses.append((address, udp.getsockname()[1]))
        self._udp.append(listen_udp(udp, self._answering.cache.recent, self._answering.handle))

    async def close(self) -> None:
        """Stop listening and forget all lookups. Idempotent."""
        for listener in self._udp:
            listener.close()
        for server in self._tcp:
            server.close()
        for connection in list(self._connections):
            connection.close()
        self._udp, self._tcp, self.addresses = [], [], []
        await self._answering.close()

    def configure(self, policy: DnsPolicy) -> None:
        """Use another policy from the next query on; answers that it does not touch stay cached."""
        self._answering.configure(policy)

    def set_fallback(self, servers: tuple[Server, ...]) -> None:
        """Ask these name servers for all other names; queries on their way end at the old ones."""
        self._answering.set_fallback(servers)

    def invalidate(self, services: tuple[str, ...]) -> None:
        """Answers that depend on these services (`service.namespace`) are no longer true."""
        self._answering.invalidate(services)

    def flush(self) -> None:
        """Forget all answers: they came from another cluster or another origin."""
        self._answering.flush()

    def counters(self) -> dict[str, int]:
        """Return what became of the queries since the start; `rule.<name>` counts them by rule."""
        return self._answering.counters()

    @property
    def policy(self) -> DnsPolicy:
        """What is being used."""
        return self._answering.policy

    @property
    def recursion(self) -> Recursion:
        """What is known about lookups that come back to us."""
        return self._answering.lookups.recursion

    async def check_recursion(self, patience: float = 0.2) -> bool:
        """Find out whether the cluster sends what it does not know back to us.

        Waits for `patience` seconds at most; a probe that comes back later still counts.
        """
        return await self._answering.lookups.check_recursion(patience)
