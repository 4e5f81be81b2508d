"""Faults on demand: what goes wrong between a client and a real API server, switched on and off by name.

`Faults.apply({"fault": NAME, ...})` is the one door, for the sandbox's own control and for administrators
over HTTP (`POST /debug/faults`). Names and parameters:

* `delay` seconds, `throttle` retry_after (429), `fail` code (5xx), `slow` bytes_per_second: for requests that
  `match` (`VERBS:RESOURCES[:NAMESPACE][@USER]`, default all), `count` times (default until `clear`)
* `stall`: watches that match stay open and say nothing; `break`: they end now
* `expire`: forget all old versions, so that watches and continued lists get 410
* `hangup`: cut the port-forwards alone; `reset`: cut every connection
* `refuse`: accept no connection, for `seconds` or until `clear`
* `restart` seconds: as `refuse` and `reset`, and what a server keeps in memory only is gone
* `clear`: everything works again
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from inroad.sandbox.apiserver.auth import User
from inroad.sandbox.apiserver.requests import Target
from inroad.sandbox.apiserver.rights import Restriction
from inroad.sandbox.apiserver.status import ApiError, bad_request, too_many_requests

Json = dict[str, Any]
_ONGOING = ("delay", "throttle", "fail", "slow", "stall")


class Afflicted(Protocol):
    """What faults need from a server."""

    def break_watches(self, match: Restriction) -> int:
        """End the watches that match; return how many."""

    def forget_versions(self) -> None:
        """Drop the history of watches and the versions of lists."""

    def hang_up(self) -> int:
        """Cut the port-forwards; return how many."""

    def reset_connections(self) -> int:
        """Cut all connections; return how many."""

    async def listen(self, yes: bool) -> None:
        """Accept connections, or refuse them."""


@dataclass(slots=True)
class Rule:
    """One fault that goes on."""

    kind: str
    value: float
    match: Restriction
    text: str
    left: int | None
    """How many more requests it meets; None: all."""

    def state(self) -> Json:
        """Return it as `Faults.apply` takes it."""
        state: Json = {"fault": self.kind, "match": self.text}
        if self.kind != "stall":
            state["value"] = self.value
        if self.left is not None:
            state["count"] = self.left
        return state


class Faults:
    """The faults of one server."""

    def __init__(self, server: Afflicted) -> None:
        self._server = server
        self._rules: list[Rule] = []
        self._changed = asyncio.Event()
        self._down: asyncio.Task[None] | None = None

    async def apply(self, request: Json) -> Json:
        """Do what a request says (see above) and return the present state; 400."""
        name = request.get("fault", "")
        match = _parse(request.get("match", "*:*"))
        if name in _ONGOING:
            self._rules.append(_rule(name, request, match))
        elif name == "clear":
            self._rules.clear()
            await self._refuse(None, back=True)
        elif name == "break":
            return self.state() | {"ended": self._server.break_watches(match)}
        elif name == "expire":
            self._server.forget_versions()
        elif name == "hangup":
            return self.state() | {"cut": self._server.hang_up()}
        elif name == "reset":
            return self.state() | {"cut": self._server.reset_connections()}
        elif name in ("refuse", "restart"):
            await self._go_down(name, request)
        else:
            raise bad_request(f"there is no fault {name!r}")
        self._changed.set()
        self._changed = asyncio.Event()
        return self.state()

    def state(self) -> Json:
        """Return what goes on."""
        return {"faults": [rule.state() for rule in self._rules], "refusing": self._down is not None}

    async def before(self, user: User, target: Target) -> None:
        """Meet one request before it is looked at: wait, or raise 429 or 5xx."""
        for rule in tuple(self._rules):
            if rule.kind not in ("delay", "throttle", "fail") or not rule.match.meets(user, target):
                continue
            self._count(rule)
            if rule.kind == "delay":
                await asyncio.sleep(rule.value)
            elif rule.kind == "throttle":
                raise too_many_requests(int(rule.value))
            else:
                code = int(rule.value)
                reason = {500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}.get(
                    code, "Unknown"
                )
                raise ApiError(code, reason, "the sandbox was asked to fail", details={})

    def rate(self, user: User, target: Target) -> float:
        """Return how many bytes a second the answer may have; 0: any."""
        for rule in self._rules:
            if rule.kind == "slow" and rule.match.meets(user, target):
                self._count(rule)
                return rule.value
        return 0.0

    async def stalled(self, user: User, target: Target) -> None:
        """Wait while a stall meets this watch."""
        while any(rule.kind == "stall" and rule.match.meets(user, target) for rule in self._rules):
            await self._changed.wait()

    def _count(self, rule: Rule) -> None:
        if rule.left is not None:
            rule.left -= 1
            if rule.left <= 0 and rule in self._rules:
                self._rules.remove(rule)

    async def _go_down(self, name: str, request: Json) -> None:
        seconds = request.get("seconds", 1.0 if name == "restart" else None)
        await self._refuse(seconds)
        if name == "restart":
            self._server.reset_connections()
            self._server.forget_versions()

    async def _refuse(self, seconds: float | None, *, back: bool = False) -> None:
        if self._down is not None:
            self._down.cancel()
            self._down = None
        await self._server.listen(back)
        if not back:
            self._down = asyncio.get_running_loop().create_task(self._return(seconds))

    async def _return(self, seconds: float | None) -> None:
        if seconds is None:
            await asyncio.get_running_loop().create_future()  # until it is cancelled
        else:
            await asyncio.sleep(seconds)
        await self._server.listen(True)
        self._down = None

    def close(self) -> None:
        """Forget everything: the server ends."""
        self._rules.clear()
        if self._down is not None:
            self._down.cancel()


def _parse(text: str) -> Restriction:
    try:
        return Restriction.parse(text)
    except ValueError as error:
        raise bad_request(str(error)) from None


def _rule(name: str, request: Json, match: Restriction) -> Rule:
    field, default = {
        "delay": ("seconds", 1.0),
        "throttle": ("retry_after", 1),
        "fail": ("code", 500),
        "slow": ("bytes_per_second", 1000),
        "stall": ("", 0),
    }[name]
    value = request.get(field, default)
    if not isinstance(value, int | float) or value < 0:
        raise bad_request(f"{field} of the fault {name!r} must be a number")
    return Rule(name, float(value), match, request.get("match", "*:*"), request.get("count"))
