"""Sending records over a SEQPACKET pair: batched, and queued while the pair is full."""

from __future__ import annotations

import socket
from collections import deque

from inroad.host.vif.wire import FULL


class Outbox:
    """Collects records into messages and sends them when told to.

    `limit`: bytes that may wait while the other side does not read; beyond it `put` refuses. None
    means no limit: for events, of which none may be lost (their number is bounded by the flow table).
    """

    def __init__(self, sock: socket.socket, limit: int | None = None) -> None:
        self._sock = sock
        self._limit = limit
        self._batch = bytearray()
        self._queue: deque[bytes] = deque()
        self._queued = 0

    def put(self, *parts: bytes | memoryview) -> bool:
        """Add a record, given in parts. False: there is no room and it was not added."""
        if self._limit is not None and self._queued >= self._limit:
            return False
        batch = self._batch
        size = sum(map(len, parts))
        if batch and len(batch) + size > FULL:
            self._seal()
            batch = self._batch
        for part in parts:
            batch += part
        return True

    def flush(self) -> bool:
        """Send what waits; True: everything is sent, False: call again when the socket is writable.

        Raises `OSError` (EPIPE, ECONNRESET) when the other side is gone.
        """
        if self._batch:
            if not self._queue and self._send(self._batch):
                self._batch.clear()
                return True
            self._seal()
        while self._queue:
            if not self._send(self._queue[0]):
                return False
            self._queued -= len(self._queue.popleft())
        return True

    @property
    def pending(self) -> bool:
        """True when there is something to flush."""
        return bool(self._batch or self._queue)

    def _seal(self) -> None:
        self._queue.append(bytes(self._batch))
        self._queued += len(self._batch)
        self._batch.clear()

    def _send(self, message: bytes | bytearray) -> bool:
        try:
            self._sock.send(message)
        except (BlockingIOError, InterruptedError):
            return False
        return True
