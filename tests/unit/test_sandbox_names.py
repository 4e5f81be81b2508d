"""Cluster DNS without sockets: objects and questions in, answers out; dnspython reads the messages."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import dns.edns
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.sandbox import dns_server, dns_wire
from inroad.sandbox.dns_forward import fold, restore
from inroad.sandbox.dns_zone import Records

Json = dict[str, Any]
DOMAIN = "svc.cluster.local"


def service(namespace: str, name: str, spec: Json) -> Json:
    return {"metadata": {"namespace": namespace, "name": name}, "spec": spec}


def slice_of(namespace: str, name: str, *endpoints: Json, port: int = 5432, port_name: str = "sql") -> Json:
    labels = {"kubernetes.io/service-name": name}
    return {
        "metadata": {"namespace": namespace, "name": f"{name}-x", "labels": labels},
        "ports": [{"name": port_name, "protocol": "TCP", "port": port}],
        "endpoints": list(endpoints),
    }


def endpoint(address: str, hostname: str = "", ready: bool = True) -> Json:
    found: Json = {"addresses": [address], "conditions": {"ready": ready}}
    return found | ({"hostname": hostname} if hostname else {})


@pytest.fixture
def records() -> Records:
    found = Records(domain="cluster.local", now=lambda: 1000.0)
    http = [{"name": "http", "protocol": "TCP", "port": 80}]
    external = {"type": "ExternalName", "externalName": "db.shop.svc.cluster.local"}
    loop = {"type": "ExternalName", "externalName": "loop.shop.svc.cluster.local"}
    away = {"type": "ExternalName", "externalName": "www.example.com"}
    found.replace("namespaces", [{"metadata": {"name": "shop"}}, {"metadata": {"name": "bare"}}])
    found.replace(
        "services",
        [
            service("shop", "web", {"clusterIPs": ["10.96.0.7", "fd00:10:96::7"], "ports": http}),
            service("shop", "db", {"clusterIPs": ["None"], "ports": http}),
            service("shop", "idle", {"clusterIPs": ["None"], "ports": http}),
            service("shop", "ext", external),
            service("shop", "loop", loop),
            service("shop", "away", away),
        ],
    )
    db = [endpoint("10.244.1.5", "db-0"), endpoint("10.244.2.5"), endpoint("10.244.2.6", "db-2", ready=False)]
    found.replace(
        "endpointslices", [slice_of("shop", "db", *db), slice_of("shop", "web", endpoint("10.244.1.9"))]
    )
    return found


def ask(records: Records, name: str, kind: str = "A", **options: Any) -> dns.message.Message:
    query = dns.message.make_query(name, kind, **options)

    def resolve(one: dns_wire.Query) -> dns_wire.Answer:
        return records.resolve(one) or dns_wire.Answer(dns_wire.REFUSED)

    raw = dns_server.answering(resolve)(query.to_wire(), False)
    assert raw is not None
    answer = dns.message.from_wire(raw)
    assert query.is_response(answer)
    return answer


def lines(answer: dns.message.Message) -> list[str]:
    return sorted(
        f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)} {one}"
        for rrset in answer.answer
        for one in rrset
    )


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("web.shop", "A", ["web.shop A 10.96.0.7"]),
        ("WEB.Shop", "AAAA", ["WEB.Shop AAAA fd00:10:96::7"]),
        ("_http._tcp.web.shop", "SRV", ["_http._tcp.web.shop SRV 0 100 80 web.shop"]),
        ("web.shop", "SRV", ["web.shop SRV 0 100 80 web.shop"]),
        ("db.shop", "A", ["db.shop A 10.244.1.5", "db.shop A 10.244.2.5"]),
        ("db-0.db.shop", "A", ["db-0.db.shop A 10.244.1.5"]),
        ("10-244-2-5.db.shop", "A", ["10-244-2-5.db.shop A 10.244.2.5"]),
        ("10-244-1-9.web.shop", "A", ["10-244-1-9.web.shop A 10.244.1.9"]),
        (
            "_sql._tcp.db.shop",
            "SRV",
            [
                "_sql._tcp.db.shop SRV 0 50 5432 10-244-2-5.db.shop",
                "_sql._tcp.db.shop SRV 0 50 5432 db-0.db.shop",
            ],
        ),
        (
            "ext.shop",
            "A",
            ["db.shop A 10.244.1.5", "db.shop A 10.244.2.5", "ext.shop CNAME db.shop"],
        ),
        ("ext.shop", "CNAME", ["ext.shop CNAME db.shop"]),
        ("away.shop", "A", ["away.shop CNAME www.example.com."]),
    ],
)
def test_services(records: Records, name: str, kind: str, expected: list[str]) -> None:
    answer = ask(records, f"{name}.{DOMAIN}.", kind)
    assert answer.rcode() == dns.rcode.NOERROR
    assert [line.replace(f".{DOMAIN}.", "") for line in lines(answer)] == expected


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("7.0.96.10.in-addr.arpa.", "PTR", f"web.shop.{DOMAIN}."),
        ("5.1.244.10.in-addr.arpa.", "PTR", f"db-0.db.shop.{DOMAIN}."),
        (ip_address("fd00:10:96::7").reverse_pointer, "PTR", f"web.shop.{DOMAIN}."),
        ("cluster.local.", "SOA", "ns.dns.cluster.local."),
        ("10-1-2-3.shop.pod.cluster.local.", "A", "10.1.2.3"),
        ("fd00--5.shop.pod.cluster.local.", "AAAA", "fd00::5"),
        ("dns-version.cluster.local.", "TXT", '"1.1.0"'),
    ],
)
def test_other_names(records: Records, name: str, kind: str, expected: str) -> None:
    (line,) = lines(ask(records, name, kind))
    assert expected in line


@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        (f"web.shop.{DOMAIN}.", "TXT", "NOERROR"),
        (f"web.shop.{DOMAIN}.", "HTTPS", "NOERROR"),
        (f"db-0.db.shop.{DOMAIN}.", "AAAA", "NOERROR"),
        (f"shop.{DOMAIN}.", "A", "NOERROR"),
        (f"bare.{DOMAIN}.", "A", "NOERROR"),
        (f"_tcp.web.shop.{DOMAIN}.", "SRV", "NOERROR"),
        ("svc.cluster.local.", "A", "NOERROR"),
        ("cluster.local.", "A", "NOERROR"),
        (f"idle.shop.{DOMAIN}.", "A", "NXDOMAIN"),
        (f"nope.shop.{DOMAIN}.", "A", "NXDOMAIN"),
        (f"web.nope.{DOMAIN}.", "A", "NXDOMAIN"),
        (f"db-2.db.shop.{DOMAIN}.", "A", "NXDOMAIN"),
        (f"_https._tcp.web.shop.{DOMAIN}.", "SRV", "NXDOMAIN"),
        ("10-1-2-3.nope.pod.cluster.local.", "A", "NXDOMAIN"),
        ("not-an-address.shop.pod.cluster.local.", "A", "NXDOMAIN"),
    ],
)
def test_nothing_there(records: Records, name: str, kind: str, rcode: str) -> None:
    """NODATA and NXDOMAIN are different things, and both carry the SOA that says for how long."""
    answer = ask(records, name, kind)
    assert dns.rcode.to_text(answer.rcode()) == rcode
    assert answer.answer == []
    (soa,) = answer.authority
    assert (str(soa.name), soa.rdtype, soa[0].minimum) == ("cluster.local.", dns.rdatatype.SOA, 5)


def test_names_outside_are_nobody_s_here(records: Records) -> None:
    for name in ("www.example.com", "local", "xcluster.local", "9.9.9.9.in-addr.arpa"):
        assert records.resolve(dns_wire.parse_query(dns.message.make_query(name, "A").to_wire())) is None  # type: ignore[arg-type]


def test_a_chain_that_bites_its_tail_ends(records: Records) -> None:
    answer = ask(records, f"loop.shop.{DOMAIN}.")
    assert answer.rcode() == dns.rcode.NOERROR


def test_srv_brings_the_addresses_along(records: Records) -> None:
    answer = ask(records, f"_sql._tcp.db.shop.{DOMAIN}.", "SRV")
    assert sorted(str(one[0]) for one in answer.additional) == ["10.244.1.5", "10.244.2.5"]


def test_addresses_take_turns(records: Records) -> None:
    first = {str(ask(records, f"db.shop.{DOMAIN}.").answer[0][0]) for _ in range(4)}
    assert first == {"10.244.1.5", "10.244.2.5"}


def test_changes_are_seen_at_once(records: Records) -> None:
    gone = service("shop", "web", {"clusterIPs": ["10.96.0.7"]})
    records.change("services", "DELETED", gone)
    assert ask(records, f"web.shop.{DOMAIN}.").rcode() == dns.rcode.NXDOMAIN
    records.change("services", "ADDED", service("shop", "web", {"clusterIPs": ["10.96.0.8"]}))
    assert lines(ask(records, f"web.shop.{DOMAIN}.")) == [f"web.shop.{DOMAIN}. A 10.96.0.8"]


def test_edns(records: Records) -> None:
    name = f"web.shop.{DOMAIN}."
    assert ask(records, name).edns == -1
    answer = ask(records, name, use_edns=0, payload=4096, want_dnssec=True)
    assert (answer.edns, answer.payload, answer.ednsflags) == (0, 1232, dns.flags.DO)
    assert ask(records, name, use_edns=1).rcode() == dns.rcode.BADVERS


@pytest.mark.parametrize(("payload", "fits"), [(None, 29), (512, 28), (1232, 73), (4096, 73)])
def test_truncation(payload: int | None, fits: int) -> None:
    """512 bytes without EDNS, what the client takes with it, and never more than 1232."""
    records = Records(domain="cluster.local", now=lambda: 0.0)
    records.replace("services", [service("s", "big", {"clusterIPs": ["None"]})])
    many = [endpoint(f"10.244.{n // 200}.{n % 200}") for n in range(80)]
    records.replace("endpointslices", [slice_of("s", "big", *many)])
    options = {} if payload is None else {"use_edns": 0, "payload": payload}
    answer = ask(records, "big.s.svc.cluster.local.", **options)
    assert answer.flags & dns.flags.TC
    assert len(answer.answer[0]) == fits


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (b"", None),
        (b"\0" * 11, None),
        (b"\1\2\x80\0" + b"\0\1" + b"\0" * 6 + b"\0\0\1\0\1", None),
        (b"\1\2\1\0" + b"\0\2" + b"\0" * 6, dns.rcode.FORMERR),
        (b"\1\2\1\0" + b"\0\1" + b"\0" * 6 + b"\x3fshort", dns.rcode.FORMERR),
        (b"\1\2\1\0" + b"\0\1" + b"\0" * 6 + b"\xc0\x0c\0\1\0\1", dns.rcode.FORMERR),
        (b"\1\2\x29\0" + b"\0\1" + b"\0" * 6 + b"\0\0\1\0\1", dns.rcode.NOTIMP),
    ],
)
def test_odd_packets(records: Records, packet: bytes, expected: int | None) -> None:
    answer = dns_server.answering(lambda query: dns_wire.Answer())(packet, False)
    assert (answer[3] & 15 if answer else None) == expected


@given(st.binary(max_size=200))
def test_no_packet_breaks_the_server(packet: bytes) -> None:
    dns_server.answering(lambda query: dns_wire.Answer())(packet, False)


def test_folding_and_back() -> None:
    query = dns.message.make_query("WeB.Shop.sVc", "A").to_wire()
    folded = fold(query)
    assert str(dns.message.from_wire(folded).question[0].name) == "web.shop.svc."
    answer = dns.message.make_response(dns.message.from_wire(folded)).to_wire()
    assert str(dns.message.from_wire(restore(answer, query)).question[0].name) == "WeB.Shop.sVc."
