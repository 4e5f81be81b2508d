"""Runs on the workstation: asks a real API server and kubelet what a port-forward does, prints JSON.

    python port_forward_client.py KUBECONFIG QUESTION

The pod `peer` in namespace `default` listens on its loopback: 7001 echoes, 7002 counts until the end and
answers the sum, 7003 sends as many bytes as a line asks for; on 7999 nobody listens.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp

from inroad.kube import tls
from inroad.kube.client import ApiClient
from inroad.kube.credentials import load

Socket, Session = aiohttp.ClientWebSocketResponse, aiohttp.ClientSession
V4 = "v4.channel.k8s.io"
PATH = "/api/v1/namespaces/default/pods/peer/portforward"


async def opened(client: ApiClient, session: Session, port: int) -> Socket:
    """Open a forward with a WebSocket of aiohttp's and read the two announcements of the port."""
    socket = await session.ws_connect(
        client.server + PATH,
        params={"ports": str(port)},
        protocols=[V4],
        max_msg_size=0,
        ssl=tls.context(client.credentials),
    )
    announcements = [(await socket.receive()).data for _ in range(2)]
    assert announcements == [bytes((channel,)) + port.to_bytes(2, "little") for channel in (0, 1)]
    return socket


async def protocols(client: ApiClient, session: Session) -> Any:
    """Which subprotocol is chosen, "" for a refusal."""
    found = {}
    for name in (V4, "v5.channel.k8s.io", "portforward.k8s.io", "SPDY/3.1+portforward.k8s.io"):
        try:
            upgraded = await client.upgrade(PATH, {"ports": "7001"}, [name])
            found[name] = upgraded.subprotocol
            upgraded.close()
        except Exception as error:
            found[name] = type(error).__name__
    return found


async def sizes(client: ApiClient, session: Session) -> Any:
    """What comes back of messages of several sizes: bytes, and the largest message."""
    found = {}
    for size in (1, 32_768, 32_769, 1 << 20, (32 << 20) - 1, 32 << 20):
        socket = await opened(client, session, 7001)
        sending = asyncio.create_task(socket.send_bytes(b"\0" + bytes(size)))
        total = largest = 0
        while total < size:
            message = await asyncio.wait_for(socket.receive(), 20)
            if message.type is not aiohttp.WSMsgType.BINARY:
                break
            total += len(message.data) - 1
            largest = max(largest, len(message.data) - 1)
        found[size] = [total, largest]
        sending.cancel()
        await socket.close()
    return found


async def closed_port(client: ApiClient, session: Session) -> Any:
    """What is said on a port where nobody listens."""
    socket = await opened(client, session, 7999)
    message, end = await socket.receive(), await socket.receive()
    return [message.data[0], message.data[1:].decode(), end.type.name, end.data]


async def ends(client: ApiClient, session: Session) -> Any:
    """Whether everything arrives that was sent before an end, from either side."""
    down = await opened(client, session, 7003)
    await down.send_bytes(b"\0" + b"5000000\n")
    received = 0
    while (message := await down.receive()).type is aiohttp.WSMsgType.BINARY:
        received += len(message.data) - 1
    up = await opened(client, session, 7002)
    for _ in range(50):
        await up.send_bytes(b"\0" + bytes(100_000))
    await up.close()
    return [received, message.type.name, message.data]


async def silence(client: ApiClient, session: Session) -> Any:
    """How many seconds a forward lives on which nobody says a word."""
    socket = await opened(client, session, 7001)
    begun = time.monotonic()
    while (await asyncio.wait_for(socket.receive(), 60)).type is aiohttp.WSMsgType.BINARY:
        pass
    return time.monotonic() - begun


QUESTIONS = {
    "silence": silence,
    "protocols": protocols,
    "sizes": sizes,
    "closed_port": closed_port,
    "ends": ends,
}


async def main() -> None:
    """Ask one question."""
    client = ApiClient(load(sys.argv[1], "", {}, lambda invoked: sys.exit("no plugins here")))
    try:
        async with Session() as session:
            print(json.dumps(await QUESTIONS[sys.argv[2]](client, session)))
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(main())
