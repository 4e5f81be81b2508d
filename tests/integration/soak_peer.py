"""The far end of a soak, in a pod: does what a connection's first line asks for, and echoes datagrams.

The line is `VERB SEED SIZE`. `fate SEED` tells how the connection with that seed ended: `open`, `eof`
or `reset`.
"""

from __future__ import annotations

import asyncio
import hashlib
import resource
import socket
import struct
from asyncio import StreamReader, StreamWriter

from soak_data import PORT, stream

fates: dict[int, str] = {}


async def sink(reader: StreamReader, writer: StreamWriter, _seed: int, _size: int) -> None:
    """Take everything; answer with its digest."""
    found = hashlib.sha256()
    while data := await reader.read(1 << 16):
        found.update(data)
    writer.write(found.hexdigest().encode())
    await writer.drain()


async def source(reader: StreamReader, writer: StreamWriter, seed: int, size: int) -> None:
    """Send a stream, then wait for the other side to close."""
    for piece in stream(seed, size):
        writer.write(piece)
        await writer.drain()
    writer.write_eof()
    await reader.read()


async def echo(reader: StreamReader, writer: StreamWriter, _seed: int, _size: int) -> None:
    """Send back what comes."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


async def cut(_reader: StreamReader, writer: StreamWriter, seed: int, size: int) -> None:
    """Send a stream and reset the connection."""
    for piece in stream(seed, size):
        writer.write(piece)
        await writer.drain()
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def stall(reader: StreamReader, _writer: StreamWriter, seed: int, _size: int) -> None:
    """Read nothing for as long as the client has not asked for this connection's fate."""
    while fates[seed] == "open":
        await asyncio.sleep(0.2)
    while await reader.read(1 << 16):
        pass


async def fate(_reader: StreamReader, writer: StreamWriter, seed: int, _size: int) -> None:
    """Tell how a connection ended; a stalled one reads on from now."""
    writer.write(fates.get(seed, "unknown").encode())
    fates[seed] = "asked" if fates.get(seed) == "open" else fates.get(seed, "unknown")
    await writer.drain()


VERBS = {"sink": sink, "source": source, "echo": echo, "cut": cut, "stall": stall, "fate": fate}


async def serve(reader: StreamReader, writer: StreamWriter) -> None:
    """Serve one connection and note how it ended."""
    try:
        verb, seed, size = (await reader.readline()).split()
    except (ValueError, OSError):
        writer.close()
        return
    if verb != b"fate":
        fates[int(seed)] = "open"
    try:
        await VERBS[verb.decode()](reader, writer, int(seed), int(size))
        ended = "eof"
    except OSError:  # shutting down what was just reset fails with ENOTCONN
        ended = "reset"
    if verb != b"fate":
        fates[int(seed)] = ended
    writer.close()


class Echo(asyncio.DatagramProtocol):
    """Sends each datagram back."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple) -> None:
        """Answer it."""
        self.transport.sendto(data, addr)


async def main() -> None:
    """Serve until killed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(serve, None, PORT, backlog=1024)
    for family, any_address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        sock = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind((any_address, PORT))
        await loop.create_datagram_endpoint(Echo, sock=sock)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
