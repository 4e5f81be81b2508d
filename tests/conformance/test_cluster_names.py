"""What cluster DNS answers, by dig: the Kubernetes DNS specification 1.1.0, and CoreDNS where that is silent.

kubernetes/dns `docs/specification.md`; coredns.io/plugins/kubernetes.
"""

from __future__ import annotations

import re

import pytest
from cluster_target import Target

ZONE = "svc.cluster.local."


def dig(target: Target, *argv: str) -> str:
    """Return what dig printed."""
    done = target.inside("dig", "+tries=2", "+time=3", *argv)
    assert done.returncode == 0, done
    return done.stdout


def status(output: str) -> str:
    """Return the answer's code."""
    return re.findall(r"status: (\w+)", output)[-1]


def records(output: str, section: str = "ANSWER") -> list[list[str]]:
    """Return the records of a section as name, ttl, class, type and data."""
    _, _, rest = output.partition(f";; {section} SECTION:\n")
    body, _, _ = rest.partition("\n\n")
    return [line.split(None, 4) for line in body.splitlines() if line and not line.startswith(";")]


TABLE = [
    # A and AAAA of a service: its cluster addresses (2.3.1).
    ("web.{ns}", "A", ["web.{ns} A {web4}"]),
    ("web.{ns}", "AAAA", ["web.{ns} AAAA {web6}"]),
    # SRV of a named port (2.3.2).
    ("_http._tcp.web.{ns}", "SRV", ["_http._tcp.web.{ns} SRV 80 web.{ns}"]),
    ("_alt._tcp.web.{ns}", "SRV", ["_alt._tcp.web.{ns} SRV 8888 web.{ns}"]),
    ("_udp._udp.echo.{ns}", "SRV", ["_udp._udp.echo.{ns} SRV 7 echo.{ns}"]),
    # A headless service: its endpoints (2.4.1).
    ("db.{ns}", "A", ["db.{ns} A {db-0.4}", "db.{ns} A {db-1.4}"]),
    ("db.{ns}", "AAAA", ["db.{ns} AAAA {db-0.6}", "db.{ns} AAAA {db-1.6}"]),
    ("db-0.db.{ns}", "A", ["db-0.db.{ns} A {db-0.4}"]),
    ("db-1.db.{ns}", "AAAA", ["db-1.db.{ns} AAAA {db-1.6}"]),
    # SRV of its ports (2.4.2): the endpoints' port, not the service's.
    (
        "_sql._tcp.db.{ns}",
        "SRV",
        ["_sql._tcp.db.{ns} SRV 8080 db-0.db.{ns}", "_sql._tcp.db.{ns} SRV 8080 db-1.db.{ns}"],
    ),
    # ExternalName (2.5): a CNAME, and what it leads to where that is in the cluster.
    ("ext.{ns}", "CNAME", ["ext.{ns} CNAME web.{ns}"]),
    ("ext.{ns}", "A", ["ext.{ns} CNAME web.{ns}", "web.{ns} A {web4}"]),
]


@pytest.mark.parametrize(
    ("name", "kind", "expected"), TABLE, ids=[f"{name} {kind}" for name, kind, _ in TABLE]
)
def test_records(target: Target, name: str, kind: str, expected: list[str]) -> None:
    lines = [target.text(line) for line in expected]
    if any("{" in line for line in lines):
        pytest.skip("this cluster has one address family")
    output = dig(target, f"{target.text(name)}.{ZONE}", kind)
    assert status(output) == "NOERROR"
    found = []
    for owner, _, _, what, data in records(output):
        if what == "SRV":
            data = data.split(None, 2)[2]  # noqa: PLW2901 - without priority and weight
        found.append(f"{owner} {what} {data}".replace(f".{ZONE}", ""))
    assert sorted(found) == sorted(lines)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("web.{ns}", "TXT"),
        ("web.{ns}", "HTTPS"),
        ("web.{ns}", "MX"),
        ("db-0.db.{ns}", "SRV"),
        ("{ns}", "A"),
    ],
)
def test_names_without_such_records_exist(target: Target, name: str, kind: str) -> None:
    """NODATA: NOERROR, no answer, and the SOA that says how long to remember that (RFC 2308)."""
    output = dig(target, f"{target.text(name)}.{ZONE}", kind)
    if kind == "SRV":
        assert status(output) == "NOERROR"  # CoreDNS answers for all ports, others with nothing
        return
    assert (status(output), records(output)) == ("NOERROR", [])
    assert [record[3] for record in records(output, "AUTHORITY")] == ["SOA"]


