"""The adapter's addresses and metric by `netsh`, and what the host's firewall has to let in.

Source: netsh interface ipv4/ipv6, netsh advfirewall. The settings go with the adapter; the firewall's rule
would stay, so it is journalled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_network

from inroad.core.errors import HostChangeFailed
from inroad.core.host_config import Address
from inroad.core.reflect import POOLS
from inroad.host.journal import Entry, Journal
from inroad.host.routes.commands import Way
from inroad.host.routes.windows import NETSH, WindowsRoutes
from inroad.host.run import Completed
from inroad.host.vif.api import VifConfig
from inroad.host.vif.one_device import MTU, Opened
from inroad.host.vif.wintun import Waits, Wintun, WintunDevice

FIREWALL_RULE = "inroad"
KIND = "vif.firewall"
"""The journal's name for the rule of Windows' firewall, which does not go with the device."""
FIREWALL = "look at Windows Defender Firewall: a policy may forbid rules made on this computer"
Run = Callable[[Sequence[str]], Awaitable[Completed]]


def settings(name: str, address: Address, mtu: int) -> list[tuple[str, ...]]:
    """Return the commands that configure one family of the adapter, until the next boot at most.

    The metric is the lowest there is: the DNS servers of that interface are asked first. Without
    `dadtransmits=0` the address could not be used for a second.
    """
    if address.version == 4:
        family = (NETSH, "interface", "ipv4")
        add: tuple[str, ...] = (
            *family,
            "set",
            "address",
            f"name={name}",
            "source=static",
            f"address={address}",
            "mask=255.255.255.255",
            "store=active",
        )
    else:
        family = (NETSH, "interface", "ipv6")
        add = (*family, "add", "address", f"interface={name}", f"address={address}/128", "store=active")
    return [
        (*family, "set", "interface", f"interface={name}", "metric=1", "dadtransmits=0", "store=active"),
        (*family, "set", "subinterface", f"interface={name}", f"mtu={mtu}", "store=active"),
        add,
    ]


def let_in(addresses: Sequence[Address]) -> tuple[str, ...]:
    """Return the command that has the firewall let in what we send from the pools to our addresses."""
    return (
        *(NETSH, "advfirewall", "firewall", "add", "rule", f"name={FIREWALL_RULE}", "dir=in"),
        *("action=allow", "protocol=TCP", f"localip={','.join(map(str, addresses))}"),
        f"remoteip={','.join(POOLS[version] for version in sorted({a.version for a in addresses}))}",
    )


def shut_out() -> tuple[str, ...]:
    """Return the command that removes that rule."""
    return (NETSH, "advfirewall", "firewall", "delete", "rule", f"name={FIREWALL_RULE}")


async def open_windows(
    config: VifConfig, library: Wintun, waits: Waits, run: Run, journal: Journal | None
) -> Opened:
    """Make the adapter with its addresses, the routes that reflection needs, and a rule of the firewall."""
    device, mtu = WintunDevice(library, waits, config.name), min(config.mtu, MTU)
    entry: int | None = None
    try:
        versions, notes = await _configure(config, run, mtu)
        addresses = [address for address in config.addresses if address.version in versions]
        entry = journal.record(KIND, {"name": FIREWALL_RULE}) if journal is not None else None
        await _done(run, shut_out())  # one of a run whose journal was lost
        done = await _done(run, let_in(addresses))
        if not done.ok:  # another firewall may be in its place; whether it lets us in, we shall see
            notes.append(f"no firewall rule ({_said(done)})")
    except BaseException:
        device.close()
        if entry is not None and journal is not None:
            await _shut(run, journal, entry)
        raise

    async def undo() -> None:
        await _shut(run, journal, entry)

    return Opened(device, mtu, tuple(versions), tuple(notes), FIREWALL, undo)


async def _configure(config: VifConfig, run: Run, mtu: int) -> tuple[list[int], list[str]]:
    """Give the adapter its addresses; return the IP versions that it has, and what was not possible."""
    versions: list[int] = []
    notes: list[str] = []
    for address in config.addresses:
        if address.version in versions:
            continue
        pool = Way(ip_network(POOLS[address.version]), config.name)
        for argv in (*settings(config.name, address, mtu), WindowsRoutes().add(pool)):
            done = await _done(run, argv)
            if done.ok:
                continue
            if address.version == 4:
                raise HostChangeFailed(f"{config.name} can't be configured: {_said(done)}")
            notes.append(f"no IPv6 on this host ({_said(done)})")
            break
        else:
            versions.append(address.version)
    return versions, notes


async def undo(entry: Entry, run: Run) -> str:
    """Remove the firewall's rule after a crash; see `inroad.host.cleanup`."""
    done = await _done(run, shut_out())
    return f"removed the firewall rule {entry.data['name']}" if done.ok else ""


async def _shut(run: Run, journal: Journal | None, entry: int | None) -> None:
    await _done(run, shut_out())
    if journal is not None and entry is not None:
        journal.done(entry)


async def _done(run: Run, argv: Sequence[str]) -> Completed:
    try:
        return await run(argv)
    except OSError as problem:  # TimeoutError among them
        raise HostChangeFailed(f"{argv[0]} did not run: {problem}") from problem


def _said(done: Completed) -> str:
    return " ".join((done.stderr or done.stdout).split()) or f"status {done.status}"
