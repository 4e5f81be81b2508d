"""Sends long answers, at a given pace when a fault asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from aiohttp import web

_STEP = 0.1
"""Seconds between two pieces of a slowed answer."""
_SMALL = 256 * 1024


def json_response(data: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return encoded JSON as an answer."""
    return web.Response(status=status, body=data, content_type="application/json", headers=headers)


class Stream:
    """An answer without a known length; `rate` in bytes a second, 0 for any."""

    def __init__(self, request: web.BaseRequest, rate: float) -> None:
        self._request = request
        self._rate = rate
        self.response = web.StreamResponse(headers={"Content-Type": "application/json"})
        self.response.enable_chunked_encoding()

    async def start(self) -> None:
        """Send the head."""
        await self.response.prepare(self._request)

    async def write(self, data: bytes) -> None:
        """Send bytes; returns when they have left, or wait in the socket."""
        if not self._rate:
            await self.response.write(data)
            return
        size = max(1, int(self._rate * _STEP))
        for start in range(0, len(data), size):
            await self.response.write(data[start : start + size])
            await asyncio.sleep(_STEP)


async def send_pieces(request: web.BaseRequest, pieces: Iterable[bytes], rate: float) -> web.StreamResponse:
    """Send an answer in pieces; small ones go out whole, with their length."""
    iterator = iter(pieces)
    first: list[bytes] = []
    size = 0
    for piece in iterator:
        first.append(piece)
        size += len(piece)
        if size > _SMALL:
            break
    if size <= _SMALL and not rate:
        return json_response(b"".join(first))
    stream = Stream(request, rate)
    await stream.start()
    await stream.write(b"".join(first))
    for piece in iterator:
        await stream.write(piece)
        await asyncio.sleep(0)  # a large list is work for a second: others come first now and then
    await stream.response.write_eof()
    return stream.response