@pytest.mark.parametrize(
    "name",
    [
        "nope.{ns}",
        "web.no-such-namespace",
        "nobody.{ns}",
        "db-9.db.{ns}",
        "_https._tcp.web.{ns}",
        "_http._udp.web.{ns}",
    ],
)
def test_names_that_do_not_exist(target: Target, name: str) -> None:
    output = dig(target, f"{target.text(name)}.{ZONE}", "SRV" if name.startswith("_") else "A")
    assert (status(output), records(output)) == ("NXDOMAIN", [])
    (soa,) = records(output, "AUTHORITY")
    assert (soa[0], soa[3]) == ("cluster.local.", "SOA")


@pytest.mark.parametrize("family", [4, 6])
def test_reverse(target: Target, family: int) -> None:
    """PTR of a service's address, and of an endpoint with a hostname (2.3.3, 2.4.3)."""
    for key, name in (("web", "web"), ("db-0.", "db-0.db")):
        address = target.facts.get(f"{key}{family}")
        if address is None:
            pytest.skip("this cluster has one address family")
        assert records(dig(target, "-x", address))[0][4] == f"{name}.{target.namespace}.{ZONE}"


def test_the_specification_s_version(target: Target) -> None:
    assert records(dig(target, "dns-version.cluster.local.", "TXT"))[0][4] == '"1.1.0"'


def test_srv_answers_bring_addresses_along(target: Target) -> None:
    extra = records(dig(target, f"_sql._tcp.db.{target.namespace}.{ZONE}", "SRV"), "ADDITIONAL")
    found = {(record[0], record[4]) for record in extra if record[3] == "A"}
    assert found == {
        (f"{pod}.db.{target.namespace}.{ZONE}", target.facts[f"{pod}.4"]) for pod in ("db-0", "db-1")
    }


@pytest.mark.parametrize(
    "how", [("+notcp",), ("+tcp",), ("+notcp", "+noedns"), ("+notcp", "+bufsize=4096", "+dnssec")]
)
def test_transports(target: Target, how: tuple[str, ...]) -> None:
    output = dig(target, *how, f"web.{target.namespace}.{ZONE}")
    assert [record[3] for record in records(output)] == ["A"]
    assert ("EDNS: version: 0" in output) == ("+noedns" not in how)


def test_case_is_kept(target: Target) -> None:
    name = f"WeB.{target.namespace}.SvC.cLuStEr.LoCaL."
    output = dig(target, name)
    assert f";{name}" in output
    assert records(output)[0][0] in (name, name.lower())


def test_targets_of_srv_records_have_the_question_s_zone(target: Target) -> None:
    """They may not be compressed (RFC 2782), and CoreDNS writes the zone as it was asked.

    As who asked first wrote it: later ones get that answer from its cache, so nobody else asks for this name.
    """
    service = f"node.{target.namespace}.SvC.cLuStEr.LoCaL."
    (record,) = records(dig(target, f"_http._tcp.{service}", "SRV"))
    assert record[4].split()[-1] == service.replace("SvC", "svc")


def test_answers_are_authoritative_and_short_lived(target: Target) -> None:
    output = dig(target, f"web.{target.namespace}.{ZONE}")
    assert re.search(r";; flags: qr aa", output)
    assert int(records(output)[0][1]) <= 30


@pytest.mark.parametrize("name", ["web", "web.{ns}", "web.{ns}.svc", "web.{ns}.svc.cluster.local"])
def test_short_names_in_a_pod(target: Target, name: str) -> None:
    """By the search list and `ndots:5` of a pod's resolv.conf, through the C library."""
    done = target.inside("getent", "ahosts", target.text(name))
    addresses = {line.split()[0] for line in done.stdout.splitlines()}
    assert addresses == {target.facts[f"web{family}"] for family in target.families()}


def test_resolv_conf(target: Target) -> None:
    text = target.inside("cat", "/etc/resolv.conf").stdout
    assert re.search(
        rf"^search {target.namespace}\.svc\.cluster\.local svc\.cluster\.local cluster\.local", text, re.M
    )
    assert re.search(r"^nameserver \S+$", text, re.M)
    assert re.search(r"^options .*ndots:5", text, re.M)
