"""What names mean in the cluster: the Kubernetes DNS specification (1.1.0) as a function of objects. No I/O.

Where the specification leaves room, this is what CoreDNS's `kubernetes` plugin does: names of endpoints
without a hostname (`10-244-1-5.web...`), names of pods (`10-244-1-5.shop.pod...`, of any pod, there or
not), SRV at a service's own name for all its ports. Three answers are kept apart: a name with records of
that type, a name that exists without any (NODATA), and a name that does not exist.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from inroad.sandbox import dns_wire as dns

Json = dict[str, Any]
TTL = 5
"""CoreDNS's default for cluster names, and for how long an absence may be remembered."""
LONGEST_CHAIN = 8
SPECIFICATION = b"1.1.0"
Entry = dict[int, list[dns.Record]]


class Records:
    """The cluster's names. Methods may be called from any thread; a change is worked out when next asked."""

    def __init__(self, *, domain: str, now: Callable[[], float]) -> None:
        self.domain = domain
        self.zone = dns.name_of(domain)
        self._now = now
        self._lock = threading.Lock()
        self._objects: dict[str, dict[tuple[str, str], Json]] = {}
        self._names: dict[str, Entry] = {}
        self._above: set[str] = set()
        self._old = True
        self._turn = itertools.count()

    def replace(self, resource: str, objects: Iterable[Json]) -> None:
        """Take a complete list of a resource."""
        with self._lock:
            self._objects[resource] = {_key(one): one for one in objects}
            self._old = True

    def change(self, resource: str, kind: str, one: Json) -> None:
        """Take one event of a watch: ADDED, MODIFIED or DELETED."""
        with self._lock:
            present = self._objects.setdefault(resource, {})
            if kind == "DELETED":
                present.pop(_key(one), None)
            else:
                present[_key(one)] = one
            self._old = True

    def resolve(self, query: dns.Query) -> dns.Answer | None:
        """Answer one question; None when the name is none of ours (for reverse names: not known here)."""
        with self._lock:
            if self._old:
                self._build()
            names, above = self._names, self._above
        text = dns.text_of(query.name)
        if not self.ours(text):
            found = names.get(text)
            return self._answer(query, found, []) if found is not None else None
        chain: list[dns.Record] = []
        owner = query.name
        for _ in range(LONGEST_CHAIN):
            entry = names.get(text)
            if entry is None:
                entry = self._pod(text, owner)
            if entry is None and text not in above:
                return dns.Answer(dns.NXDOMAIN, answer=chain, authority=[self._soa()])
            alias = (entry or {}).get(dns.CNAME)
            if not alias or query.kind == dns.CNAME:
                return self._answer(query, entry or {}, chain, owner)
            chain.append(_named(alias[0], owner))
            owner, _ = dns.read_name(alias[0].data, 0)
            text = dns.text_of(owner)
            if not self.ours(text):
                break
        return dns.Answer(answer=chain)

    def ours(self, text: str) -> bool:
        """Tell whether a name is in the cluster's domain."""
        return text == self.domain or text.endswith("." + self.domain)

    def _soa(self) -> dns.Record:
        return dns.soa(self.zone, TTL, int(self._now()), minimum=TTL)

    def _answer(
        self, query: dns.Query, entry: Entry, chain: list[dns.Record], owner: dns.Name | None = None
    ) -> dns.Answer:
        records = entry.get(query.kind, [])
        if not records and query.kind == dns.SOA and dns.text_of(query.name) == self.domain:
            records = [self._soa()]
        if not records:
            return dns.Answer(answer=chain, authority=[self._soa()])
        start = next(self._turn) % len(records)
        turned = [*records[start:], *records[:start]]
        extra: list[dns.Record] = []
        if query.kind == dns.SRV:
            targets = {dns.text_of(dns.read_name(record.data, 6)[0]): None for record in turned}
            for target in targets:
                for kind in (dns.A, dns.AAAA):
                    extra += self._names.get(target, {}).get(kind, [])
            turned = [self._cased(record, query.name) for record in turned]
        own = query.name if owner is None else owner
        return dns.Answer(answer=[*chain, *(_named(record, own) for record in turned)], additional=extra)

    def _cased(self, record: dns.Record, question: dns.Name) -> dns.Record:
        """Return an SRV record whose target has the zone in the octets of the question, as CoreDNS does."""
        zone = dns.pack_name(self.zone)
        if not record.data.endswith(zone):
            return record
        cased = dns.pack_name(question[-len(self.zone) :])
        return dns.Record(record.name, record.kind, record.ttl, record.data[: -len(zone)] + cased)

    def _pod(self, text: str, name: dns.Name) -> Entry | None:
        """Return the entry of a pod's name, `10-244-1-5.NAMESPACE.pod.DOMAIN`, or None."""
        dashed, _, rest = text.partition(".")
        namespace, _, kind = rest.removesuffix("." + self.domain).partition(".")
        if kind != "pod" or ("", namespace) not in self._objects.get("namespaces", {}):
            return None
        try:
            address = ip_address(dashed.replace("-", "." if dashed.count("-") == 3 else ":"))
        except ValueError:
            return None
        record = dns.a(name, TTL, address)
        return {record.kind: [record]}

    def _build(self) -> None:
        names: dict[str, Entry] = {}
        for record in self._all():
            names.setdefault(dns.text_of(record.name), {}).setdefault(record.kind, []).append(record)
        above = {self.domain, f"svc.{self.domain}", f"pod.{self.domain}"}
        for _, namespace in self._objects.get("namespaces", {}):
            above |= {f"{namespace}.svc.{self.domain}", f"{namespace}.pod.{self.domain}"}
        for text in names:
            labels = text.split(".")
            above |= {".".join(labels[n:]) for n in range(1, len(labels)) if self.ours(".".join(labels[n:]))}
        self._names, self._above, self._old = names, above, False

    def _all(self) -> Iterator[dns.Record]:
        slices: dict[tuple[str, str], list[Json]] = {}
        for (namespace, _), one in self._objects.get("endpointslices", {}).items():
            service = one["metadata"].get("labels", {}).get("kubernetes.io/service-name", "")
            slices.setdefault((namespace, service), []).append(one)
        version = bytes([len(SPECIFICATION)]) + SPECIFICATION
        yield dns.Record(dns.name_of(f"dns-version.{self.domain}"), dns.TXT, TTL, version)
        for (namespace, name), service in self._objects.get("services", {}).items():
            yield from self._service(namespace, name, service["spec"], slices.get((namespace, name), []))

    def _service(self, namespace: str, name: str, spec: Json, slices: list[Json]) -> Iterator[dns.Record]:
        full = dns.name_of(f"{name}.{namespace}.svc.{self.domain}")
        if spec.get("type") == "ExternalName":
            yield dns.cname(full, TTL, dns.name_of(spec["externalName"]))
            return
        addresses = [ip_address(text) for text in spec.get("clusterIPs", ()) if text != "None"]
        for address in addresses:
            yield dns.a(full, TTL, address)
            yield dns.ptr(reverse(address), TTL, full)
            if (namespace, name) == ("kube-system", "kube-dns"):
                server = dns.name_of(f"ns.dns.{self.domain}")
                yield dns.a(server, TTL, address)
                if address is addresses[0]:
                    yield dns.Record(self.zone, dns.NS, TTL, dns.pack_name(server))
        ports = spec.get("ports") or ()
        if addresses:
            listed = [(port.get("name", ""), port["protocol"], port["port"], full) for port in ports]
            yield from _srv(full, listed)
        yield from self._endpoints(full, slices, headless=not addresses)

    def _endpoints(self, full: dns.Name, slices: list[Json], *, headless: bool) -> Iterator[dns.Record]:
        listed: dict[tuple[str, str, int, dns.Name], None] = {}
        for one in slices:
            for endpoint in one.get("endpoints") or ():
                if endpoint.get("conditions", {}).get("ready") is False:
                    continue
                address = ip_address(endpoint["addresses"][0])
                label = endpoint.get("hostname") or str(address).replace(".", "-").replace(":", "-")
                name = (label.encode(), *full)
                yield dns.a(name, TTL, address)
                if headless:
                    yield dns.a(full, TTL, address)
                if endpoint.get("hostname"):
                    yield dns.ptr(reverse(address), TTL, name)
                for port in one.get("ports") or ():
                    key = (port.get("name") or "", port.get("protocol", "TCP"), port["port"], name)
                    listed[key] = None
        if headless:
            yield from _srv(full, list(listed))


def _srv(full: dns.Name, listed: list[tuple[str, str, int, dns.Name]]) -> Iterator[dns.Record]:
    """Yield SRV records: of each named port (`_http._tcp.web...`), and of all ports at the service's name."""
    weight = 100 // max(1, len(listed))
    for _, _, port, target in listed:
        yield dns.srv(full, TTL, weight, port, target)
    for name in {name for name, *_ in listed if name}:
        same = [one for one in listed if one[0] == name]
        for _, protocol, port, target in same:
            owner = (f"_{name}".encode(), f"_{protocol.lower()}".encode(), *full)
            yield dns.srv(owner, TTL, 100 // len(same), port, target)


def reverse(address: IPv4Address | IPv6Address) -> dns.Name:
    """Return the name under which an address's PTR record is."""
    return dns.name_of(address.reverse_pointer)


def _named(record: dns.Record, name: dns.Name) -> dns.Record:
    return dns.Record(name, record.kind, record.ttl, record.data)


def _key(one: Json) -> tuple[str, str]:
    return one["metadata"].get("namespace", ""), one["metadata"]["name"]
