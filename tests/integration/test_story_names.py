"""Names on a connected workstation while everything around them changes: no query fails, no flow ends."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_network

import pytest
from stage import Stage
from steady_names import asking, assert_all_answered, eventually, resolves, running

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")

CONFIG = "/run/home/dev/.config/inroad/config.yml"
FLOW = """
import socket, sys
with socket.create_connection((sys.argv[1], 7), 5) as sock:
    print("open", flush=True)
    for line in sys.stdin:
        sock.sendall(line.encode())
        print(sock.makefile().readline().strip(), flush=True)
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Stage]:
    """Yield a running sandbox."""
    stage = Stage(f"t-names-{os.getpid()}")
    stage.up()
    try:
        stage.run("mkdir", "-p", CONFIG.rpartition("/")[0])
        yield stage
    finally:
        stage.down()


@pytest.fixture
def stage(sandbox: Stage) -> Iterator[Stage]:
    """Yield the sandbox with its workstation connected to namespace `shop`."""
    sandbox.ask("connect", "-n", "shop")
    yield sandbox
    sandbox.inroad("quit", status=None)
    sandbox.run("rm", "-f", CONFIG)


def test_no_query_fails_and_no_flow_ends_while_names_change(stage: Stage) -> None:
    with running(stage, FLOW, "echo.shop") as flow, asking(stage, stage.address("lan")) as counts:
        assert flow.stdin is not None
        assert flow.stdout is not None
        assert flow.stdout.readline() == "open\n"
        for namespace in ("default", "shop"):
            assert stage.ask("connect", "-n", namespace)["change"] == "namespace"
            assert stage.curl("http://web/")["namespace"] == namespace
        stage.write(CONFIG, "dns:\n  mappings: [{name: new.corp, aliasFor: web.default.svc.cluster.local}]\n")
        eventually(lambda: resolves(stage, "new.corp"))
        stage.run("kubectl", "create", "namespace", "fresh", user="root")
        eventually(lambda: "fresh" in json.dumps(stage.ask("explain", "web.fresh")))
        stage.run("kubectl", "delete", "namespace", "fresh", user="root")
        stage.inroad("agent", "add", "-n", "shop")
        stage.inroad("attach", "deploy/web", "-n", "default")
        stage.inroad("detach", "deploy/web", "-n", "default")
        stage.inroad("agent", "remove", "-n", "shop")
        flow.stdin.write("still here\n")
        flow.stdin.flush()
        assert flow.stdout.readline() == "still here\n"
    assert_all_answered(counts)


def status(stage: Stage) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = stage.ask("status")
    return found


def office_ipv6(stage: Stage) -> str:
    """Return the address of the office's name server that the workstation does not ask at first."""
    return next(address for address in stage.addresses("lan") if ":" in address)


@pytest.fixture
def resolv_conf(stage: Stage) -> Iterator[Callable[[str], None]]:
    """Yield what replaces the workstation's resolv.conf, as a DHCP client or a VPN does."""
    before = stage.run("cat", "/etc/resolv.conf").stdout

    def replace(text: str) -> None:
        stage.run(
            "sh",
            "-c",
            "cat > /etc/resolv.new && mv /etc/resolv.new /etc/resolv.conf",
            user="root",
            stdin=text,
        )

    yield replace
    replace(before)


def test_another_network_with_other_name_servers(stage: Stage, resolv_conf: Callable[[str], None]) -> None:
    """The new server answers other names, is kept out of the VIF, and its queries come to us first."""
    office6 = office_ipv6(stage)
    subnet = ip_network((office6, 64), strict=False)
    routing = {"alsoProxySubnets": str(subnet), "allowConflictingSubnets": str(subnet)}
    stage.write(CONFIG, json.dumps({"routing": routing, "dns": {"excludes": ["printer"]}}))
    resolv_conf(f"search corp.example\nnameserver {office6}\n")
    eventually(lambda: status(stage)["dns"]["fallback"] == [f"{office6}:53"])
    eventually(lambda: f"{office6}/128" in status(stage)["never_proxy"])
    assert resolves(stage, "www.example")
    assert stage.curl("http://web/")["namespace"] == "shop"
    asked = stage.run("dig", "+short", f"@{office6}", "web.shop.svc.cluster.local", "AAAA").stdout
    assert asked.startswith("fd00:10:96::")
    # What was typed is the excluded name's, although the host appends its search domain.
    assert stage.ask("explain", "printer.corp.example")["name"]["rule"] == "excludes"


