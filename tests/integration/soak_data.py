"""The bytes of a soak's flows: each end can make them from a seed, so nothing needs to be sent twice."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

PORT = 7000
CLOSED = 7001
"""A port of the peer's service that nobody serves."""

BLOCK = 65_521
"""Bytes; a prime, so that a block that is lost or doubled moves everything behind it."""


def stream(seed: int, size: int) -> Iterator[bytes]:
    """Yield `size` bytes in pieces; no two pieces of a flow are the same."""
    source = random.Random(seed)
    while size > 0:
        piece = source.randbytes(min(size, BLOCK))
        size -= len(piece)
        yield piece


def digest(seed: int, size: int) -> str:
    """Return the SHA-256 of a stream, in hexadecimal."""
    found = hashlib.sha256()
    for piece in stream(seed, size):
        found.update(piece)
    return found.hexdigest()
