"""The macOS back end: a file in `/etc/resolver` for each domain that is ours (resolver(5)).

The system reads a file as soon as it is there, so each is written beside its place and moved into it.
Only files called `inroad.*` are ever touched; those of an earlier run go with the first `apply`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import structlog

from inroad.core import names
from inroad.core.errors import HostChangeFailed
from inroad.core.host_config import ResolverConfig
from inroad.core.reverse import zones
from inroad.host.file_watch import FileWatch
from inroad.host.journal import Entry, Journal
from inroad.host.resolver.api import HostNames
from inroad.host.resolver.places import Places

PREFIX = "inroad."
SEARCH = "inroad.local"
"""The file with the search path, so that single labels are asked of us."""
KIND = "resolver.macos"
_HEADING = "# Made by inroad and removed when it disconnects.\n"

log = structlog.get_logger()


class MacosResolver:
    """Keeps the `inroad.*` files of a directory as wanted."""

    kind = "macos"

    def __init__(self, journal: Journal, places: Places, *, reason: str) -> None:
        self.reason = reason
        self._journal = journal
        self._entry = 0
        self._places = places
        self._directory = places.macos_directory
        self._watch: FileWatch | None = None

    async def host_names(self) -> HostNames:
        """See `api.Resolver`. macOS keeps the servers of the primary service in resolv.conf."""
        conf = self._places.read_resolv_conf()
        return HostNames(conf.servers, tuple(map(names.text, conf.search)))

    def watch(self, on_change: Callable[[], None]) -> None:
        """See `api.Resolver`."""
        self._watch = self._places.watch(on_change)

    async def apply(self, wanted: ResolverConfig) -> None:
        """See `api.Resolver`; files that are right already are not written again."""
        files = contents(wanted)
        try:
            if files and not self._entry:
                self._entry = self._journal.record(KIND, {"directory": str(self._directory)})
                self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            before = _read(self._directory)
            try:
                _change(self._directory, before, files)
            except OSError:
                _change(self._directory, _read(self._directory), before)
                raise
            if not files and self._entry:
                self._journal.done(self._entry)
                self._entry = 0
        except OSError as error:
            raise HostChangeFailed(f"{self._directory} could not be changed: {error.strerror}") from None

    async def close(self) -> None:
        """See `api.Resolver`."""
        if self._watch is not None:
            self._watch.close()
        await self.apply(ResolverConfig())


def contents(wanted: ResolverConfig) -> dict[str, str]:
    """Return the text of each file by its name; none where nothing is wanted."""
    if wanted.server is None:
        return {}
    address, port = wanted.server
    server = f"nameserver {address}\nport {port}\n"
    files = {}
    for domain in (*wanted.routed, *zones(wanted.reverse)):
        plain = names.text(names.parse(domain))
        if "/" in plain:
            log.warning("not a domain for a file of its own", domain=plain)
            continue
        files[PREFIX + plain] = f"{_HEADING}domain {plain}\n{server}"
    if wanted.search:
        files[SEARCH] = f"{_HEADING}domain {SEARCH}\nsearch {' '.join(wanted.search)}\n{server}"
    return files


def _read(directory: Path) -> dict[str, str]:
    try:
        found = sorted(directory.glob(f"{PREFIX}*"))
    except OSError:
        return {}
    return {path.name: path.read_text(errors="replace") for path in found if path.is_file()}


def _change(directory: Path, before: dict[str, str], wanted: dict[str, str]) -> None:
    for name, text in wanted.items():
        if before.get(name) != text:
            _write(directory, name, text)
    for name in before.keys() - wanted.keys():
        (directory / name).unlink(missing_ok=True)


def _write(directory: Path, name: str, text: str) -> None:
    """Put a whole file in place at once; a hidden one is nobody's domain."""
    fresh = directory / f".{name}.new"
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        fresh.replace(directory / name)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


async def undo(entry: Entry) -> str:
    """Remove the files of a crashed daemon; see `inroad.host.cleanup`."""
    directory = Path(str(entry.data["directory"]))
    found = [*_read(directory), *(path.name for path in directory.glob(f".{PREFIX}*.new"))]
    for name in found:
        (directory / name).unlink(missing_ok=True)
    return f"removed {len(found)} files from {directory}" if found else ""
