"""RFC 862 on TCP and UDP: what comes in goes back. `python -m inroad.sandbox.workloads.echo [PORT]`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

BATCH = 64


def answer(sock: socket.socket) -> None:
    """Send waiting datagrams back; on the socket itself, since asyncio's transport drops empty ones."""
    with contextlib.suppress(OSError):  # none left, no room to answer, or a port that has gone
        for _ in range(BATCH):
            data, peer = sock.recvfrom(1 << 16)
            sock.sendto(data, peer)


async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what one TCP client sends, until it has closed its half."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(port: int) -> None:
    """Serve on all addresses of both families."""
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(stream, host=None, port=port, backlog=1024)
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        sock = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.setblocking(False)
        loop.add_reader(sock, answer, sock)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7))
