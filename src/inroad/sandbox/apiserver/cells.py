"""The cells of `kubectl get` that take more than reading a field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from inroad.sandbox.apiserver import ages

Json = dict[str, Any]


def pod_ready(pod: Json) -> str:
    """Return ready/all containers."""
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    ready = sum(1 for one in statuses if one.get("ready") and "running" in one.get("state", {}))
    return f"{ready}/{len(pod['spec'].get('containers') or ())}"


def pod_status(pod: Json) -> str:
    """Return the STATUS column: the phase, or what is more worth knowing."""
    status = pod.get("status", {})
    reason = status.get("reason") or status.get("phase") or "Unknown"
    reason, initializing = _init_reason(pod, reason)
    if not initializing:
        running = False
        for one in reversed(status.get("containerStatuses") or ()):
            state = one.get("state", {})
            waiting, ended = state.get("waiting", {}), state.get("terminated")
            if waiting.get("reason"):
                reason = waiting["reason"]
            elif ended is not None:
                reason = ended.get("reason") or _exit(ended)
            elif one.get("ready") and "running" in state:
                running = True
        if reason == "Completed" and running:
            reason = "Running" if _condition(pod, "Ready") == "True" else "NotReady"
    if pod["metadata"].get("deletionTimestamp"):
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return str(reason)


def _init_reason(pod: Json, reason: str) -> tuple[str, bool]:
    statuses = pod.get("status", {}).get("initContainerStatuses") or ()
    for index, one in enumerate(statuses):
        state = one.get("state", {})
        ended, waiting = state.get("terminated"), state.get("waiting", {})
        if ended is not None and ended.get("exitCode") == 0:
            continue
        if ended is not None:
            return f"Init:{ended.get('reason') or _exit(ended)}", True
        if waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}", True
        return f"Init:{index}/{len(pod['spec'].get('initContainers') or ())}", True
    return reason, False


def _exit(ended: Json) -> str:
    return f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode', 0)}"


def pod_restarts(pod: Json, now: float) -> str:
    """Return how often containers were restarted, and when last."""
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    count = sum(one.get("restartCount", 0) for one in statuses)
    ends = [
        end for one in statuses if (end := one.get("lastState", {}).get("terminated", {}).get("finishedAt"))
    ]
    return f"{count} ({ages.since(max(ends), now)} ago)" if count and ends else str(count)


def _condition(obj: Json, kind: str) -> str:
    conditions = obj.get("status", {}).get("conditions") or ()
    return next((str(one.get("status")) for one in conditions if one.get("type") == kind), "Unknown")


def node_status(node: Json) -> str:
    """Return Ready, NotReady or Unknown, and whether it takes pods."""
    text = {"True": "Ready", "False": "NotReady"}.get(_condition(node, "Ready"), "Unknown")
    return text + ",SchedulingDisabled" if node.get("spec", {}).get("unschedulable") else text


def node_roles(node: Json) -> str:
    """Return the roles that labels name."""
    prefix = "node-role.kubernetes.io/"
    found = sorted(
        key.removeprefix(prefix) for key in node["metadata"].get("labels") or () if key.startswith(prefix)
    )
    return ",".join(found) or "<none>"


def node_address(node: Json, kind: str) -> str:
    """Return the node's first address of a kind."""
    for one in node.get("status", {}).get("addresses") or ():
        if one.get("type") == kind:
            return str(one["address"])
    return "<none>"


def service_external(service: Json) -> str:
    """Return the EXTERNAL-IP column."""
    spec = service["spec"]
    if spec["type"] == "ExternalName":
        return str(spec.get("externalName"))
    external = list(spec.get("externalIPs") or ())
    if spec["type"] == "LoadBalancer":
        ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress") or ()
        external = [one.get("ip") or one.get("hostname", "") for one in ingress] + external
        return ",".join(external) or "<pending>"
    return ",".join(external) or "<none>"


def service_ports(spec: Json) -> str:
    """Return `80/TCP,443:30443/TCP`."""
    texts = []
    for port in spec.get("ports") or ():
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        texts.append(f"{port['port']}{node}/{port.get('protocol', 'TCP')}")
    return ",".join(texts) or "<none>"


def labels(values: Mapping[str, str] | None) -> str:
    """Return `a=b,c=d`."""
    return ",".join(f"{key}={value}" for key, value in sorted((values or {}).items())) or "<none>"


def selector(value: Json | None) -> str:
    """Return a label selector in its text form."""
    parts = [f"{k}={v}" for k, v in sorted(((value or {}).get("matchLabels") or {}).items())]
    for one in (value or {}).get("matchExpressions") or ():
        key, inside = one["key"], ",".join(sorted(one.get("values") or ()))
        parts.append(
            {
                "In": f"{key} in ({inside})",
                "NotIn": f"{key} notin ({inside})",
                "Exists": key,
                "DoesNotExist": f"!{key}",
            }.get(one.get("operator", ""), key)
        )
    return ",".join(parts) or "<none>"


def containers(workload: Json) -> tuple[str, str]:
    """Return the names and the images of a template's containers."""
    found = workload["spec"].get("template", {}).get("spec", {}).get("containers") or ()
    return (
        ",".join(one.get("name", "") for one in found),
        ",".join(one.get("image", "") for one in found),
    )


def shortened(values: Sequence[str], empty: str, limit: int = 3) -> str:
    """Return a list that says how much it leaves out."""
    if not values:
        return empty
    text = ",".join(values[:limit])
    return f"{text} + {len(values) - limit} more..." if len(values) > limit else text


def endpoints(obj: Json) -> str:
    """Return the ADDRESS:PORT pairs of an Endpoints object."""
    pairs = []
    for subset in obj.get("subsets") or ():
        for port in subset.get("ports") or [dict[str, Any]()]:
            for one in subset.get("addresses") or ():
                address = f"[{one['ip']}]" if ":" in one["ip"] else one["ip"]
                pairs.append(f"{address}:{port['port']}" if port else address)
    return shortened(pairs, "<none>")


def subjects(values: Iterable[Json]) -> tuple[str, str, str]:
    """Return the users, groups and service accounts of a binding."""
    found: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for one in values:
        name = one.get("name", "")
        if one.get("kind") == "ServiceAccount":
            name = f"{one.get('namespace', '')}/{name}"
        found.setdefault(one.get("kind", ""), []).append(name)
    return (
        ", ".join(found["User"]),
        ", ".join(found["Group"]),
        ", ".join(found["ServiceAccount"]),
    )


def parent(spec: Json) -> str:
    """Return what an IPAddress belongs to: `services/default/web`."""
    ref = spec.get("parentRef", {})
    plural = f"{ref.get('resource', '')}.{ref['group']}" if ref.get("group") else ref.get("resource", "")
    return "/".join(part for part in (plural, ref.get("namespace", ""), ref.get("name", "")) if part)
