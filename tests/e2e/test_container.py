"""The client inside a container that may do no more than it must, and a neighbour that shares its network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e import container
from tests.e2e.cluster.machine import wait_for
from tests.e2e.stage import Stage

FETCH = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())
"""
LOOK_UP = """
import socket, sys
print(socket.gethostbyname(sys.argv[1]))
"""


pytestmark = pytest.mark.own_cluster


@pytest.fixture(params=[True, False], ids=["IPv6", "IPv6 disabled"])
def network(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A network namespace for containers, with or without IPv6."""
    stage.inroad("quit", status=None)
    container.connect_network(stage.workstation, ipv6=request.param)
    try:
        yield stage
    finally:
        container.disconnect_network(stage.workstation)


def test_a_client_with_net_admin_and_a_tun_device(network: Stage, image: Path, tmp_path: Path) -> None:
    workstation = network.workstation
    old_login = network.kubeconfig_with({"auth-provider": {"name": "gcp", "config": {}}}, "auth-provider")
    files = {
        "/kubeconfig": network.cluster.kubeconfig,
        "/auth-provider": Path(old_login),
        "/etc/resolv.conf": workstation.state / "resolv.conf",
    }
    caps = ["CAP_NET_ADMIN"]
    daemon = ("inroad", "serve", "daemon", "--keep")
    client = container.start(workstation, "client", image, daemon, capabilities=caps, tun=True, files=files)
    neighbour = container.start(
        workstation, "neighbour", image, ["python3", "-c", "import signal; signal.pause()"], files=files
    )
    try:
        wait_for(
            "the containers", lambda: client.run("inroad", "status", status=None).returncode in (0, 21), 20
        )
        refused = client.run("inroad", "connect", "--kubeconfig", "/auth-provider", status=17)
        assert "the Python package kubernetes is needed" in refused.stderr
        assert "credential plugin (exec)" in refused.stderr
        connected = client.run("inroad", "connect", "-n", "shop", "-o", "json")
        status = json.loads(connected.stdout)
        assert status["connected"] is True
        assert status["resolver"]["kind"] == "overriding"
        for url in ("http://web/", "http://web.default/"):
            page = json.loads(neighbour.run("python3", "-c", FETCH, url).stdout)
            assert page["namespace"] == ("default" if "default" in url else "shop")
        known = neighbour.run("python3", "-c", LOOK_UP, "intranet.example.test").stdout.strip()
        assert known == "192.168.190.80"
        assert network.run("curl", "-sS", "-m", "2", "http://web.shop/", status=None).returncode != 0
        client.run("inroad", "quit")
        assert neighbour.run("python3", "-c", FETCH, "http://web/", status=None).returncode != 0
    finally:
        neighbour.remove()
        client.remove()
