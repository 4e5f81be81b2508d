"""Whether an address of the cluster answers without the VIF: then the workstation is inside the cluster."""

from __future__ import annotations

import asyncio
import socket

_SO_MARK = 36
MAX_ANSWER = 4_096


async def answers(address: str, port: int, *, mark: int, timeout: float, path: str = "/healthz") -> bool:
    """Tell whether an inroad program answers `ok` over HTTP at an address, past the VIF.

    `mark` makes the packets go the host's own ways; `timeout` in seconds. Anything else (silence, refusal,
    another server that happens to have that address) is no.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            if mark:
                sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
            async with asyncio.timeout(timeout):
                return await _ask(sock, address, port, path)
        except OSError:  # TimeoutError among them
            return False


async def _ask(sock: socket.socket, address: str, port: int, path: str) -> bool:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (address, port))
    host = f"[{address}]" if ":" in address else address
    await loop.sock_sendall(sock, f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
    answer = b""
    while len(answer) < MAX_ANSWER and (data := await loop.sock_recv(sock, MAX_ANSWER)):
        answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0].split(b" ")[1:2] == [b"200"] and body.strip() == b"ok"
