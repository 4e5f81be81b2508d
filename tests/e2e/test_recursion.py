"""A local cluster: its name server asks the workstation, which is connected to it, what it does not know.

program -> inroad -> traffic-manager -> CoreDNS -- forward . /etc/resolv.conf --> the node's name server,
which is a dnsmasq on the workstation, whose own questions the overriding resolver leads to inroad again
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.e2e.cluster import network
from tests.e2e.cluster.machine import wait_for
from tests.e2e.stage import NAMESPACE, Stage

pytestmark = pytest.mark.own_cluster


def restart_coredns(stage: Stage) -> None:
    """Give CoreDNS a new pod, which gets the node's resolv.conf as it is now."""
    stage.kubectl("rollout", "restart", "deployment/coredns", "-n", "kube-system")
    stage.wait_for_pods("kube-system", timeout=90)


@pytest.fixture(scope="module")
def leading_back(stage: Stage) -> Iterator[Stage]:
    """The cluster's nodes have the workstation as their name server."""
    stage.inroad("quit", status=None)
    stage.wait_for_pods(NAMESPACE)
    upstream = f"--server={network.LAN_ADDRESS}"
    listen = (f"--listen-address={network.WORKSTATION_ADDRESS}", "--bind-interfaces", "--user=root")
    alone = ("--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--pid-file=", "--cache-size=0")
    program = stage.workstation.start("dnsmasq", "dnsmasq", "--keep-in-foreground", *alone, *listen, upstream)
    files = {
        node.state / "resolv.conf": (node.state / "resolv.conf").read_text() for node in stage.cluster.nodes
    }
    for path in files:
        path.write_text(
            f"nameserver {network.WORKSTATION_ADDRESS}\n"
        )  # the file is mounted: it must stay one
    try:
        restart_coredns(stage)
        yield stage
    finally:
        for path, text in files.items():
            path.write_text(text)
        program.stop()
        restart_coredns(stage)


def look_up(stage: Stage, name: str) -> tuple[str, list[str], float]:
    """Ask by dig; return the code, the addresses and the seconds it took."""
    begun = time.monotonic()
    output = stage.run("dig", "+tries=1", "+time=5", name).stdout
    _, _, rest = output.partition("status: ")
    return (
        rest.partition(",")[0],
        [line.split()[-1] for line in output.splitlines() if "\tA\t" in line and not line.startswith(";")],
        time.monotonic() - begun,
    )


def test_recursion_is_found_and_its_queries_end_at_once(leading_back: Stage) -> None:
    stage = leading_back
    assert look_up(stage, "intranet.example.test")[1] == ["192.168.190.80"]
    before = stage.dump()
    stage.ask("connect", "-n", "shop")
    try:
        wait_for(
            "the recursion to be found",
            lambda: recursion(stage).startswith("found"),
            5,
            lambda: recursion(stage),
        )
        v4 = stage.cluster.get("service", "-n", "shop", "web")["spec"]["clusterIP"]
        assert look_up(stage, "web.shop.svc.cluster.local")[:2] == ("NOERROR", [v4])
        for absent in ("absent.shop.svc.cluster.local", "absent.shop", "absent"):
            code, addresses, took = look_up(stage, absent)
            assert (code, addresses) == ("NXDOMAIN", []), absent
            assert took < 1, absent
        assert stage.curl("http://web/")["namespace"] == "shop"
        assert stage.curl("http://web.default/")["namespace"] == "default"
        assert look_up(stage, "intranet.example.test")[1] == ["192.168.190.80"]
    finally:
        stage.inroad("quit")
    assert stage.dump() == before


def test_many_who_ask_for_one_name_are_all_answered(leading_back: Stage) -> None:
    stage = leading_back
    stage.ask("connect", "-n", "shop")
    try:
        name = "web.shop.svc.cluster.local"
        ask = f"for i in $(seq 40); do dig +short +tries=1 +time=5 {name} & done; wait"
        v4 = stage.cluster.get("service", "-n", "shop", "web")["spec"]["clusterIP"]
        assert stage.run("sh", "-c", ask).stdout.split() == [v4] * 40
    finally:
        stage.inroad("quit")


def recursion(stage: Stage) -> str:
    """Return what status says about recursion."""
    return str(stage.ask("status")["dns"]["recursion"])
