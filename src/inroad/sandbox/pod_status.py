"""A pod's status as a kubelet writes it."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from inroad.sandbox.container import Container
from inroad.sandbox.place import Place
from inroad.sandbox.topology import Address, Node

Json = dict[str, Any]


class Observed(Protocol):
    """What of a pod the status tells."""

    node: Node
    place: Place
    addresses: tuple[Address, ...]
    containers: list[Container]
    first: list[Container]
    ephemeral: list[Container]
    initialized: bool
    started: str


def phase_of(containers: Sequence[Container]) -> str:
    """Return Pending, Running, Succeeded or Failed."""
    ended = [one for one in containers if "terminated" in one.state]
    if len(ended) == len(containers):
        return "Failed" if any(one.exit_code for one in ended) else "Succeeded"
    begun = any("running" in one.state or one.restarts or "terminated" in one.state for one in containers)
    return "Running" if begun else "Pending"


def _by_name(containers: Sequence[Container]) -> list[Json]:
    """Return their statuses in the order of their names: kubelet sorts all but those of init containers."""
    return sorted((one.status() for one in containers), key=lambda status: str(status["name"]))


class Status:
    """Builds statuses; remembers since when each condition has been as it is."""

    def __init__(self, now: Callable[[], str]) -> None:
        self._now = now
        self._conditions: dict[str, Json] = {}

    def of(self, pod: Observed) -> Json:
        """Return the status of a pod."""
        placed = bool(pod.place.pid)
        ready = all(one.ready for one in pod.containers)
        found: Json = {
            "phase": phase_of(pod.containers),
            "hostIP": str(pod.node.addresses[0]),
            "hostIPs": [{"ip": str(address)} for address in pod.node.addresses],
            "startTime": pod.started,
            "conditions": [
                self._condition("PodReadyToStartContainers", placed),
                self._condition("Initialized", pod.initialized, "ContainersNotInitialized"),
                self._condition("Ready", ready, "ContainersNotReady"),
                self._condition("ContainersReady", ready, "ContainersNotReady"),
                self._condition("PodScheduled", True),
            ],
            "containerStatuses": _by_name(pod.containers),
        }
        if pod.first:
            found["initContainerStatuses"] = [one.status() for one in pod.first]
        if pod.ephemeral:
            found["ephemeralContainerStatuses"] = _by_name(pod.ephemeral)
        if placed:
            found["podIP"] = str(pod.addresses[0])
            found["podIPs"] = [{"ip": str(address)} for address in pod.addresses]
        return found

    def _condition(self, kind: str, holds: bool, reason: str = "") -> Json:
        status = "True" if holds else "False"
        old = self._conditions.get(kind)
        if old is None or old["status"] != status:
            old = {"type": kind, "status": status, "lastTransitionTime": self._now(), "lastProbeTime": None}
            if reason and not holds:
                old["reason"] = reason
            self._conditions[kind] = old
        return old
