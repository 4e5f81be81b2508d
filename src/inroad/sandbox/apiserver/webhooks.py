"""Calls an admission webhook over HTTPS: at its URL, or at a pod behind its Service.

The pods' network is not the API server's: as with port-forward, the connection is made inside the pod.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from typing import Any
from urllib.parse import urlsplit

import msgspec

from inroad.sandbox.apiserver.admission import CallFailed
from inroad.sandbox.apiserver.podlink import DialPod
from inroad.sandbox.apiserver.store import Store

Json = dict[str, Any]
_LARGEST = 8 * 1024 * 1024


class Webhooks:
    """Reaches the webhooks of one cluster."""

    def __init__(self, store: Store, dial_pod: DialPod) -> None:
        self._store = store
        self._dial_pod = dial_pod

    async def __call__(self, hook: Json, review: Json) -> Json:
        """Send a review and return the answer; `CallFailed`."""
        config = hook.get("clientConfig") or {}
        seconds = float(hook.get("timeoutSeconds") or 10)
        url = config.get("url") or _service_url(config.get("service") or {})
        try:
            async with asyncio.timeout(seconds):
                return await self._post(config, url, msgspec.json.encode(review))
        except TimeoutError:
            raise CallFailed(f'Post "{url}": context deadline exceeded') from None
        except (OSError, EOFError, LookupError, ValueError, msgspec.DecodeError) as error:
            raise CallFailed(f'Post "{url}": {error}') from None

    async def _post(self, config: Json, url: str, body: bytes) -> Json:
        parts = urlsplit(url)
        host = parts.hostname or ""
        trust = _trust(config)
        if "service" in config:
            sock = await self._dial(config["service"])
            reader, writer = await asyncio.open_connection(sock=sock, ssl=trust, server_hostname=host)
        else:
            reader, writer = await asyncio.open_connection(host, parts.port or 443, ssl=trust)
        try:
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            head = (
                f"POST {path or '/'} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
                f"Accept: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            status, answer = await _answer(reader)
        finally:
            writer.close()
        if status != 200:
            raise CallFailed(f"the server answered {status}")
        return msgspec.json.decode(answer, type=dict[str, Any])

    async def _dial(self, service: Json) -> Any:
        namespace, name = service["namespace"], service["name"]
        number = service.get("port", 443)
        found = self._store.get("services", name, namespace)
        port = next((one for one in found["spec"].get("ports") or () if one["port"] == number), None)
        if port is None:
            raise LookupError(f'no service port {number} found for service "{name}"')
        labels = f"kubernetes.io/service-name={name}"
        for one in self._store.list("endpointslices", namespace, labels=labels):
            targets = [p["port"] for p in one.get("ports") or () if p.get("name", "") == port.get("name", "")]
            for endpoint in one.get("endpoints") or ():
                ready = (endpoint.get("conditions") or {}).get("ready", True)
                pod = (endpoint.get("targetRef") or {}).get("name")
                if ready and pod and targets:
                    return await self._dial_pod(namespace, pod, targets[0])
        raise LookupError(f'no endpoints available for service "{name}"')


def _service_url(service: Json) -> str:
    path = service.get("path") or ""
    name, namespace = service.get("name"), service.get("namespace")
    return f"https://{name}.{namespace}.svc:{service.get('port', 443)}{path}"


def _trust(config: Json) -> ssl.SSLContext:
    bundle = config.get("caBundle")
    return ssl.create_default_context(cadata=base64.b64decode(bundle).decode() if bundle else None)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read an HTTP/1.1 answer to a request that said `Connection: close`."""
    status_line = (await reader.readline()).split()
    if len(status_line) < 2 or not status_line[0].startswith(b"HTTP/1."):
        raise EOFError("no HTTP answer")
    headers: dict[bytes, bytes] = {}
    while line := (await reader.readline()).strip():
        key, _, value = line.partition(b":")
        headers[key.strip().lower()] = value.strip().lower()
    if headers.get(b"transfer-encoding") == b"chunked":
        body = bytearray()
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readline()
            if len(body) > _LARGEST:
                raise EOFError("the answer is too large")
        return int(status_line[1]), bytes(body)
    size = int(headers.get(b"content-length", b"-1"))
    if size > _LARGEST:
        raise EOFError("the answer is too large")
    return int(status_line[1]), await (reader.readexactly(size) if size >= 0 else reader.read(_LARGEST))