def test_a_resolv_conf_that_leads_nowhere_is_told(stage: Stage, resolv_conf: Callable[[str], None]) -> None:
    stage.run("ln", "-sf", "gone/resolv.conf", "/etc/resolv.conf", user="root")
    eventually(lambda: any("no name server" in text for text in status(stage)["warnings"]))
    assert stage.curl("http://web/")["namespace"] == "shop"
    resolv_conf(f"nameserver {stage.address('lan')}\n")
    eventually(lambda: not status(stage)["warnings"])
    assert resolves(stage, "www.example")
    assert stage.curl("http://web/")["namespace"] == "shop"


def test_a_name_server_named_in_the_file_while_connected(stage: Stage) -> None:
    address, office6 = stage.address("lan"), office_ipv6(stage)
    stage.write(CONFIG, f"dns:\n  localAddresses: ['{office6}']\n")
    eventually(lambda: status(stage)["dns"]["fallback"] == [f"{office6}:53"])
    assert resolves(stage, "www.example")
    stage.run("rm", CONFIG)
    eventually(lambda: status(stage)["dns"]["fallback"] == [f"{address}:53"])


def test_an_attachments_namespace_is_searched_until_it_is_given_up(stage: Stage) -> None:
    assert not resolves(stage, "kubernetes")
    stage.inroad("attach", "deploy/web", "-n", "default")
    assert resolves(stage, "kubernetes")
    assert stage.run("getent", "hosts", "web").stdout.split()[1] == "web.shop.svc.cluster.local"
    stage.inroad("detach", "deploy/web", "-n", "default")
    assert not resolves(stage, "kubernetes")


def test_the_managers_values_change_a_live_session(stage: Stage) -> None:
    patch = json.dumps(
        {"data": {"client.yaml": "dns: {mappings: [{name: pushed.corp, aliasFor: 10.96.0.1}]}"}}
    )
    name = "configmap/traffic-manager"
    before = stage.run(
        "kubectl", "get", "-n", "inroad", name, "-o", "jsonpath={.data.client\\.yaml}", user="root"
    )
    assert not resolves(stage, "pushed.corp")
    stage.run("kubectl", "patch", "-n", "inroad", name, "--type=merge", "-p", patch, user="root")
    try:
        eventually(lambda: resolves(stage, "pushed.corp"))
        sources = {one["key"]: one["source"] for one in stage.ask("config", "view")["values"]}
        assert sources["dns.mappings"] == "manager"
    finally:
        patch = json.dumps({"data": {"client.yaml": before.stdout}})
        stage.run("kubectl", "patch", "-n", "inroad", name, "--type=merge", "-p", patch, user="root")
    eventually(lambda: not resolves(stage, "pushed.corp"))


def test_somebody_has_port_53(sandbox: Stage) -> None:
    """A dnsmasq on all addresses of the workstation: our server takes another port, and all names work."""
    argv = ["dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", "--pid-file", "-p", "53"]
    argv += ["-S", sandbox.address("lan")]
    line = sandbox.command(argv, "root", "workstation")
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        eventually(lambda: "0.0.0.0:53" in sandbox.run("ss", "-lnu").stdout)
        sandbox.ask("connect", "-n", "shop")
        dns = sandbox.ask("status")["dns"]
        assert dns["port"] != 53
        assert sandbox.curl("http://web/")["namespace"] == "shop"
        assert resolves(sandbox, "www.example")
        sandbox.inroad("quit")
        assert resolves(sandbox, "www.example")
    finally:
        process.terminate()
        process.wait()
        sandbox.inroad("quit", status=None)
