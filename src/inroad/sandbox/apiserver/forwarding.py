"""The way of a `pods/portforward` request to the protocol that its client speaks."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from inroad.sandbox.apiserver import portforward, spdyforward, websocket
from inroad.sandbox.apiserver.requests import Query, Target
from inroad.sandbox.apiserver.status import ApiError, bad_request
from inroad.sandbox.apiserver.store import Store
from inroad.sandbox.apiserver.takeover import Handed, Takeover, switch_protocols

_PROTOCOLS = (spdyforward.TUNNEL, portforward.CHANNELS)


class Forward(Protocol):
    """One port-forward, whatever it speaks."""

    connection: Takeover

    async def run(self, dial: portforward.Dial) -> None:
        """Begin; returns when what the request named is dialled."""


class Forwarding:
    """Opens port-forwards and keeps a list of them."""

    def __init__(self, store: Store, dial_pod: portforward.DialPod) -> None:
        self._store = store
        self._dial_pod = dial_pod
        self._open: set[Forward] = set()

    def abort(self) -> int:
        """Drop all connections now; return how many there were."""
        connections = [forward.connection for forward in self._open]
        for connection in connections:
            connection.abort()
        return len(connections)

    async def answer(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        """Serve one port-forward to its end."""
        namespace = target.namespace or ""
        pod = self._store.get("pods", target.name, namespace)
        if not pod["spec"].get("nodeName"):
            raise bad_request(f"pod {target.name} does not have a host assigned")
        try:
            forward, answer = _negotiated(request, target.name)
        except portforward.BadPorts as error:
            return web.Response(status=400, text=f"{error}\n")
        except websocket.Refused as error:
            return web.Response(status=403, text=f"{error}\n")
        self._open.add(forward)
        try:
            switch_protocols(request, answer, forward.connection)
            await forward.run(lambda port: self._dial_pod(namespace, target.name, port))
            await forward.connection.done
        finally:
            self._open.discard(forward)
        return Handed()


def _negotiated(request: web.BaseRequest, pod: str) -> tuple[Forward, dict[str, str]]:
    upgrade = request.headers.get("Upgrade", "").lower()
    if upgrade == "spdy/3.1":
        offered = [name.strip() for name in request.headers.getall("X-Stream-Protocol-Version", [])]
        if offered and spdyforward.STREAMS not in offered:
            raise websocket.Refused(
                f"unable to upgrade: unable to negotiate protocol: client supports {offered}, "
                f"server accepts [{spdyforward.STREAMS}]"
            )
        forward = spdyforward.direct(pod)
        answer = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
        return forward, answer | {"X-Stream-Protocol-Version": spdyforward.STREAMS}
    if upgrade != "websocket":
        raise ApiError(400, "BadRequest", "Upgrade request required")
    headers = {key.lower(): value for key, value in request.headers.items()}
    offered = [
        name.strip()
        for header in request.headers.getall("Sec-WebSocket-Protocol", [])
        for name in header.split(",")
    ]
    if spdyforward.TUNNEL in offered:
        return spdyforward.tunnelled(pod), websocket.handshake(headers, offered, _PROTOCOLS)
    ports = portforward.ports_of(Query(request.query_string))
    answer = websocket.handshake(headers, offered, _PROTOCOLS)
    return portforward.ChannelForward(pod, ports), answer
