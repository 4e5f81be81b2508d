"""Reading `/etc/resolv.conf` as resolv.conf(5) says, forgiving what real files contain."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from inroad.core import names
from inroad.core.names import Name

MAX_NDOTS = 15
MAX_SEARCH = 32
Server = tuple[str, int]
"""(address as text, with `%scope` where it had one; port)."""


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """`servers` in the file's order, without doubles; `search` as labels."""

    servers: tuple[Server, ...] = ()
    search: tuple[Name, ...] = ()
    ndots: int = 1


def parse(text: str) -> ResolvConf:
    """Read the text of a resolv.conf; lines and words that make no sense are skipped.

    `#` and `;` start comments, at the start of a line or behind white space; of several `search` and
    `domain` lines the last one counts.
    """
    servers: list[Server] = []
    search: tuple[Name, ...] = ()
    ndots = 1
    for line in text.splitlines():
        keyword, *words = _words(line) or [""]
        match keyword:
            case "nameserver" if words:
                server = _server(words[0])
                if server is not None and server not in servers:
                    servers.append(server)
            case "search" | "domain" if words:
                search = _domains(words if keyword == "search" else words[:1])
            case "options":
                for word in words:
                    ndots = _ndots(word, ndots)
    return ResolvConf(tuple(servers), search, ndots)


def _words(line: str) -> list[str]:
    words = []
    for word in line.split():
        if word[0] in "#;":
            break
        words.append(word)
    return words


def _server(word: str) -> Server | None:
    """Read an address; Windows and macOS tools also write `[address]:port`."""
    address, port = word, 53
    if word.startswith("[") and "]" in word:
        address, _, rest = word[1:].partition("]")
        if rest.startswith(":") and rest[1:].isdigit():
            port = int(rest[1:])
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return (str(parsed), port) if 0 < port < 65_536 else None


def _domains(words: list[str]) -> tuple[Name, ...]:
    found: list[Name] = []
    for word in words[:MAX_SEARCH]:
        try:
            name = names.parse(word)
        except names.BadName:
            continue
        if name and name not in found:
            found.append(name)
    return tuple(found)


def _ndots(word: str, otherwise: int) -> int:
    key, _, value = word.partition(":")
    return min(int(value), MAX_NDOTS) if key == "ndots" and value.isdigit() else otherwise
