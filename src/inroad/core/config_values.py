"""What a configuration value may look like in a file, and what it becomes.

A reader takes what YAML or JSON made of the text and returns the value, or raises `ValueError` whose
message says what it should have been. `show` is the way back, for people and JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, TypeVar

from inroad.core import names as domain_names
from inroad.core.host_config import Address, Network

T = TypeVar("T")
Reader = Callable[[Any], Any]
Server = tuple[Address, int]

UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
DURATION = re.compile(r"[+]?(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h)")
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LOG_LEVELS = ("error", "warning", "info", "debug", "trace")


def boolean(raw: Any) -> bool:
    """Read true or false."""
    if not isinstance(raw, bool):
        raise ValueError("must be true or false")
    return raw


def duration(raw: Any) -> float:
    """Read seconds (a number) or a duration as Go writes it, `1.5h` or `2h45m`; returns seconds."""
    wanted = "must be seconds or a duration such as 500ms, 4s or 1h30m"
    if isinstance(raw, int | float) and not isinstance(raw, bool) and raw >= 0:
        return float(raw)
    if not isinstance(raw, str) or not re.fullmatch(rf"(?:{DURATION.pattern})+|0", raw):
        raise ValueError(wanted)
    total = 0.0
    for part in DURATION.findall(raw):
        unit = next(unit for unit in sorted(UNITS, key=len, reverse=True) if part.endswith(unit))
        total += float(part.removesuffix(unit)) * UNITS[unit]
    return total


def choice(*allowed: str) -> Reader:
    """Return a reader of one of a few words."""

    def read(raw: Any) -> str:
        if not isinstance(raw, str) or raw not in allowed:
            raise ValueError(f"must be {', '.join(allowed[:-1])} or {allowed[-1]}")
        return raw

    return read


def log_level(raw: Any) -> str:
    """Read a log level."""
    read: str = choice(*LOG_LEVELS)("warning" if raw == "warn" else raw)
    return read


def label(raw: Any) -> str:
    """Read a namespace's name."""
    if not isinstance(raw, str) or not LABEL.fullmatch(raw):
        raise ValueError("must be the name of a namespace")
    return raw


def labels(raw: Any) -> tuple[str, ...]:
    """Read a list of namespaces."""
    return _each(raw, label, "a list of namespaces")


def names(raw: Any) -> tuple[str, ...]:
    """Read a list of domain names."""
    return _each(raw, _name, "a list of names")


def suffixes(raw: Any) -> tuple[str, ...]:
    """Read a list of suffixes, such as `.example.com`."""
    return _each(raw, _name, "a list of suffixes such as .example.com")


def _name(raw: Any) -> str:
    if not isinstance(raw, str) or not raw.strip("."):
        raise ValueError(f"{raw!r} is no domain name")
    domain_names.parse(raw)
    return raw


def subnets(raw: Any) -> tuple[Network, ...]:
    """Read a list of subnets; one string is a list of one, or of several between commas."""
    return _each(
        raw.split(",") if isinstance(raw, str) else raw, _subnet, "a list of subnets such as 10.1.0.0/16"
    )


def _subnet(raw: Any) -> IPv4Network | IPv6Network:
    try:
        return ip_network(raw.strip())
    except (ValueError, AttributeError):
        pass
    try:
        meant = ip_network(raw.strip(), strict=False)
    except (ValueError, AttributeError):
        raise ValueError(f"{raw!r} is no subnet; write it like 10.1.0.0/16") from None
    raise ValueError(f"{raw!r} has bits set right of its prefix; is {meant} meant?")


def servers(raw: Any) -> tuple[Server, ...]:
    """Read one or more name servers, `192.0.2.53`, `192.0.2.53:5353` or `[2001:db8::53]:5353`."""
    return _each([raw] if isinstance(raw, str) else raw, _server, "a list of addresses such as 192.0.2.53:53")


def _server(raw: Any) -> Server:
    text = raw.strip() if isinstance(raw, str) else ""
    host, port = text, "53"
    if text.startswith("[") and "]" in text:
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") if rest.startswith(":") else ("53" if not rest else "")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = ip_address(host)
    except ValueError:
        raise ValueError(f"{raw!r} is no address; write it like 192.0.2.53 or [2001:db8::53]:5353") from None
    if not (port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{raw!r} has no port from 1 to 65535")
    return address, int(port)


def mappings(raw: Any) -> tuple[tuple[str, str], ...]:
    """Read a list of `{name: NAME, aliasFor: NAME or ADDRESS}`."""
    return _each(raw, _mapping, "a list of {name: ..., aliasFor: ...}")


def _mapping(raw: Any) -> tuple[str, str]:
    if not isinstance(raw, Mapping) or set(raw) != {"name", "aliasFor"}:
        raise ValueError("each mapping must have a name and an aliasFor")
    alias = raw["aliasFor"]
    try:
        return _name(raw["name"]), str(ip_address(alias))
    except ValueError:
        return _name(raw["name"]), _name(alias)


def _each(raw: Any, read: Callable[[Any], T], wanted: str) -> tuple[T, ...]:
    if not isinstance(raw, list | tuple):
        raise ValueError(f"must be {wanted}")
    return tuple(read(item) for item in raw)


def show(value: Any) -> Any:
    """Return a value as a file would hold it: numbers, text, lists and dictionaries of them."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_show_item(item) for item in value]
    return str(value)


def _show_item(item: Any) -> Any:
    if isinstance(item, tuple) and len(item) == 2:
        first, second = item
        if isinstance(second, int):
            return f"[{first}]:{second}" if first.version == 6 else f"{first}:{second}"
        return {"name": first, "aliasFor": second}
    return str(item)
