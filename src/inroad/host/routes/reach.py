"""Whether an address of the cluster answers without the VIF: then the workstation is inside the cluster."""

from __future__ import annotations

import asyncio
import secrets
import socket
from struct import pack, unpack_from

_SO_MARK = 36
MAX_ANSWER = 4_096
_QUERY, _RESPONSE, _RCODE = 0x0100, 0x8000, 0x000F
_IN_A = b"\0\0\1\0\1"


async def answers(address: str, port: int, *, mark: int, timeout: float, path: str = "/healthz") -> bool:
    """Tell whether an inroad program answers `ok` over HTTP at an address, past the VIF.

    `mark` makes the packets go the host's own ways; `timeout` in seconds. Anything else (silence, refusal,
    another server that happens to have that address) is no.
    """
    with _socket(address, socket.SOCK_STREAM) as sock:
        try:
            async with asyncio.timeout(timeout):
                await _connect(sock, address, port, mark)
                return await _is_healthy(sock, address, port, path)
        except OSError:  # TimeoutError among them
            return False


async def resolves(server: str, name: str, *, mark: int, timeout: float, port: int = 53) -> bool:
    """Tell whether a name server at an address knows a name (of ASCII, without a trailing dot), past the VIF.

    Arguments as with `answers`. A name server that denies the name is no.
    """
    number = secrets.randbits(16)
    labels = (label.encode() for label in name.split("."))
    question = b"".join(bytes((len(label),)) + label for label in labels) + _IN_A
    loop = asyncio.get_running_loop()
    with _socket(server, socket.SOCK_DGRAM) as sock:
        try:
            async with asyncio.timeout(timeout):
                await _connect(sock, server, port, mark)
                await loop.sock_sendall(sock, pack("!6H", number, _QUERY, 1, 0, 0, 0) + question)
                answer = await loop.sock_recv(sock, MAX_ANSWER)
        except OSError:
            return False
    if len(answer) < 12:
        return False
    told, flags, _, answers = unpack_from("!4H", answer)
    return told == number and flags & _RESPONSE > 0 and not flags & _RCODE and answers > 0


def _socket(address: str, kind: socket.SocketKind) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)


async def _connect(sock: socket.socket, address: str, port: int, mark: int) -> None:
    sock.setblocking(False)
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
    await asyncio.get_running_loop().sock_connect(sock, (address, port))


async def _is_healthy(sock: socket.socket, address: str, port: int, path: str) -> bool:
    loop = asyncio.get_running_loop()
    host = f"[{address}]" if ":" in address else address
    await loop.sock_sendall(sock, f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
    answer = b""
    while len(answer) < MAX_ANSWER and (data := await loop.sock_recv(sock, MAX_ANSWER)):
        answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0].split(b" ")[1:2] == [b"200"] and body.strip() == b"ok"
