"""What breaks a connection on a real cluster, and that it comes back by itself; how users log in."""

from __future__ import annotations

import json
import signal
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.cluster import control_plane, network
from tests.e2e.cluster.machine import wait_for
from tests.e2e.conftest import restarted
from tests.e2e.stage import NAMESPACE, NOBODY, Stage


@pytest.fixture
def connected(clean_host: Stage) -> Iterator[Stage]:
    """A workstation connected to namespace `shop`; that it is clean after quit is checked."""
    clean_host.wait_for_pods(NAMESPACE)
    clean_host.ask("connect", "-n", "shop")
    yield clean_host
    clean_host.inroad("quit")


def works_again(stage: Stage, timeout: float) -> float:
    """Wait until a request succeeds; return the seconds it took."""
    begun = time.monotonic()
    page = ("curl", "-sS", "-m", "2", "http://web/")
    wait_for("a request to succeed", lambda: stage.run(*page, status=None).returncode == 0, timeout)
    return time.monotonic() - begun


def test_the_managers_pod_is_deleted(connected: Stage) -> None:
    [old] = connected.manager_pods()
    connected.kubectl("delete", "pod", "-n", NAMESPACE, old["metadata"]["name"], "--wait=false")
    wait_for("another manager", lambda: connected.manager_pods() != [old] and connected.manager_pods(), 30)
    works_again(connected, 30)
    connected.wait_for_pods(NAMESPACE)
    [new] = connected.manager_pods()
    assert new["metadata"]["name"] != old["metadata"]["name"]
    assert connected.curl("http://web/", "-4")["client_ip"] == new["status"]["podIP"]


@pytest.mark.own_cluster
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_api_server_is_restarted(connected: Stage, how: signal.Signals) -> None:
    first = connected.cluster.nodes[0]
    first.restart("kube-apiserver", how)
    connected.cluster.save()
    control_plane.wait_until_ready(first, connected.cluster.state / "ca.crt")
    works_again(connected, 30)
    assert connected.ask("status")["connected"] is True


@pytest.mark.own_cluster
@pytest.mark.parametrize("program", ["kubelet", "containerd"])
def test_a_nodes_program_is_restarted(connected: Stage, program: str) -> None:
    [manager] = connected.manager_pods()
    connected.cluster.machines[manager["spec"]["nodeName"]].restart(program)
    connected.cluster.save()
    works_again(connected, 30)
    assert connected.manager_pods()[0]["metadata"]["name"] == manager["metadata"]["name"]


RIGHTS = (("get,list", "pods"), ("get,create", "pods/portforward"))


def test_a_service_account_token_with_the_documented_rights(clean_host: Stage) -> None:
    token = clean_host.account("developer", *RIGHTS)
    config = clean_host.kubeconfig_with({"token": token}, "developer")
    clean_host.ask("connect", "-n", "shop", kubeconfig=config)
    assert clean_host.curl("http://web/")["namespace"] == "shop"
    clean_host.inroad("quit")


def test_without_the_right_to_list_pods(clean_host: Stage) -> None:
    token = clean_host.account("forwarder", ("get,create", "pods/portforward"))
    config = clean_host.kubeconfig_with({"token": token}, "forwarder")
    done = clean_host.inroad("connect", "-n", "shop", kubeconfig=config, status=19)
    assert "list pods" in done.stderr


def test_without_the_right_to_port_forward(clean_host: Stage) -> None:
    token = clean_host.account("reader", ("get,list", "pods"))
    config = clean_host.kubeconfig_with({"token": token}, "reader")
    done = clean_host.inroad("connect", "-n", "shop", kubeconfig=config, status=19)
    assert "pods/portforward" in done.stderr
    assert len(done.stderr.strip().splitlines()[-1:]) == 1


@dataclass
class Plugin:
    """A credential plugin that hands out what is in the file `token`, good for `seconds`; it logs its uid."""

    kubeconfig: str
    token: Path
    log: Path

    def runs(self) -> list[str]:
        """Return who has run it, once for each time."""
        return self.log.read_text().split()


def plugin(stage: Stage, name: str, seconds: int) -> Plugin:
    """Write a plugin, its log, and the token of a new account that may connect; return them."""
    state = stage.cluster.state
    program, token, log = state / f"{name}.py", state / f"{name}.token", state / f"{name}.log"
    for path in (token, log):
        path.touch()
        path.chmod(0o666)
    token.write_text(stage.account(name, *RIGHTS))
    log.write_text("")
    program.write_text(
        textwrap.dedent(f"""\
            import datetime, json, os, pathlib
            with open({str(log)!r}, "a") as log:
                print(os.getuid(), file=log)
            end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds={seconds})
            token = pathlib.Path({str(token)!r}).read_text()
            status = {{"token": token, "expirationTimestamp": end.strftime("%Y-%m-%dT%H:%M:%SZ")}}
            print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
                               "status": status}}))
            """)
    )
    execute = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "/usr/bin/python3",  # the tests' own may lie where the user can't read
        "args": [str(program)],
        "interactiveMode": "Never",
    }
    return Plugin(stage.kubeconfig_with({"exec": execute}, name), token, log)


