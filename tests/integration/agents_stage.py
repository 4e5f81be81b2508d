"""What the stories about agents have in common."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stage import Stage


def eventually(found: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def kubectl(stage: Stage, *arguments: str, stdin: str = "") -> str:
    """Run kubectl as the cluster's administrator and return what it printed."""
    return stage.run("kubectl", *arguments, user="root", stdin=stdin).stdout


def apply(stage: Stage, *objects: dict[str, Any]) -> None:
    """Create objects or change them."""
    whole = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    kubectl(stage, "apply", "--validate=false", "-f", "-", stdin=json.dumps(whole))


def pods(stage: Stage, namespace: str, prefix: str) -> dict[str, list[str]]:
    """Return the addresses of a namespace's pods by name."""
    return {
        pod["metadata"]["name"]: [one["ip"] for one in pod["status"].get("podIPs", ())]
        for pod in json.loads(kubectl(stage, "get", "pods", "-n", namespace, "-o", "json"))["items"]
        if pod["metadata"]["name"].startswith(prefix)
    }


def origin_of(stage: Stage, url: str = "http://web/") -> str:
    """Return the address from which a connection came."""
    return str(stage.curl(url)["client_ip"])


def path(stage: Stage) -> str:
    """Return how the origin is reached: direct, relayed, or "" for the traffic-manager."""
    return str(stage.ask("status")["origin"]["path"]["kind"])


@contextmanager
def namespace_agent(stage: Stage, namespace: str = "shop") -> Iterator[tuple[str, list[str]]]:
    """Run an agent of a namespace for a while; yields its pod's name and addresses."""
    stage.inroad("agent", "add", "-n", namespace)
    try:
        ((name, addresses),) = pods(stage, namespace, "traffic-agent").items()
        yield name, addresses
    finally:
        stage.inroad("agent", "remove", "-n", namespace)
        eventually(lambda: not pods(stage, namespace, "traffic-agent"))
        eventually(lambda: not stage.ask("status")["agents"])
