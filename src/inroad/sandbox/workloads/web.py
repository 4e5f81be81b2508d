"""The HTTP server of the sandbox's `web` pods.

`/`, and any path not listed: JSON of pod, namespace, node, client_ip, host, path.
`/bytes/N`: N bytes, their SHA-256 in the header `X-Checksum-Sha256`. `/sha256/N`: that sum as text.
`/slow?ms=N`: the JSON, after N milliseconds. `PUT` or `POST` to any path: JSON of bytes and sha256 received.

HTTP/1.1 with keep-alive and pipelining, bodies with a length or in chunks, `Expect: 100-continue`.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
import socket
import sys
from urllib.parse import parse_qs, urlsplit

BLOCK = bytes(range(256)) * 256
"""64 KiB; downloads repeat it."""
LONGEST_HEAD = 65536


def content(size: int) -> bytes:
    """Return `size` bytes (at most a block) from the start of a block."""
    return BLOCK if size >= len(BLOCK) else BLOCK[:size]


@functools.lru_cache
def checksum(size: int) -> str:
    """Return the SHA-256 of a download of that size."""
    total = hashlib.sha256()
    for _ in range(size // len(BLOCK)):
        total.update(BLOCK)
    total.update(content(size % len(BLOCK)))
    return total.hexdigest()


class Head:
    """A request's first line and headers (names in lower case)."""

    def __init__(self, raw: bytes) -> None:
        lines = raw.decode("latin-1").split("\r\n")
        self.method, self.target, self.version = lines[0].split(" ")
        pairs = (line.split(":", 1) for line in lines[1:])
        self.headers = {name.lower().strip(): value.strip() for name, value in pairs}

    @property
    def keep_alive(self) -> bool:
        """Whether the connection goes on after the answer."""
        wish = self.headers.get("connection", "").lower()
        return wish == "keep-alive" if self.version == "HTTP/1.0" else wish != "close"


async def read_body(head: Head, reader: asyncio.StreamReader) -> tuple[int, str]:
    """Read a request's body to its end; return its size and SHA-256."""
    total, size = hashlib.sha256(), 0

    async def take(length: int) -> None:
        nonlocal size
        while length:
            data = await reader.read(min(length, 1 << 18))
            if not data:
                raise asyncio.IncompleteReadError(b"", length)
            total.update(data)
            size += len(data)
            length -= len(data)

    if head.headers.get("transfer-encoding", "").lower() == "chunked":
        while length := int((await reader.readline()).split(b";")[0], 16):
            await take(length)
            await reader.readline()
        while (await reader.readline()).strip():
            pass  # trailers
    else:
        await take(int(head.headers.get("content-length", "0")))
    return size, total.hexdigest()


class Server:
    """The server; where it runs comes from the environment (downward API)."""

    def __init__(self) -> None:
        self.identity = {
            "pod": os.environ.get("POD_NAME") or socket.gethostname(),
            "namespace": os.environ.get("POD_NAMESPACE", ""),
            "node": os.environ.get("NODE_NAME", ""),
        }

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests until one side has had enough."""
        client = writer.get_extra_info("peername")[0].removeprefix("::ffff:")
        try:
            while True:
                head = Head((await reader.readuntil(b"\r\n\r\n"))[:-4])
                await self.answer(head, client, reader, writer)
                await writer.drain()
                if not head.keep_alive:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except (ValueError, asyncio.LimitOverrunError):
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        finally:
            writer.close()

    async def answer(
        self, head: Head, client: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Write the answer to one request."""
        if head.headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        size, digest = await read_body(head, reader)
        url = urlsplit(head.target)
        kind, _, amount = url.path.lstrip("/").partition("/")
        if head.method in ("PUT", "POST"):
            self._json(writer, head, {**self.identity, "bytes": size, "sha256": digest})
        elif kind == "bytes" and amount.isdigit():
            await self._download(writer, head, int(amount))
        elif kind == "sha256" and amount.isdigit():
            self._send(
                writer, head, (await asyncio.to_thread(checksum, int(amount))).encode() + b"\n", "text/plain"
            )
        else:
            if kind == "slow":
                await asyncio.sleep(int(parse_qs(url.query).get("ms", ["0"])[0]) / 1000)
            seen = {"client_ip": client, "host": head.headers.get("host", ""), "path": head.target}
            self._json(writer, head, {**self.identity, **seen})

    def _json(self, writer: asyncio.StreamWriter, head: Head, body: dict[str, object]) -> None:
        self._send(writer, head, json.dumps(body).encode() + b"\n", "application/json")

    def _send(self, writer: asyncio.StreamWriter, head: Head, body: bytes, kind: str) -> None:
        start = self._start(head, len(body), f"Content-Type: {kind}\r\n")
        writer.write(start if head.method == "HEAD" else start + body)

    def _start(self, head: Head, length: int, extra: str) -> bytes:
        end = "keep-alive" if head.keep_alive else "close"
        return f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{extra}Connection: {end}\r\n\r\n".encode()

    async def _download(self, writer: asyncio.StreamWriter, head: Head, size: int) -> None:
        digest = await asyncio.to_thread(checksum, size)
        extra = f"Content-Type: application/octet-stream\r\nX-Checksum-Sha256: {digest}\r\n"
        writer.write(self._start(head, size, extra))
        while size and head.method != "HEAD":
            writer.write(content(size))
            size -= min(size, len(BLOCK))
            await writer.drain()


async def main(port: int) -> None:
    """Serve on all addresses of both families."""
    server = Server()
    listening = await asyncio.start_server(
        server.connection, host=None, port=port, backlog=1024, limit=LONGEST_HEAD
    )
    async with listening:
        await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8080))
