"""What names mean in the cluster: the Kubernetes DNS specification (1.1.0) as a function of objects. No I/O.

A table of names is kept, one entry per service or namespace that changed. Three answers are kept apart: a
name with records of that type, a name that exists without any (NODATA), and a name that does not exist.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any

from inroad.sandbox import dns_wire as dns

Json = dict[str, Any]
TTL = 5
"""CoreDNS's default for cluster names, and for how long an absence may be remembered."""


class Records:
    """The cluster's names. Methods may be called from any thread."""

    def __init__(self, *, domain: str, now: Callable[[], float]) -> None:
        self.zone = dns.name_of(domain)
        self._now = now
        self._lock = threading.Lock()
        self._objects: dict[str, dict[tuple[str, str], Json]] = {}
        self._names: dict[str, dict[int, list[dns.Record]]] = {}
        self._above: set[str] = set()

    def replace(self, resource: str, objects: Iterable[Json]) -> None:
        """Take a complete list of a resource."""
        with self._lock:
            self._objects[resource] = {_key(one): one for one in objects}
            self._build()

    def change(self, resource: str, kind: str, one: Json) -> None:
        """Take one event of a watch: ADDED, MODIFIED or DELETED."""
        with self._lock:
            present = self._objects.setdefault(resource, {})
            if kind == "DELETED":
                present.pop(_key(one), None)
            else:
                present[_key(one)] = one
            self._build()

    def _build(self) -> None:
        names: dict[str, dict[int, list[dns.Record]]] = {}
        domain = dns.text_of(self.zone)
        for namespace, _ in [(name, one) for (_, name), one in self._objects.get("namespaces", {}).items()]:
            names.setdefault(f"{namespace}.svc.{domain}", {})
        for (namespace, name), service in self._objects.get("services", {}).items():
            text = f"{name}.{namespace}.svc.{domain}"
            entry = names.setdefault(text, {})
            for address in service["spec"].get("clusterIPs", ()):
                if address != "None":
                    record = dns.a(dns.name_of(text), TTL, ip_address(address))
                    entry.setdefault(record.kind, []).append(record)
        above = {domain}
        for text in names:
            labels = text.split(".")
            above |= {".".join(labels[n:]) for n in range(1, len(labels))}
        self._names, self._above = names, above

    def resolve(self, query: dns.Query) -> dns.Answer:
        """Answer one question."""
        text = dns.text_of(query.name)
        domain = dns.text_of(self.zone)
        soa = dns.soa(self.zone, TTL, int(self._now()), minimum=TTL)
        if text != domain and not text.endswith("." + domain):
            return dns.Answer(dns.NXDOMAIN, authority=[dns.soa((), TTL, 1, minimum=TTL)], authoritative=False)
        found = self._names.get(text)
        if found is None and text not in self._above:
            return dns.Answer(dns.NXDOMAIN, authority=[soa])
        records = (found or {}).get(query.kind, [])
        if records:
            return dns.Answer(answer=[dns.Record(query.name, r.kind, r.ttl, r.data) for r in records])
        return dns.Answer(authority=[soa])


def _key(one: Json) -> tuple[str, str]:
    return one["metadata"].get("namespace", ""), one["metadata"]["name"]
