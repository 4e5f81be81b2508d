"""The world outside the cluster, in the namespace `lan`: the office's name server and a web server.

`python -m inroad.sandbox.office [ADDRESS ...]` with the addresses that `intranet.example` and
`www.example` have. `big.example` has forty others (from TEST-NET-2, RFC 5737: nobody answers there), too
many for a plain UDP answer. `txt.example` has a text. Nothing else exists.
"""

from __future__ import annotations

import asyncio
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address

from inroad.sandbox import dns_server
from inroad.sandbox import dns_wire as dns
from inroad.sandbox.workloads import web

TTL = 300
SOA = dns.soa((b"example",), TTL, 1, minimum=30)
ROOT_SOA = dns.soa((), TTL, 1, minimum=30)
Zone = dict[str, dict[int, list[dns.Record]]]


def zone(addresses: list[IPv4Address | IPv6Address]) -> Zone:
    """Return all records by name and type."""
    records: Zone = {"example": {dns.SOA: [SOA]}}
    for text in ("intranet.example", "www.example", "intranet.office.example"):
        records[text] = {}
        for address in addresses:
            record = dns.a(dns.name_of(text), TTL, address)
            records[text].setdefault(record.kind, []).append(record)
    big = dns.name_of("big.example")
    records["big.example"] = {
        dns.A: [dns.a(big, TTL, IPv4Address("198.51.100.0") + host) for host in range(1, 41)]
    }
    text_record = dns.Record(dns.name_of("txt.example"), dns.TXT, TTL, b"\x05hello")
    records["txt.example"] = {dns.TXT: [text_record]}
    return records


def resolver(records: Zone) -> dns_server.Resolve:
    """Return the function that answers from those records."""

    def resolve(query: dns.Query) -> dns.Answer:
        text = dns.text_of(query.name)
        inside = text == "example" or text.endswith(".example")
        authority = [SOA if inside else ROOT_SOA]
        found = records.get(text)
        if found is None and not any(name.endswith("." + text) for name in records):
            return dns.Answer(dns.NXDOMAIN, authority=authority)
        answer = (found or {}).get(query.kind, [])
        return dns.Answer(answer=answer, authority=() if answer else authority)

    return resolve


def main() -> None:
    """Serve names on port 53 and pages on port 80, for ever."""
    dns_server.serve(resolver(zone([ip_address(text) for text in sys.argv[1:]])))
    asyncio.run(web.main(80))


if __name__ == "__main__":
    main()
