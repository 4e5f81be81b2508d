"""The devices of macOS and Windows: what is asked of the system, byte for byte, and what it refuses."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from foreign_stage import ADDRESSES, Daemon, FakeMac, FakeWaits, FakeWintun, ForeignStage, Shell, ip
from test_vif_host import nft
from vif_stage import TARGET4, Namespace, connect

from inroad.core.errors import HostChangeFailed, NoPrivilege, NoTunDevice
from inroad.core.packet import UDP, ip_header, udp_segment
from inroad.host.cleanup import clean_up
from inroad.host.journal import Journal
from inroad.host.vif.api import FirewallDrops, VifConfig
from inroad.host.vif.one_device import begin
from inroad.host.vif.utun import open_macos, open_utun
from inroad.host.vif.wintun import ACCESS_DENIED, NO_MORE_ITEMS, SIGNATURES, WintunDevice
from inroad.host.vif.wintun_setup import KIND, open_windows, undo

CONFIG = VifConfig(addresses=ADDRESSES)
NETSH = r"C:\Windows\System32\netsh.exe"


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with Namespace():
        yield


async def test_a_mac_is_asked_for_a_utun_and_told_its_settings() -> None:
    mac, shell = FakeMac(), Shell()
    opened = await open_macos(CONFIG, mac, shell)
    name = b"com.apple.net.utun_control" + bytes(70)
    assert mac.calls == [
        "control_socket()",
        f"ioctl('0xc0644e03', {bytes(4) + name!r})",
        "connect(3, 0)",
        "getsockopt(2, 2, 16)",
    ]
    assert shell.said == [
        "/sbin/ifconfig utun7 inet 246.246.0.1 246.246.0.1 netmask 255.255.255.255 mtu 16000 up",
        "/sbin/route -n add -inet -net 198.18.0.0/16 -interface utun7",
        "/sbin/ifconfig utun7 inet6 fd00:0:0:246::1 prefixlen 128 alias",
        "/sbin/route -n add -inet6 -net 2001:2:0:1::/64 -interface utun7",
    ]
    assert (opened.device.name, opened.mtu, opened.versions, opened.notes) == ("utun7", 16_000, (4, 6), ())
    opened.device.close()
    assert "utun7" not in ip("link", "show"), "it goes with its descriptor"


async def test_a_mac_without_ipv6_gets_the_rest() -> None:
    shell = Shell()
    shell.refuse["inet6"] = "ifconfig: ioctl (SIOCAIFADDR): Can't assign requested address"
    opened = await open_macos(CONFIG, FakeMac(), shell)
    assert opened.versions == (4,)
    assert opened.notes[0].startswith("no IPv6 on this host (ifconfig: ioctl")
    daemon = Daemon()
    daemon.vif = await begin(opened, CONFIG, daemon, "utun", "test")
    ip("route", "add", "10.96.0.0/16", "dev", "utun7")
    (await connect(TARGET4, 7)).close()
    await daemon.vif.close()


@pytest.mark.parametrize(
    ("call", "number", "kind", "words"),
    [
        ("control_socket", errno.EPROTONOSUPPORT, NoTunDevice, "no control sockets"),
        ("ioctl", errno.ENOENT, NoTunDevice, "offers no utun"),
        ("connect", errno.EPERM, NoPrivilege, "may not be made"),
        ("connect", errno.EBUSY, HostChangeFailed, "utun2 is taken"),
        ("getsockopt", errno.EINVAL, HostChangeFailed, "Invalid argument"),
    ],
)
def test_what_a_mac_refuses(call: str, number: int, kind: type[Exception], words: str) -> None:
    mac = FakeMac()
    mac.refuse[call] = number
    with pytest.raises(kind, match=words):
        open_utun(mac, unit=3)
    assert mac.calls.count("close()") == (call != "control_socket"), "no descriptor is left"


async def test_a_mac_that_takes_no_address_keeps_no_device() -> None:
    mac, shell = FakeMac(), Shell()
    shell.refuse["netmask"] = "ifconfig: permission denied"
    with pytest.raises(HostChangeFailed, match="utun7 can't be configured: ifconfig: permission denied"):
        await open_macos(CONFIG, mac, shell)
    assert mac.calls[-1] == "close()"


async def test_windows_is_asked_for_an_adapter_and_told_its_settings(tmp_path: Path) -> None:
    wintun, shell, journal = FakeWintun(), Shell(), Journal(tmp_path / "journal")
    opened = await open_windows(CONFIG, wintun.library(), FakeWaits(wintun), shell, journal)
    assert wintun.calls == [
        "WintunCreateAdapter('inroad0', 'inroad', None)",
        "WintunStartSession(capacity=0x400000)",
    ]
    settings = [
        f"{NETSH} interface ipv4 set interface interface=inroad0 metric=1 dadtransmits=0 store=active",
        f"{NETSH} interface ipv4 set subinterface interface=inroad0 mtu=16000 store=active",
        f"{NETSH} interface ipv4 set address name=inroad0 source=static address=246.246.0.1"
        " mask=255.255.255.255 store=active",
        f"{NETSH} interface ipv4 add route prefix=198.18.0.0/16 interface=inroad0 metric=0 store=active",
        f"{NETSH} interface ipv6 set interface interface=inroad0 metric=1 dadtransmits=0 store=active",
        f"{NETSH} interface ipv6 set subinterface interface=inroad0 mtu=16000 store=active",
        f"{NETSH} interface ipv6 add address interface=inroad0 address=fd00:0:0:246::1/128 store=active",
        f"{NETSH} interface ipv6 add route prefix=2001:2:0:1::/64 interface=inroad0 metric=0 store=active",
    ]
    remove = f"{NETSH} advfirewall firewall delete rule name=inroad"
    add = (
        f"{NETSH} advfirewall firewall add rule name=inroad dir=in action=allow protocol=TCP"
        " localip=246.246.0.1,fd00:0:0:246::1 remoteip=198.18.0.0/16,2001:2:0:1::/64"
    )
    assert shell.said == [*settings, remove, add]
    assert [entry.kind for entry in journal.pending()] == [KIND], "the rule outlives a killed daemon"
    vif = await begin(opened, CONFIG, Daemon(), "wintun", "test")
    await vif.close()
    assert shell.said[-1] == remove
    assert journal.pending() == []
    assert wintun.calls[-2:] == ["WintunEndSession()", "WintunCloseAdapter()"]
    assert wintun.faults == []


async def test_the_rule_of_a_killed_daemon_is_removed(tmp_path: Path) -> None:
    Journal(tmp_path / "journal").record(KIND, {"name": "inroad"})
    shell = Shell()
    lines = await clean_up(tmp_path / "journal", {"vif": lambda entry: undo(entry, shell)})
    assert lines == ["removed the firewall rule inroad"]
    assert shell.said == [f"{NETSH} advfirewall firewall delete rule name=inroad"]


async def test_the_rule_of_a_device_that_vanished_is_removed_before_anybody_hears(tmp_path: Path) -> None:
    wintun, shell, journal = FakeWintun(), Shell(), Journal(tmp_path / "journal")
    opened = await open_windows(CONFIG, wintun.library(), FakeWaits(wintun), shell, journal)
    daemon = Daemon()
    vif = await begin(opened, CONFIG, daemon, "wintun", "test")
    ip("link", "delete", "inroad0")
    await daemon.until(lambda: daemon.failures)
    assert shell.said[-1] == f"{NETSH} advfirewall firewall delete rule name=inroad"
    assert journal.pending() == []
    await vif.close()
    assert len(daemon.failures) == 1


async def test_a_refused_setting_leaves_neither_adapter_nor_rule(tmp_path: Path) -> None:
    wintun, shell, journal = FakeWintun(), Shell(), Journal(tmp_path / "journal")
    shell.refuse["set address"] = "Zugriff verweigert"
    with pytest.raises(HostChangeFailed, match="inroad0 can't be configured: Zugriff verweigert"):
        await open_windows(CONFIG, wintun.library(), FakeWaits(wintun), shell, journal)
    assert wintun.calls[-1] == "WintunCloseAdapter()"
    assert journal.pending() == []


@pytest.mark.parametrize(("number", "kind"), [(ACCESS_DENIED, NoPrivilege), (1077, HostChangeFailed)])
def test_an_adapter_that_windows_refuses(number: int, kind: type[Exception]) -> None:
    wintun = FakeWintun()
    wintun.create = number
    with pytest.raises(kind, match="inroad0 can't be made"):
        WintunDevice(wintun.library(), FakeWaits(wintun), "inroad0")


def test_handles_of_64_bits_are_not_cut() -> None:
    """Without the signatures ctypes would take each for an int of 32 bits."""
    wintun = FakeWintun()
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(wintun, name)
        assert (function.restype, tuple(function.argtypes)) == (result, arguments)
    session = wintun.WintunStartSession(wintun.WintunCreateAdapter("inroad0", "inroad", None), 0x20000)
    assert session > 1 << 32
    size = ctypes.c_uint32()
    while wintun.WintunReceivePacket(session, size):
        wintun.WintunReleaseReceivePacket(session, next(iter(wintun.lent)))
    assert wintun.error == NO_MORE_ITEMS
    wintun.WintunEndSession(session)
    wintun.WintunCloseAdapter(FakeWintun.ADAPTER)
    assert wintun.faults == []


def test_a_full_ring_drops_and_goes_on() -> None:
    wintun = FakeWintun(capacity=1000)
    device = WintunDevice(wintun.library(), FakeWaits(wintun), "inroad0")
    addresses = ip_address("246.246.0.2").packed + ip_address("246.246.0.1").packed
    for size in (2000, 100):
        segment = udp_segment(addresses, b"\0\7\0\7", bytes(size))
        device.send(ip_header(addresses, UDP, len(segment)) + segment)
    assert wintun.error == 111, "the first one found no room"
    assert wintun.allocated == {}, "the second one was sent"
    device.close()
    device.close()
    assert wintun.faults == []


@pytest.mark.parametrize("mode", ["utun", "wintun"])
async def test_a_device_that_vanishes_is_told_of(mode: str) -> None:
    stage = ForeignStage(mode)
    await stage.open()
    ip("link", "delete", stage.vif.name)
    await stage.daemon.until(lambda: stage.daemon.failures)
    assert stage.daemon.failures[0].startswith(f"the device {stage.vif.name} is gone: ")
    await stage.close()


@pytest.mark.parametrize("mode", ["utun", "wintun"])
async def test_a_firewall_in_the_way_is_found_before_an_application_does(mode: str) -> None:
    nft("table inet f {\n chain input {\n type filter hook input priority 0; policy drop;\n }\n}\n")
    stage = ForeignStage(mode)
    opened = await stage.opened(CONFIG)
    with pytest.raises(FirewallDrops, match="drops IPv4 connections") as caught:
        await begin(opened, CONFIG, Daemon(), mode, "test")
    assert ("pfctl" if mode == "utun" else "Windows Defender") in caught.value.remedy
    assert opened.device.name not in ip("link", "show")
