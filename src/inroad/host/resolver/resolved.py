"""The systemd-resolved back end: our server and our domains on the VIF's link, told over D-Bus.

systemd-resolved asks the server of the link whose domain matches a name best. So names of the cluster
come to us and all others go where they went before; nothing else on the host is touched, and what we
set goes with the link. Calls and properties: org.freedesktop.resolve1(5).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from zlib import crc32

import structlog
from dbus_fast import BusType, DBusError, Message, MessageType
from dbus_fast.aio import MessageBus

from inroad.core.errors import HostChangeFailed
from inroad.core.host_config import Address, ResolverConfig
from inroad.core.reverse import zones
from inroad.host.resolver.api import STUBS, HostNames, Server

NAME = "org.freedesktop.resolve1"
PATH = "/org/freedesktop/resolve1"
MANAGER = "org.freedesktop.resolve1.Manager"
LINK = "org.freedesktop.resolve1.Link"
PATIENCE = 5.0
_BUS = "org.freedesktop.DBus"
_FAMILIES = {4: 2, 6: 10}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Call:
    """A method call of the manager for our link, without the link's index."""

    member: str
    signature: str
    value: Any


def calls(wanted: ResolverConfig) -> tuple[Call, ...]:
    """Write down the wanted state as calls, in the order in which names never go astray.

    The link gets its server last: until then nobody asks it. `no` everywhere because a global `yes`
    (DNS over TLS, DNSSEC) would make our server unusable.
    """
    if wanted.server is None:
        return ()
    address, port = wanted.server
    domains = [(domain, False) for domain in wanted.search]
    domains += [(domain, True) for domain in wanted.routed if domain not in wanted.search]
    domains += [(zone, True) for zone in zones(wanted.reverse)]
    domains.append((_search_marker(wanted.search), True))
    family, packed = _FAMILIES[address.version], address.packed
    server = (
        Call("SetLinkDNS", "a(iay)", [[family, packed]])
        if port == 53
        else Call("SetLinkDNSEx", "a(iayqs)", [[family, packed, port, ""]])
    )
    return (
        Call("SetLinkDefaultRoute", "b", False),
        Call("SetLinkLLMNR", "s", "no"),
        Call("SetLinkMulticastDNS", "s", "no"),
        Call("SetLinkDNSSEC", "s", "no"),
        Call("SetLinkDNSOverTLS", "s", "no"),
        Call("SetLinkDomains", "a(sb)", [list(domain) for domain in domains]),
        server,
    )


def _search_marker(search: tuple[str, ...]) -> str:
    """Return a routing-only domain that is nobody's and differs from one search list to another.

    systemd-resolved (seen in 252) writes resolv.conf's search line anew only when a domain comes or goes,
    not when one that it has becomes a search domain or ceases to be one: programs would go on searching
    the namespace before.
    """
    return f"{crc32(' '.join(search).encode()):08x}.search.inroad.invalid"


class Bus:
    """A connection to the system bus, and the one service that we talk to on it."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus

    @classmethod
    async def connect(cls, address: str | None = None) -> Bus:
        """Connect; raises `OSError` where there is no bus."""
        try:
            async with asyncio.timeout(PATIENCE):
                return cls(await MessageBus(bus_address=address, bus_type=BusType.SYSTEM).connect())
        except (DBusError, EOFError, TimeoutError, ValueError) as error:
            raise OSError(f"no system bus: {error}") from None

    async def call(
        self, member: str, signature: str = "", *body: Any, interface: str = MANAGER, path: str = PATH
    ) -> list[Any]:
        """Call a method of systemd-resolved; raises `HostChangeFailed`."""
        destination = _BUS if interface == _BUS else NAME
        message = Message(
            destination=destination,
            path="/org/freedesktop/DBus" if interface == _BUS else path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
        )
        try:
            async with asyncio.timeout(PATIENCE):
                reply = await self._bus.call(message)
        except (TimeoutError, OSError, EOFError) as error:
            raise HostChangeFailed(f"systemd-resolved did not answer {member}: {error}") from None
        if reply is None or reply.message_type is MessageType.ERROR:
            said = reply.body[0] if reply is not None and reply.body else "no answer"
            raise HostChangeFailed(f"systemd-resolved refused {member}: {said}")
        return list(reply.body)

    async def get(self, name: str, *, interface: str = MANAGER, path: str = PATH) -> Any:
        """Return a property's value; raises `HostChangeFailed`."""
        properties = "org.freedesktop.DBus.Properties"
        found = await self.call("Get", "ss", interface, name, interface=properties, path=path)
        return found[0].value

    async def owned(self) -> bool:
        """Tell whether systemd-resolved runs."""
        return bool((await self.call("NameHasOwner", "s", NAME, interface=_BUS))[0])

    async def watch(self, changed: Callable[[bool], None]) -> None:
        """Call `changed` when systemd-resolved comes (True) or goes, and when the bus itself goes."""
        rule = f"type='signal',sender='{_BUS}',member='NameOwnerChanged',arg0='{NAME}'"
        await self.call("AddMatch", "s", rule, interface=_BUS)

        def on_message(message: Message) -> None:
            if message.member == "NameOwnerChanged" and message.body and message.body[0] == NAME:
                changed(bool(message.body[2]))

        self._bus.add_message_handler(on_message)
        self._waiting = asyncio.ensure_future(self._until_gone(changed))

    async def _until_gone(self, changed: Callable[[bool], None]) -> None:
        with contextlib.suppress(Exception):  # whatever ended the connection, it ended
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        changed(False)

    def close(self) -> None:
        """Disconnect. Idempotent."""
        waiting: asyncio.Future[None] | None = getattr(self, "_waiting", None)
        if waiting is not None:
            waiting.cancel()
        self._bus.disconnect()


