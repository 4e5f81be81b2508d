"""What makes a Service wrong or incomplete before any address is given out (`apis/core/validation`)."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from inroad.sandbox.apiserver.status import Cause

Json = dict[str, Any]

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")


def family_of(address: str) -> str:
    """Return IPv4 or IPv6."""
    return f"IPv{ip_address(address).version}"


def pair_addresses(spec: Json, old: Json) -> None:
    """Keep `clusterIP` and `clusterIPs[0]` the same, whichever the caller wrote; old addresses stay."""
    single, several = spec.get("clusterIP") or "", list(spec.get("clusterIPs") or ())
    if not single and not several and old:
        single, several = old.get("clusterIP", ""), list(old.get("clusterIPs", ()))
    if single and not several:
        several = [single]
    if several and not single:
        single = several[0]
    if single:
        spec["clusterIP"], spec["clusterIPs"] = single, several
    else:
        spec.pop("clusterIP", None)
        spec.pop("clusterIPs", None)


def shape_causes(spec: Json) -> list[Cause]:
    """Return what is wrong with a service before any address is looked at."""
    causes = _port_causes(spec)
    if spec["type"] not in _TYPES:
        return [*causes, Cause.unsupported("spec.type", spec["type"], _TYPES)]
    if spec["type"] == "ExternalName":
        if not spec.get("externalName"):
            causes.append(Cause.required("spec.externalName"))
        return causes
    if spec.get("ipFamilyPolicy") not in (None, *_POLICIES):
        causes.append(Cause.unsupported("spec.ipFamilyPolicy", spec["ipFamilyPolicy"], _POLICIES))
    for index, address in enumerate(spec.get("clusterIPs") or filter(None, [spec.get("clusterIP")])):
        if address and address != "None" and not _is_address(address):
            why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            causes.append(Cause.invalid(f"spec.clusterIPs[{index}]", f'"{address}"', why))
    return causes


def _port_causes(spec: Json) -> list[Cause]:
    ports = spec.get("ports") or []
    if not ports and spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
        return [Cause.required("spec.ports")]
    causes = []
    seen: set[tuple[object, object]] = set()
    names: set[str] = set()
    for index, port in enumerate(ports):
        field = f"spec.ports[{index}]"
        if len(ports) > 1 and not port.get("name"):
            causes.append(Cause.required(f"{field}.name"))
        elif port.get("name") in names:
            causes.append(Cause.duplicate(f"{field}.name", f'"{port["name"]}"'))
        names.add(port.get("name", ""))
        number = port.get("port")
        if not isinstance(number, int) or not 0 < number < 65536:
            why = "must be between 1 and 65535, inclusive"
            causes.append(Cause.invalid(f"{field}.port", str(number or 0), why))
        target = port.get("targetPort")
        if isinstance(target, int) and not 0 < target < 65536:
            why = "must be between 1 and 65535, inclusive"
            causes.append(Cause.invalid(f"{field}.targetPort", str(target), why))
        if port["protocol"] not in ("TCP", "UDP", "SCTP"):
            causes.append(Cause.unsupported(f"{field}.protocol", port["protocol"], ("SCTP", "TCP", "UDP")))
        if (number, port["protocol"]) in seen:
            body = f'{{"port":{number},"protocol":"{port["protocol"]}"}}'
            causes.append(Cause.duplicate(field, body))
        seen.add((number, port["protocol"]))
    return causes


def policy_causes(policy: str, addresses: Sequence[str], families: Sequence[str]) -> list[Cause]:
    """Return what does not fit together in a policy, addresses and families."""
    causes = []
    if policy == "SingleStack":
        text = "must be 'RequireDualStack' or 'PreferDualStack' when multiple {} are specified"
        if len(addresses) == 2:
            why = text.format("cluster IPs")
            causes.append(Cause.invalid("spec.ipFamilyPolicy", f'"{policy}"', why))
        if len(families) == 2:
            why = text.format("IP families")
            causes.append(Cause.invalid("spec.ipFamilyPolicy", f'"{policy}"', why))
    causes += [
        Cause.invalid(f"spec.clusterIPs[{index}]", f'"{address}"', f"expected an {family} value")
        for index, (address, family) in enumerate(zip(addresses, families, strict=False))
        if family_of(address) != family
    ]
    return causes


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
