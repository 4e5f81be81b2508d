"""How a VIF begins and ends; the picture is in test_vif_tcp.py."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from ipaddress import ip_address

import pytest
from vif_stage import Daemon, Namespace, Stage, ip, stage

from inroad.core.errors import ConfigInvalid, HostChangeFailed
from inroad.host.vif.api import VifConfig
from inroad.host.vif.choose import open_vif

__all__ = ["stage"]


async def test_it_is_there_when_open_returns_and_gone_after_close(stage: Stage) -> None:
    assert "246.246.0.1/32" in ip("address", "show", "dev", "inroad0")
    assert "fd00:0:0:246::1/128" in ip("address", "show", "dev", "inroad0")
    assert stage.vif.kind == ("veth" if stage.mode == "veth" else "tun")
    assert f"mtu {stage.vif.mtu} " in ip("link", "show", "inroad0")
    await stage.vif.close()
    await stage.vif.close()
    assert "inroad0" not in ip("link")
    assert stage.daemon.failures == []


async def test_it_opens_quickly() -> None:
    with Namespace():
        began = time.monotonic()
        vif = await open_vif(VifConfig(addresses=(ip_address("246.246.0.1"),)), Daemon())
        took = time.monotonic() - began
        await vif.close()
    assert took < 0.5  # 0.1 on an idle machine


async def test_the_death_of_the_packet_loop_is_noticed(stage: Stage) -> None:
    os.kill(stage.worker, signal.SIGKILL)
    await stage.daemon.until(lambda: stage.daemon.failures)
    assert len(stage.daemon.failures) == 1
    assert "inroad0" not in ip("link")
    await stage.vif.close()


async def test_a_taken_name_is_an_error_that_says_so() -> None:
    with Namespace():
        ip("tuntap", "add", "dev", "inroad0", "mode", "tap")
        with pytest.raises(HostChangeFailed, match="inroad0"):
            await open_vif(VifConfig(), Daemon())


async def test_a_pair_that_outlived_its_packet_loop_is_replaced() -> None:
    with Namespace():
        ip("link", "add", "inroad0", "type", "veth", "peer", "name", "other")
        ip("link", "set", "inroad0", "alias", f"inroad, packet loop {os.getpid()}")
        with pytest.raises(HostChangeFailed, match="inroad0"):  # that one lives
            await open_vif(VifConfig(mode="veth"), Daemon())
        ended = await asyncio.create_subprocess_exec("true")
        await ended.wait()
        ip("link", "set", "inroad0", "alias", f"inroad, packet loop {ended.pid}")
        vif = await open_vif(VifConfig(mode="veth"), Daemon())
        assert f"inroad, packet loop {vif.pid}" in ip("link", "show", "inroad0")
        await vif.close()


async def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="magic"):
        await open_vif(VifConfig(mode="magic"), Daemon())


@pytest.mark.parametrize("mode", ["veth", "tun"])
async def test_it_ends_with_its_parent(mode: str) -> None:
    """`kill -9` of the daemon: the interface goes without anybody's help."""
    program = (
        "import asyncio, sys\n"
        "from inroad.host.vif.api import VifConfig\n"
        "from inroad.host.vif.choose import open_vif\n"
        "async def main():\n"
        f"    vif = await open_vif(VifConfig(mode={mode!r}), None)\n"
        "    print('open', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with Namespace():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
        )
        while await process.stdout.readline() not in (b"open\n", b""):  # log lines come first
            pass
        assert "inroad0" in ip("link")
        process.kill()
        await process.wait()
        for _ in range(100):
            if "inroad0" not in ip("link"):
                break
            await asyncio.sleep(0.02)
        assert "inroad0" not in ip("link")
