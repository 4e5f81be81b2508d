"""A mesh's gateway: an HTTP proxy that routes by `Host`, and knows a host only for callers of some namespace.

`python -m inroad.sandbox.workloads.gateway PORT HOST@NAMESPACE=UPSTREAM:PORT ...`. A caller's namespace is
that of the pod with its address, as the API server says. Callers for whom there is no such host get 404.
One request a connection: enough to show where it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import json
import os
import ssl
import sys
from pathlib import Path

SECRETS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
Routes = dict[tuple[str, str], tuple[str, int]]
"""(host, namespace of the caller) to the upstream."""


def read_routes(words: list[str]) -> Routes:
    """Read `HOST@NAMESPACE=UPSTREAM:PORT` words."""
    found: Routes = {}
    for word in words:
        known, _, upstream = word.partition("=")
        host, _, namespace = known.partition("@")
        name, _, port = upstream.rpartition(":")
        found[host, namespace] = name, int(port)
    return found


def namespace_of(address: str) -> str:
    """Return the namespace of the pod with this address, "" where no pod has it."""
    server = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    tls = ssl.create_default_context(cafile=str(SECRETS / "ca.crt"))
    token = (SECRETS / "token").read_text().strip()
    with contextlib.closing(http.client.HTTPSConnection(*server, timeout=5, context=tls)) as connection:
        connection.request("GET", "/api/v1/pods", headers={"Authorization": f"Bearer {token}"})
        pods = json.load(connection.getresponse())["items"]
    for pod in pods:
        if address in (one["ip"] for one in pod["status"].get("podIPs", ())):
            return str(pod["metadata"]["namespace"])
    return ""


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on to their end."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def serve(routes: Routes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Route one request."""
    caller = writer.get_extra_info("peername")[0].removeprefix("::ffff:")
    with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        namespace = await asyncio.to_thread(namespace_of, caller)
        upstream = routes.get((headers.get("host", ""), namespace))
        if upstream is None:
            writer.write(NOT_FOUND)
            await writer.drain()
            return
        far_reader, far_writer = await asyncio.open_connection(*upstream)
        with contextlib.closing(far_writer):
            far_writer.write(head)
            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))


async def main(port: int, routes: Routes) -> None:
    """Serve on all addresses of both families."""
    server = await asyncio.start_server(functools.partial(serve, routes), host=None, port=port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), read_routes(sys.argv[2:])))
