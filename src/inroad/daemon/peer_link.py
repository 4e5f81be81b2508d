"""A link to a traffic-manager or traffic-agent from its greeting to its end: lookups, and a lane for bulk.

One life only: who wants a new link after this one has ended makes a new `PeerLink`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from inroad import __version__
from inroad.core import messages
from inroad.core.errors import InroadError, TunnelFailed
from inroad.core.messages import Control, Hello, Lookup, LookupReply, Problem, Welcome
from inroad.kube.portforward import nobody_listened
from inroad.tunnel.api import Flow, FlowHandler, Link, Refusal

GREETING_TIMEOUT = 5.0

log = structlog.get_logger()

OpenLane = Callable[[], Awaitable[Link]]
"""Make another connection to the same pod; raises `InroadError`."""


class PeerLink:
    """A link that was just made to `peer` (for messages: "pod NAME"); `greet` before anything else.

    `on_message` gets what is neither greeting nor answer. `on_closed` is called once, with the reason, and
    only after the greeting: before, `greet` raises.
    """

    def __init__(
        self,
        link: Link,
        peer: str,
        open_lane: OpenLane,
        *,
        on_message: Callable[[Control], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self.link = link
        self.peer = peer
        self._open_lane = open_lane
        self._on_message = on_message
        self._on_closed = on_closed
        self._welcome: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
        self._lookups: dict[int, asyncio.Future[LookupReply]] = {}
        self._ids = itertools.count(1)
        self._lane: asyncio.Task[None] | None = None
        self._greeted = self._over = False
        link.on_open = _refuse_flow
        link.on_control = self._control
        link.on_closed = self._closed

    async def greet(self, hello: Hello) -> Welcome:
        """Say hello and wait for the answer; raises `TunnelFailed`. The bulk lane follows by itself."""
        self.send(hello)
        try:
            async with asyncio.timeout(GREETING_TIMEOUT):
                welcome = await self._welcome
            if self._over:
                raise TunnelFailed(f"{self.peer} closed the link")
        except TimeoutError:
            self.link.close("no greeting")
            raise TunnelFailed(
                f"{self.peer} did not answer within {GREETING_TIMEOUT:.0f} s on its client port",
                "check its log with kubectl logs",
            ) from None
        except BaseException:
            self.link.close("no greeting")
            raise
        self._greeted = True
        self._lane = asyncio.create_task(self._add_lane(welcome.session))
        return welcome

    async def _add_lane(self, session: str) -> None:
        """Give the link a second connection for bulk; without one it works too, only less smoothly."""
        try:
            bulk = await self._open_lane()
        except InroadError as error:
            log.info("no bulk lane", peer=self.peer, reason=str(error))
            return

        def on_control(payload: bytes) -> None:
            if not self._over and isinstance(messages.decode_control(payload), Welcome):
                self.link.adopt(bulk)
            else:
                bulk.close("not wanted")

        bulk.on_control = on_control
        hello = Hello(messages.PROTOCOL_VERSION, __version__, session=session, lane="bulk")
        bulk.send_control(messages.encode(hello))

    def send(self, message: Control) -> None:
        """Send a control message."""
        self.link.send_control(messages.encode(message))

    async def lookup(self, lookup: Lookup) -> LookupReply:
        """Have the peer look up (`lookup.id` is given here); a reply with `error` set where that fails."""
        number = next(self._ids)
        if self._over:
            return LookupReply(number, error="the link to the cluster broke")
        future: asyncio.Future[LookupReply] = asyncio.get_running_loop().create_future()
        self._lookups[number] = future
        self.send(msgspec.structs.replace(lookup, id=number))
        try:
            async with asyncio.timeout(lookup.deadline / 1000):
                return await future
        except TimeoutError:
            return LookupReply(number, error="the cluster did not answer in time")
        finally:
            del self._lookups[number]

    def close(self, reason: str) -> None:
        """End the link orderly; `on_closed` is not called any more."""
        self._on_closed = lambda reason: None
        self._end()
        self.link.close(reason)

    def _control(self, payload: bytes) -> None:
        try:
            message = messages.decode_control(payload)
        except msgspec.MsgspecError as error:
            log.warning("message not understood", peer=self.peer, error=str(error))
            return
        match message:
            case LookupReply():
                future = self._lookups.get(message.id)
                if future is not None and not future.done():
                    future.set_result(message)
            case Welcome():
                if not self._welcome.done():
                    self._welcome.set_result(message)
            case Problem():
                log.warning("the far side objects", peer=self.peer, problem=message.message)
                if message.fatal and not self._welcome.done():
                    remedy = "install the same inroad version on both sides"
                    self._welcome.set_exception(TunnelFailed(message.message, remedy))
            case _:
                self._on_message(message)

    def _closed(self, reason: str) -> None:
        self._end()
        if self._greeted:
            self._on_closed(reason)
        elif not self._welcome.done():
            self._welcome.set_exception(_not_greeted(self.peer, reason))

    def _end(self) -> None:
        self._over = True
        if self._lane is not None:
            self._lane.cancel()
        for number, future in self._lookups.items():
            if not future.done():
                future.set_result(LookupReply(number, error="the link to the cluster broke"))


def _not_greeted(peer: str, reason: str) -> TunnelFailed:
    """Return the error for a link that ended before the peer said a word."""
    if nobody_listened(reason):
        return TunnelFailed(
            f"{peer} is ready, but its node finds nobody on its client port",
            "under a sandboxing runtime (Kata, gVisor) that can't work, so choose another one: "
            "inroad upgrade --set runtimeClassName=NAME; under an ordinary one, read the pod's log",
        )
    return TunnelFailed(f"{peer} closed the link: {reason}")


def _refuse_flow(flow: Flow, request: bytes) -> FlowHandler:
    del request
    flow.refuse(Refusal.NOT_ALLOWED, "a workstation does not dial for the cluster")
    return flow.handler
