"""Which back end a workstation gets, as a table of what was found on it."""

import pytest

from inroad.core.errors import HostChangeFailed, ToolMissing
from inroad.host.resolver.choose import Probes, choose
from inroad.host.resolver.places import Places

TABLE = [
    (Probes("darwin"), "macos", "", "/etc/resolver"),
    (Probes("win32"), "windows", "", "each interface"),
    (
        Probes("linux", resolved_runs=True, resolved_asked=True, nft=True),
        "systemd-resolved",
        "",
        "this host's",
    ),
    (Probes("linux", resolved_runs=True, resolved_asked=True), "systemd-resolved", "", "this host's"),
    (Probes("linux", resolved_runs=True, nft=True), "overriding", "nft", "nor nsswitch.conf leads to it"),
    (Probes("linux", resolved_asked=True, nft=True), "overriding", "nft", "does not run"),
    (Probes("linux", nft=True, iptables=True), "overriding", "nft", "does not run"),
    (Probes("linux", iptables=True), "overriding", "iptables", "nft can't own a table"),
]


@pytest.mark.parametrize(("probes", "kind", "tool", "reason"), TABLE)
def test_choice(probes, kind, tool, reason):
    choice = choose(probes)
    assert (choice.kind, choice.tool) == (kind, tool)
    assert reason in choice.reason


def test_no_tool():
    with pytest.raises(ToolMissing, match=r"neither nft .* nor iptables can be used"):
        choose(Probes("linux"))


def test_no_back_end():
    with pytest.raises(HostChangeFailed, match="freebsd"):
        choose(Probes("freebsd13"))


@pytest.mark.parametrize(
    ("resolv_conf", "nsswitch", "asked"),
    [
        ("nameserver 127.0.0.53\n", None, True),
        ("nameserver 127.0.0.54\n", None, True),
        ("nameserver 10.0.0.53\nnameserver 127.0.0.53\n", None, True),
        ("nameserver 10.0.0.53\n", "hosts: files resolve [!UNAVAIL=return] dns\n", True),
        ("nameserver 10.0.0.53\n", "hosts: files dns\n", False),
        ("nameserver 10.0.0.53\n", None, False),
        ("# nameserver 127.0.0.53\n", None, False),
        (None, "passwd: resolve\n", False),
        (None, None, False),
    ],
)
def test_whether_programs_ask_systemd_resolved(tmp_path, resolv_conf, nsswitch, asked):
    for name, text in (("resolv.conf", resolv_conf), ("nsswitch.conf", nsswitch)):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert Places(tmp_path / "resolv.conf", tmp_path / "nsswitch.conf").asks_resolved() == asked
