"""The Windows back end: our server and domain on the VIF's interface, our domains in the search list.

Windows asks the DNS servers of all interfaces, so ours gets every name and sends those that are not the
cluster's to the servers that the host had before. The interface's settings go with the interface; the
search list is the host's, so what we add to it is journalled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

from inroad.core.errors import HostChangeFailed
from inroad.core.host_config import ResolverConfig
from inroad.host.journal import Entry, Journal
from inroad.host.resolver.api import HostNames

KIND = "resolver.windows"

log = structlog.get_logger()


class DnsSettings(Protocol):
    """The part of the Windows API that is used; raises `OSError`."""

    def set_interface(self, alias: str, servers: tuple[str, ...], domain: str) -> None:
        """Set an interface's DNS servers of both families and its suffix; empty ones remove them."""

    def search_list(self) -> tuple[str, ...]:
        """Return the host's search list; empty where each interface's suffix is searched instead."""

    def set_search_list(self, domains: tuple[str, ...]) -> None:
        """Set the host's search list."""

    def servers(self, without: str) -> tuple[str, ...]:
        """Return the DNS servers of all interfaces but one, the preferred interface's first."""


class WindowsResolver:
    """Keeps the DNS settings of the VIF's interface and of the search list as wanted."""

    kind = "windows"

    def __init__(
        self,
        journal: Journal,
        settings: DnsSettings,
        *,
        reason: str,
        interface: str,
    ) -> None:
        self.reason = reason
        self._journal = journal
        self._entry = 0
        self._settings = settings
        self._interface = interface
        self._applied = ResolverConfig()
        self._added: tuple[str, ...] = ()
        self._names = HostNames()

    async def host_names(self) -> HostNames:
        """See `api.Resolver`."""
        try:
            servers = tuple((server, 53) for server in self._settings.servers(self._interface))
            search = tuple(one for one in self._settings.search_list() if one not in self._added)
        except OSError as error:
            log.warning("the DNS settings can't be read", problem=str(error))
        else:
            self._names = HostNames(servers, search)
        return self._names

    def watch(self, on_change: Callable[[], None]) -> None:
        """See `api.Resolver`: the servers are the interfaces', of which `Routes.watch` tells."""

    async def apply(self, wanted: ResolverConfig) -> None:
        """See `api.Resolver`."""
        try:
            self._set_interface(wanted)
            self._set_search(wanted.search if wanted.server is not None else ())
        except OSError as error:
            raise HostChangeFailed(f"Windows did not take the DNS settings: {error}") from None
        self._applied = wanted

    def _set_interface(self, wanted: ResolverConfig) -> None:
        now, then = _interface_settings(wanted), _interface_settings(self._applied)
        if now != then:
            self._settings.set_interface(wanted.interface or self._interface, *now)

    def _set_search(self, search: tuple[str, ...]) -> None:
        """Put our domains in front of the host's, which others may have changed meanwhile.

        An empty list stays empty: the interface's own suffix is searched then, and a list would put an
        end to that for all interfaces.
        """
        current = self._settings.search_list()
        theirs = tuple(domain for domain in current if domain not in self._added)
        ours = tuple(domain for domain in search if domain not in theirs) if theirs else ()
        if (*ours, *theirs) != current:
            entry = self._journal.record(KIND, {"added": list(ours)}) if ours else 0
            self._settings.set_search_list((*ours, *theirs))
            if self._entry:
                self._journal.done(self._entry)
            self._entry = entry
        self._added = ours

    async def close(self) -> None:
        """See `api.Resolver`."""
        await self.apply(ResolverConfig())


def _interface_settings(wanted: ResolverConfig) -> tuple[tuple[str, ...], str]:
    servers = (wanted.server, wanted.server6)
    return tuple(str(server[0]) for server in servers if server is not None), next(iter(wanted.search), "")


async def undo(entry: Entry, settings: DnsSettings) -> str:
    """Take what a crashed daemon added out of the search list; see `inroad.host.cleanup`."""
    added = {str(domain) for domain in entry.data["added"]}
    current = settings.search_list()
    kept = tuple(domain for domain in current if domain not in added)
    if kept == current:
        return ""
    settings.set_search_list(kept)
    return f"took {', '.join(sorted(added & set(current)))} out of the search list"
