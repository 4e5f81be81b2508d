import click
import pytest

from inroad.cli.render import outcome_text, status_text, subnets
from inroad.core.status import (
    DnsStatus,
    MovedStatus,
    OriginStatus,
    Outcome,
    PathStatus,
    ResolverStatus,
    Status,
    SubnetStatus,
    TunnelStatus,
    VifStatus,
    VirtualStatus,
)


def connected() -> Status:
    return Status(
        connected=True,
        state="connected",
        since="2026-01-02T03:04:05Z",
        user="ada",
        context="dev",
        server="https://192.0.2.1:6443",
        namespace="shop",
        manager_namespace="inroad",
        cluster_domain="cluster.local",
        resolver=ResolverStatus("overriding", "no systemd-resolved"),
        dns=DnsStatus("246.246.0.1", 53, ["192.0.2.53"]),
        vif=VifStatus("inroad0", "tun", "forced", 65535),
        tunnel=TunnelStatus("up", "", "traffic-manager-0", 0.42, 1),
        subnets=[
            SubnetStatus("10.96.0.0/16", 4, "ServiceCIDR"),
            SubnetStatus("10.244.1.0/24", 4, "node podCIDR"),
        ],
    )


def text(status: Status) -> str:
    return click.unstyle(status_text(status))


def test_a_status_reads_as_an_aligned_table() -> None:
    assert text(connected()) == "\n".join(
        [
            "Connected",
            "  context     dev",
            "  cluster     https://192.0.2.1:6443 (cluster.local)",
            "  namespace   shop",
            "  manager     traffic-manager-0 in inroad",
            "  link        up, round trip 0.4 ms, 1 flow",
            "  interface   inroad0, tun: forced",
            "  names       overriding: no systemd-resolved",
            "  dns server  246.246.0.1:53, else 192.0.2.53",
            "  subnets     10.96.0.0/16   ServiceCIDR",
            "              10.244.1.0/24  node podCIDR",
            "  since       2026-01-02T03:04:05Z, by ada",
        ]
    )


def test_disconnected_is_one_line() -> None:
    assert text(Status()) == "Not connected"


def test_warnings_are_shown_connected_or_not() -> None:
    assert text(Status(warnings=["left over"])) == "Not connected\nwarning: left over"
    status = connected()
    status.warnings = ["origin not pinned"]
    assert text(status).endswith("\nwarning: origin not pinned")


def test_a_broken_link_is_told_with_its_time() -> None:
    status = connected()
    status.state, status.tunnel = "reconnecting", TunnelStatus("reconnecting", "03:04:05")
    lines = text(status).splitlines()
    assert lines[0] == "Reconnecting"
    assert "  link        reconnecting since 03:04:05" in lines


def test_many_subnets_are_counted_not_listed() -> None:
    many = [SubnetStatus(f"10.{n}.0.0/16", 4, "node podCIDR") for n in range(20)]
    assert subnets(many).splitlines()[-1] == "and 12 more (inroad status -o json)"


def test_virtual_addresses_are_told_with_what_they_stand_for() -> None:
    status = connected()
    status.moved = [
        MovedStatus("10.96.0.0/16", "it overlaps a route"),
        MovedStatus("::/0", "x", "deploy/web"),
    ]
    status.virtual = [
        VirtualStatus(f"246.246.0.{number}", f"10.96.0.{number}", "deploy/web" * (number == 10))
        for number in range(1, 11)
    ]
    status.virtual_addresses = 300
    lines = [line.strip() for line in text(status).splitlines()]
    assert "virtual     10.96.0.0/16: it overlaps a route" in lines
    assert "::/0, dialled by deploy/web: x" in lines
    assert "246.246.0.9 is 10.96.0.9" in lines
    assert "246.246.0.10 is 10.96.0.10 by deploy/web" in lines
    assert "246.246.0.2 is 10.96.0.2" not in lines
    assert "and 292 more (inroad status -o json)" in lines


@pytest.mark.parametrize(
    ("change", "head"),
    [
        ("connected", "Connected to dev in 0.8 s"),
        ("namespace", "Still connected to dev; the namespace is now shop"),
        ("unchanged", "Connected to dev already"),
    ],
)
def test_connect_ends_with_what_it_did(change: str, head: str) -> None:
    assert click.unstyle(outcome_text(Outcome(change, connected(), 812))).splitlines()[0] == head


def test_the_origin_says_how_it_is_reached() -> None:
    status = connected()
    status.origin = OriginStatus("web-1", "ephemeral", "attached to deploy/web in shop", PathStatus("direct"))
    line = "  origin      ephemeral agent web-1: attached to deploy/web in shop; direct"
    assert line in text(status).splitlines()
    status.origin.path = PathStatus("relayed", "no right to port-forward")
    assert text(status).count("in shop; relayed (no right to port-forward)") == 1
