"""`stalled_reader.py HOST SIZE COUNT`: small requests beside a download of SIZE bytes that nobody reads.

Prints a line `ready` before it begins and waits for one on stdin; then, as JSON, how many of the COUNT
requests were answered. Waits for another line, reads on, and prints how many bytes came whole.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys

CONNECTIONS = 20
PATIENCE = 60.0
FIRST, MORE = 4 << 20, 32 << 20
BLOCK = bytes(range(256)) * 256


class Download:
    """One download, read only when it is asked for, each byte checked."""

    def __init__(self, host: str, size: int) -> None:
        self.sock = socket.create_connection((host, 80), timeout=PATIENCE)
        self.sock.sendall(f"GET /bytes/{size} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.sock.recv(1)
        assert b" 200 " in head, head
        self.position = 0

    def read(self, size: int) -> int:
        """Read that much more; returns the position."""
        end = self.position + size
        while self.position < end:
            data = self.sock.recv(min(end - self.position, len(BLOCK)))
            begin = self.position % len(BLOCK)
            assert data and data == (BLOCK + BLOCK)[begin : begin + len(data)], self.position
            self.position += len(data)
        return self.position


async def small(host: str, count: int) -> int:
    """Ask `count` times on one connection; returns how many answers came whole."""
    reader, writer = await asyncio.open_connection(host, 80)
    for _ in range(count):
        writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        json.loads(await reader.readexactly(length))
    writer.close()
    return count


async def requests(host: str, count: int) -> int:
    """Ask `count` times, on several connections at once."""
    async with asyncio.timeout(PATIENCE):
        each = count // CONNECTIONS
        return sum(await asyncio.gather(*(small(host, each) for _ in range(CONNECTIONS))))


def main() -> None:
    """Run the conversation that the module's docstring tells."""
    host, size, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    download = Download(host, size)
    download.read(FIRST)
    asyncio.run(requests(host, CONNECTIONS))
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asyncio.run(requests(host, count))), flush=True)
    sys.stdin.readline()
    print(json.dumps(download.read(MORE)), flush=True)


if __name__ == "__main__":
    main()
