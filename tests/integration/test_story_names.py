"""Names on a connected workstation while everything around them changes: no query fails, no flow ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network

import pytest
from stage import Stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")

CONFIG = "/run/home/dev/.config/inroad/config.yml"
STEADY = ["web.shop.svc.cluster.local", "web.shop", "web.default.svc", "www.example"]
"""Names that mean the same whatever the tests change."""
ASKER = """
import asyncio, collections, json, socket, struct, sys, time

PATIENCE = 5.0

class Asker(asyncio.DatagramProtocol):
    def __init__(self):
        self.waiting, self.counts = {}, collections.Counter()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        name = self.waiting.pop(data[:2], None)
        answers = int.from_bytes(data[6:8], "big")
        if name is not None:
            self.counts["answered" if data[3] & 15 == 0 and answers else "refused " + name] += 1

    def error_received(self, error):
        self.counts[str(error)] += 1

async def main(server, *names):
    loop = asyncio.get_running_loop()
    asked = [b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) for name in names]
    # A socket of its own for every query, as programs do, would run out of ports: 16 take turns.
    askers = [(await loop.create_datagram_endpoint(Asker, remote_addr=(server, 53)))[1] for _ in range(16)]
    stop = asyncio.Event()
    loop.add_reader(sys.stdin, stop.set)
    print("asking", flush=True)
    number, started = 0, loop.time()
    while not stop.is_set():
        due = int((loop.time() - started) * 1000)
        while number < due:
            number += 1
            asker, name = askers[number % 16], number // 16 % len(names)
            ident = struct.pack("!H", number // 16 % 65536)
            asker.waiting[ident] = names[name]
            header = ident + bytes([1, 0, 0, 1, 0, 0, 0, 0, 0, 0])
            asker.transport.sendto(header + asked[name] + bytes([0, 0, 1, 0, 1]))
        await asyncio.sleep(0.001)
    end = loop.time() + PATIENCE
    while any(asker.waiting for asker in askers) and loop.time() < end:
        await asyncio.sleep(0.01)
    counts = sum((asker.counts for asker in askers), collections.Counter())
    for asker in askers:
        for name in asker.waiting.values():
            counts["no answer " + name] += 1
    print(json.dumps({"asked": number, "counts": counts}), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""
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


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def resolves(stage: Stage, name: str) -> bool:
    return stage.run("getent", "ahostsv4", name, status=None).returncode == 0


@contextmanager
def running(stage: Stage, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program on the workstation, as its user; its stdin and stdout are pipes."""
    line = stage.command([sys.executable, "-c", program, *arguments], "dev", "workstation")
    process = subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def asking(stage: Stage) -> Iterator[dict[str, int]]:
    """Ask for the steady names 1,000 times a second; after that, the counts are in what it yields."""
    server = stage.run("sh", "-c", "sed -n 's/nameserver //p' /etc/resolv.conf").stdout.split()[0]
    counts: dict[str, int] = {}
    with running(stage, ASKER, server, *STEADY) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        yield counts
        out, err = process.communicate("stop\n", timeout=30)
        assert out, err
        report = json.loads(out)
        counts.update(report["counts"], asked=report["asked"])


def test_no_query_fails_and_no_flow_ends_while_names_change(stage: Stage) -> None:
    with running(stage, FLOW, "echo.shop") as flow, asking(stage) as counts:
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
    assert counts.pop("asked") == counts.pop("answered")
    assert counts == {}


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
