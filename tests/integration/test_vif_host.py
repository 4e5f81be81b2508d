"""The VIF on hosts that are not plain: firewalls, containers, forwarded traffic, no IPv6."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from vif_stage import TARGET4, TARGET6, Daemon, Namespace, Stage, connect, ip, stage

from inroad.host.vif.api import FirewallDrops, VifConfig
from inroad.host.vif.choose import open_vif
from inroad.host.vif.process_linux import ProcessVif

__all__ = ["stage"]

DENY = "".join(
    f"""
table {family} filter {{
  chain INPUT {{
    type filter hook input priority 0; policy drop;
    iif "lo" accept
    ct state established,related accept
  }}
}}
"""
    for family in ("ip", "ip6")
)


MASQUERADE = """
table ip nat {
  chain post {
    type nat hook postrouting priority srcnat;
    ip saddr 172.30.0.0/24 oifname "inroad0" masquerade
  }
}
"""


def nft(rules: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


async def echoes(host: str, text: bytes = b"hello") -> bool:
    loop = asyncio.get_running_loop()
    sock = await connect(host, 7, timeout=3)
    with contextlib.closing(sock):
        await loop.sock_sendall(sock, text)
        return await asyncio.wait_for(loop.sock_recv(sock, 100), 3) == text


@pytest.mark.parametrize("host", [TARGET4, TARGET6])
async def test_a_default_deny_firewall_lets_the_applications_through(stage: Stage, host: str) -> None:
    if stage.mode == "one-tun":
        pytest.skip("there it can't; see the next test")
    nft(DENY)
    assert await echoes(host)


async def test_on_one_device_a_firewall_is_found_and_named() -> None:
    config = VifConfig(addresses=(ip_address("246.246.0.1"),))
    with Namespace():
        nft(DENY)
        vif = ProcessVif(config, Daemon(), "one-tun", "")
        with pytest.raises(FirewallDrops, match="chain ip filter INPUT") as caught:
            await vif.open()
        assert "inroad0" not in ip("link")
        subprocess.run(caught.value.remedy.split(), check=True)
        vif = ProcessVif(config, Daemon(), "one-tun", "")
        await vif.open()
        await vif.close()


async def test_a_container_with_net_admin_only() -> None:
    """No CAP_SYS_ADMIN: no namespace can be made; connections work by reflection on one device."""
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from vif_stage import *
async def main():
    stage = Stage("auto")
    await stage.open()
    print(stage.vif.kind, "|", stage.vif.reason)
    sock = await connect(TARGET4, 7)
    await asyncio.get_running_loop().sock_sendall(sock, b"hello")
    print((await asyncio.get_running_loop().sock_recv(sock, 9)).decode())
    await stage.close()
asyncio.run(main())
"""
    with Namespace():
        drop = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
        process = await asyncio.create_subprocess_exec(
            *drop, sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(process.communicate(), 20)
    kind, said = out.decode().splitlines()[-2:]
    assert kind.startswith("tun | reflection on one device")
    assert "Operation not permitted" in kind
    assert said == "hello"


async def test_a_host_without_ipv6() -> None:
    with Namespace():
        for name in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        daemon = Daemon()
        addresses = (ip_address("246.246.0.1"), ip_address("fd00:0:0:246::1"))
        daemon.vif = await open_vif(VifConfig(addresses=addresses), daemon)
        ip("route", "add", "10.96.0.0/16", "dev", "inroad0")
        assert await echoes(TARGET4)
        await daemon.vif.close()


@pytest.fixture
async def container(stage: Stage) -> AsyncIterator[str]:
    """A namespace behind the workstation's, as a container is: 172.30.0.2, its router 172.30.0.1."""
    name = f"iv-container-{stage.worker}"
    ip("netns", "add", name)
    try:
        ip("link", "add", "docker0", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("address", "add", "172.30.0.1/24", "dev", "docker0")
        ip("link", "set", "docker0", "up")
        ip("-n", name, "address", "add", "172.30.0.2/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "route", "add", "default", "via", "172.30.0.1")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        yield name
    finally:
        ip("netns", "delete", name)


@pytest.mark.parametrize("masquerade", [False, True])
async def test_traffic_forwarded_from_a_container(stage: Stage, container: str, masquerade: bool) -> None:
    if masquerade:
        nft(MASQUERADE)
    program = (
        "import socket; s = socket.create_connection(('10.96.0.5', 7), 3); s.sendall(b'x' * 300000);"
        "s.shutdown(1); n = 0\n"
        "while d := s.recv(65536): n += len(d)\n"
        "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(3); u.connect(('10.96.0.5', 7));"
        "u.send(b'y' * 9000); print(n, len(u.recv(10000)))"
    )
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", container, sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 10)
    assert out.split() == [b"300000", b"9000"]
    _, source, _, ttl = stage.daemon.syns[0]
    assert source[0] == ("246.246.0.1" if masquerade else "172.30.0.2")
    assert {ttl, *stage.daemon.hops} == {63}  # it was forwarded once: recursion detection goes by that
