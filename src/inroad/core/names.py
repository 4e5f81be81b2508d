"""Domain names as tuples of labels, and how a pod's resolver expands them.

A `Name` holds lower-case labels without the root label: `web.shop.` is `(b"web", b"shop")` and the root
is `()`. Suffixes are compared label by label, so `x.notshop` is never in `shop`, and a dot inside a label
is no boundary. Text from configuration goes through `parse`; text for people comes from `text`.
"""

from __future__ import annotations

import re

import idna

Name = tuple[bytes, ...]

MAX_LABEL = 63
MAX_WIRE = 255
"""Octets of a name on the wire, length octets and the root included (RFC 1035, 2.3.4)."""

_ESCAPE = re.compile(rb"\\(\d{3}|.)", re.DOTALL)
_PLAIN = re.compile(rb"[^\x21-\x2d\x2f-\x5b\x5d-\x7e]")


class BadName(ValueError):
    """The text is no domain name; the message says why."""


def parse(text: str) -> Name:
    """Read a name as people write it: any case, Unicode, `\\.` and `\\ddd` escapes, dots around it.

    One leading dot (`.com` in a suffix list) and one trailing dot are dropped. Raises `BadName`.
    """
    stripped = text.strip().removeprefix(".")
    if not stripped.endswith("\\."):
        stripped = stripped.removesuffix(".")
    if not stripped:
        if text.strip() in {"", ".."}:
            raise BadName(f"{text!r} is no domain name")
        return ()
    labels = tuple(_label(part, text) for part in _split(stripped))
    if wire_length(labels) > MAX_WIRE:
        raise BadName(f"{text!r} is longer than 253 characters")
    return labels


def _split(text: str) -> list[str]:
    """Split at dots that are not escaped."""
    parts, current, escaped = [], "", False
    for char in text:
        if char == "." and not escaped:
            parts.append(current)
            current = ""
            continue
        current += char
        escaped = char == "\\" and not escaped
    return [*parts, current]


def _label(part: str, whole: str) -> bytes:
    if part.isascii():
        label = _ESCAPE.sub(_unescape, part.encode())
    else:
        try:
            label = idna.encode(part, uts46=True)
        except idna.IDNAError as error:
            raise BadName(f"{whole!r}: {error}") from None
    if not label:
        raise BadName(f"{whole!r} has an empty label")
    if len(label) > MAX_LABEL:
        raise BadName(f"{whole!r} has a label of more than {MAX_LABEL} characters")
    return label.lower()


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if len(code) < 3:
        return code
    if int(code) > 255:
        raise BadName(f"\\{code.decode()} is no octet")
    return bytes((int(code),))


def text(name: Name) -> str:
    """Write a name for people, without the final dot (the root is `.`); odd octets are escaped."""
    return ".".join(_PLAIN.sub(_escape, label).decode() for label in name) or "."


def _escape(match: re.Match[bytes]) -> bytes:
    octet = match[0]
    return b"\\" + octet if octet in b".\\" else b"\\%03d" % octet[0]


def wire_length(name: Name) -> int:
    """Return the octets that the name takes on the wire, uncompressed."""
    return sum(map(len, name)) + len(name) + 1


def ends_with(name: Name, suffix: Name) -> bool:
    """Tell whether `name` is `suffix` or lies below it."""
    return not suffix or name[-len(suffix) :] == suffix


def longest_suffix(name: Name, suffixes: frozenset[Name]) -> Name | None:
    """Return the longest of `suffixes` that `name` ends with, or None."""
    for start in range(len(name) + 1):
        if name[start:] in suffixes:
            return name[start:]
    return None


def candidates(name: Name, search: tuple[Name, ...], ndots: int, *, bare: bool = True) -> tuple[Name, ...]:
    """List the names that a pod's resolver tries for `name`, in order (resolv.conf(5), `ndots`).

    A name with at least `ndots` dots is tried as it is first, any other one last. With `bare` false it
    is never tried as it is. Expansions that are too long are left out.
    """
    expanded = [name + domain for domain in search if wire_length(name + domain) <= MAX_WIRE]
    if bare:
        expanded.insert(0 if len(name) > ndots else len(expanded), name)
    return tuple(dict.fromkeys(expanded))


def search_for(search: tuple[Name, ...], namespace: Name) -> tuple[Name, ...]:
    """Put `namespace` in the place of the pod's own one in its search list.

    The pod's own is the first domain `<ns>.svc.<X>` whose `svc.<X>` is in the list as well; without
    one the list is returned as it is.
    """
    if not namespace:
        return search
    for index, domain in enumerate(search):
        if len(domain) > 2 and domain[1] == b"svc" and domain[1:] in search:
            return (*search[:index], namespace + domain[1:], *search[index + 1 :])
    return search


def domain_of_search(search: tuple[Name, ...]) -> Name | None:
    """Find the cluster domain in a pod's search list: the `X` of `<ns>.svc.X`, `svc.X` and `X`.

    `X` alone needs the company of one of the others; None where the list does not tell.
    """
    for domain in search:
        if len(domain) > 2 and domain[1] == b"svc":
            return domain[2:]
    for domain in search:
        if len(domain) > 1 and domain[0] == b"svc":
            return domain[1:]
    return None


def domain_of_service(owner: Name) -> Name | None:
    """Find the cluster domain in the reverse name of the API's service, `kubernetes.default.svc.X`."""
    head = (b"kubernetes", b"default", b"svc")
    return owner[3:] if owner[:3] == head and len(owner) > 3 else None