def lose_the_link(stage: Stage) -> None:
    """Replace the manager's pod and wait until the session has a link to the next one."""
    old = stage.ask("status")["tunnel"]["manager_pod"]
    restarted(stage)
    wait_for("a link to another pod", lambda: linked_elsewhere(stage, old), 30)


def who(stage: Stage, kubeconfig: str) -> str:
    """Return what the API server calls the user of a kubeconfig, "" for one that it does not know."""
    return stage.kubectl(f"--kubeconfig={kubeconfig}", "auth", "whoami", check=False)


def linked_elsewhere(stage: Stage, old: str) -> bool:
    """Say whether the session has a link, and to another manager's pod."""
    tunnel = stage.ask("status")["tunnel"]
    return tunnel["state"] == "up" and tunnel["manager_pod"] != old


def test_an_exec_plugin_runs_as_the_user(clean_host: Stage) -> None:
    made = plugin(clean_host, "plugin", 600)
    clean_host.inroad("serve", "daemon", "--background", env={"SUDO_UID": str(NOBODY)})  # as sudo starts it
    clean_host.ask("connect", "-n", "shop", kubeconfig=made.kubeconfig, uid=NOBODY)
    assert clean_host.curl("http://web/")["namespace"] == "shop"
    assert set(made.runs()) == {str(NOBODY)}
    clean_host.inroad("quit", uid=NOBODY)
    clean_host.inroad("quit", status=None)


def test_credentials_that_expire_are_renewed(clean_host: Stage) -> None:
    """The server asks for none on a connection that is open, so a new link shows it."""
    made = plugin(clean_host, "short", 1)
    clean_host.ask("connect", "-n", "shop", kubeconfig=made.kubeconfig)
    before = len(made.runs())
    lose_the_link(clean_host)
    assert clean_host.curl("http://web/")["namespace"] == "shop"
    assert len(made.runs()) > before
    clean_host.inroad("quit")


def test_credentials_that_the_server_no_longer_accepts_are_renewed(clean_host: Stage) -> None:
    """A token ends with its account, long before the plugin said that it would."""
    made = plugin(clean_host, "revoked", 3600)
    clean_host.ask("connect", "-n", "shop", kubeconfig=made.kubeconfig)
    first = made.token.read_text()
    before = len(made.runs())
    made.token.write_text(clean_host.account("revoked", *RIGHTS))
    assert made.token.read_text() != first
    assert clean_host.curl("http://web/")["namespace"] == "shop", "an open link outlives its token"
    # The API server remembers for ten seconds that a token was good.
    ended = clean_host.kubeconfig_with({"token": first}, "ended")
    wait_for("the end of the first token", lambda: not who(clean_host, ended), 30)
    lose_the_link(clean_host)
    assert clean_host.curl("http://web/")["namespace"] == "shop"
    assert len(made.runs()) > before
    clean_host.inroad("quit")


PROXY = """
import asyncio, sys
async def pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def serve(reader, writer):
    line = (await reader.readuntil(b"\\r\\n\\r\\n")).split()
    host, port = line[1].decode().rsplit(":", 1)
    print(line[0].decode(), host, port, flush=True)
    far_reader, far_writer = await asyncio.open_connection(host, int(port))
    writer.write(b"HTTP/1.1 200 Connection established\\r\\n\\r\\n")
    await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)
async def main():
    await (await asyncio.start_server(serve, "192.168.190.1", 3128)).serve_forever()
asyncio.run(main())
"""


@pytest.mark.own_cluster
def test_through_an_http_proxy(clean_host: Stage) -> None:
    lan = clean_host.cluster.machines["lan"]
    proxy = lan.start("proxy", sys.executable, "-c", PROXY)
    wait_for(
        "the proxy", lambda: lan.run("nc", "-z", network.LAN_ADDRESS, "3128", check=False).returncode == 0
    )
    try:
        user = json.loads(clean_host.cluster.kubeconfig.read_text())["users"][0]["user"]
        config = clean_host.kubeconfig_with(
            user, "proxy", **{"proxy-url": f"http://{network.LAN_ADDRESS}:3128"}
        )
        clean_host.ask("connect", "-n", "shop", kubeconfig=config)
        assert clean_host.curl("http://web/")["namespace"] == "shop"
        clean_host.inroad("quit")
        assert f"CONNECT {network.API_ADDRESS} {network.API_PORT}" in proxy.log.read_text()
    finally:
        proxy.stop()
