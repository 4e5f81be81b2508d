"""A connected workstation whose resolver is the real systemd-resolved, from Debian's package."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from stage import Stage
from steady_names import asking, assert_all_answered, eventually, resolves
from tests.integration.debian import program
from tests.integration.resolved_stage import BUS_CONFIG

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")

STUB = "127.0.0.53"
CONFIG = "/run/home/dev/.config/inroad/config.yml"
SETUP = """
set -e
mkdir -p /run/dbus /run/systemd/resolve /run/systemd/resolved.conf.d
echo systemd-resolve:x:64321:64321::/run/systemd:/usr/sbin/nologin >> /etc/passwd
echo systemd-resolve:x:64321: >> /etc/group
chown -R 64321:64321 /run/systemd/resolve
printf '[Resolve]\\nFallbackDNS=\\n' > /run/systemd/resolved.conf.d/test.conf
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
"""


@dataclass
class Resolved:
    """The sandbox and the two system services on its workstation."""

    stage: Stage
    here: Path
    service: subprocess.Popen[str] | None = None

    def start_as_root(self, *argv: str) -> subprocess.Popen[str]:
        line = self.stage.command(list(argv), "root", "workstation")
        with (self.here / "services.log").open("a") as log:
            return subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True)

    def start(self) -> None:
        binary, env = program("systemd-resolved", "lib/systemd/systemd-resolved")
        self.service = self.start_as_root("env", f"LD_LIBRARY_PATH={env['LD_LIBRARY_PATH']}", binary)
        eventually(lambda: f"{STUB}%lo:53" in self.stage.run("ss", "-lnu").stdout)

    def stop(self) -> None:
        if self.service is not None:
            self.stage.run("pkill", "-x", "systemd-resolve", user="root", status=None)
            self.service.wait(10)
            self.service = None

    def ctl(self, *words: str) -> None:
        binary, env = program("systemd-resolved", "usr/bin/resolvectl")
        self.stage.run("env", f"LD_LIBRARY_PATH={env['LD_LIBRARY_PATH']}", binary, *words, user="root")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resolved]:
    """Yield a sandbox with a system bus and systemd-resolved, whose uplink has the office's name server."""
    here = tmp_path_factory.mktemp("resolved")
    stage = Stage(f"t-resolved-{os.getpid()}")
    stage.up()
    try:
        stage.run("sh", "-c", SETUP, user="root")
        (here / "bus.conf").write_text(BUS_CONFIG)
        found = Resolved(stage, here)
        bus = found.start_as_root("dbus-daemon", f"--config-file={here}/bus.conf", "--nofork", "--nopidfile")
        eventually(
            lambda: stage.run("test", "-S", "/run/dbus/system_bus_socket", status=None).returncode == 0
        )
        found.start()
        found.ctl("dns", "eth0", stage.address("lan"))
        eventually(lambda: resolves(stage, "www.example"))
        stage.run("mkdir", "-p", CONFIG.rpartition("/")[0])
        yield found
        found.stop()
        bus.kill()
        bus.wait()
    finally:
        stage.down()


@pytest.fixture
def stage(host: Resolved) -> Iterator[Stage]:
    """Yield the sandbox with its workstation connected to namespace `shop`."""
    host.stage.ask("connect", "-n", "shop")
    yield host.stage
    host.stage.inroad("quit")
    host.stage.run("rm", "-f", CONFIG)
    assert not resolves(host.stage, "web.shop")
    assert resolves(host.stage, "www.example")


def resolver(stage: Stage) -> dict[str, str]:
    found: dict[str, str] = stage.ask("status")["resolver"]
    return found


def test_names_go_the_way_that_systemd_resolved_gives_them(stage: Stage) -> None:
    assert resolver(stage)["kind"] == "systemd-resolved"
    assert stage.ask("status")["dns"]["fallback"] == [f"{stage.address('lan')}:53"]
    for url in ("http://web/", "http://web.shop/", "http://web.shop.svc.cluster.local/"):
        assert stage.curl(url)["namespace"] == "shop"
    assert resolves(stage, "www.example")
    assert stage.ask("connect", "-n", "default")["change"] == "namespace"
    assert stage.curl("http://web/")["namespace"] == "default"


def test_no_query_fails_while_names_change(stage: Stage) -> None:
    with asking(stage, STUB) as counts:
        for namespace in ("default", "shop"):
            stage.ask("connect", "-n", namespace)
        stage.write(CONFIG, "dns:\n  includeSuffixes: [.corp]\n")
        eventually(lambda: stage.ask("explain", "x.corp")["name"]["rule"] == "include-suffix")
        stage.inroad("attach", "deploy/web", "-n", "default")
        assert resolves(stage, "kubernetes")
        stage.inroad("detach", "deploy/web", "-n", "default")
    assert_all_answered(counts)


def test_the_uplinks_name_server_changes(host: Resolved, stage: Stage) -> None:
    office6 = next(address for address in stage.addresses("lan") if ":" in address)
    host.ctl("dns", "eth0", office6)
    eventually(lambda: stage.ask("status")["dns"]["fallback"] == [f"{office6}:53"])
    assert resolves(stage, "www.example")
    host.ctl("dns", "eth0", stage.address("lan"))
    eventually(lambda: stage.ask("status")["dns"]["fallback"] == [f"{stage.address('lan')}:53"])


def test_it_stops_and_comes_back(host: Resolved, stage: Stage) -> None:
    host.stop()
    eventually(lambda: resolver(stage)["kind"] == "overriding")
    assert "does not run any more" in resolver(stage)["reason"]
    assert stage.curl("http://web.shop/")["namespace"] == "shop"
    assert resolves(stage, "www.example")
    host.start()
    host.ctl("dns", "eth0", stage.address("lan"))
    eventually(lambda: resolver(stage)["kind"] == "systemd-resolved")
    assert stage.curl("http://web/")["namespace"] == "shop"
    assert resolves(stage, "www.example")
