"""Puts back what a crashed daemon left on the host, from its journal."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from importlib import import_module

from inroad.core.errors import InroadError
from inroad.host.journal import Entry, Journal

Undo = Callable[[Entry], Awaitable[str]]
"""Undoes what an entry announced, whether or how far it was done; says in one line what it did, or ""."""

PARTS = {
    "routes": "inroad.host.routes.choose",
    "resolver": "inroad.host.resolver.choose",
    "vif": "inroad.host.vif.choose",
}
"""Module of each part of the host that journals; it offers `undo`. Imported only when needed."""


async def clean_up(journal_path: str | os.PathLike[str], parts: dict[str, Undo] | None = None) -> list[str]:
    """Undo what the journal says was not undone, newest first; returns a line for each thing.

    Only for when no daemon runs. Idempotent: what could not be undone stays in the journal and is
    tried again next time; its line starts with "could not".
    """
    journal = Journal(journal_path)
    lines: list[str] = []
    for entry in reversed(journal.pending()):
        try:
            undo = parts[entry.part] if parts is not None else _undo_of(entry.part)
            line = await undo(entry)
        except (InroadError, OSError, KeyError, ImportError, AttributeError) as error:
            lines.append(f"could not undo {entry.kind}: {error}")
            continue
        journal.done(entry.id)
        if line:
            lines.append(line)
    if not journal.pending():
        journal.clear()
    journal.close()
    return lines


def _undo_of(part: str) -> Undo:
    undo: Undo = import_module(PARTS[part]).undo
    return undo