class ResolvedResolver:
    """Puts our server and domains on the VIF's link."""

    kind = "systemd-resolved"

    def __init__(self, bus: Bus, *, reason: str, interface: str) -> None:
        self.reason = reason
        self._bus = bus
        self._interface = interface
        self._index = 0
        self._applied: dict[str, Call] = {}

    async def host_names(self) -> HostNames:
        """See `api.Resolver`; links that take all names come first. Raises `HostChangeFailed`."""
        ours = _index_of(self._interface)
        domains = [entry for entry in await self._bus.get("Domains") if entry[0] != ours and not entry[2]]
        return HostNames(await self._servers(ours), tuple(domain for _, domain, _ in domains))

    async def _servers(self, ours: int) -> tuple[Server, ...]:
        found = [entry for entry in await self._bus.get("DNSEx") if entry[0] != ours]
        if not found:
            found = await self._bus.get("FallbackDNSEx")
        links = {entry[0] for entry in found if entry[0]}
        preferred = {link for link in links if await self._takes_all(link)}
        found.sort(key=lambda entry: entry[0] not in preferred)
        servers = dict.fromkeys(_server(*entry[:4]) for entry in found)
        # Asking systemd-resolved itself for a fallback would come back to us.
        return tuple(server for server in servers if server[0] not in STUBS)

    async def _takes_all(self, link: int) -> bool:
        try:
            path = (await self._bus.call("GetLink", "i", link))[0]
            return bool(await self._bus.get("DefaultRoute", interface=LINK, path=path))
        except HostChangeFailed:  # the link went meanwhile
            return False

    async def apply(self, wanted: ResolverConfig) -> None:
        """See `api.Resolver`; only what differs is called."""
        if wanted.server is None:
            await self._revert()
            return
        index = _index_of(wanted.interface)
        if not index:
            raise HostChangeFailed(f"there is no interface {wanted.interface} to give names to")
        if index != self._index:
            self._applied = {}
        self._index = index
        try:
            for call in calls(wanted):
                if self._applied.get(call.member) != call:
                    await self._bus.call(call.member, f"i{call.signature}", index, call.value)
                    self._applied[call.member] = call
        except HostChangeFailed:
            with contextlib.suppress(HostChangeFailed):
                await self._revert()
            raise

    async def _revert(self) -> None:
        if not self._index:
            return
        index, self._index, self._applied = self._index, 0, {}
        if _index_of(self._interface) == index:  # else the link is gone, and all that was set with it
            await self._bus.call("RevertLink", "i", index)

    def forget(self) -> None:
        """systemd-resolved was restarted: apply everything anew next time."""
        self._applied = {}

    async def close(self) -> None:
        """See `api.Resolver`."""
        with contextlib.suppress(HostChangeFailed):
            await self._revert()
        self._bus.close()


def _index_of(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def _server(link: int, family: int, packed: bytes, port: int) -> Server:
    del family  # the address's length says it
    address: Address = ip_address(bytes(packed))
    scope = ""
    if address.is_link_local and link:
        with contextlib.suppress(OSError):
            scope = f"%{socket.if_indextoname(link)}"
    return f"{address}{scope}", port or 53
