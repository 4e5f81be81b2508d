"""Hearing of route changes from what a program prints, as `route -n monitor` does on macOS."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from inroad.host.routes import watching
from inroad.host.routes.watching import watch_output


async def until(changed: asyncio.Event) -> None:
    await asyncio.wait_for(changed.wait(), 10)
    changed.clear()


async def test_what_the_program_prints_is_a_change_and_it_ends_with_the_watching(tmp_path: Path) -> None:
    changed, fifo, pid = asyncio.Event(), tmp_path / "said", tmp_path / "pid"
    os.mkfifo(fifo)
    program = f"echo $$ > {pid}; exec cat {fifo}"
    stop = watch_output(("/bin/sh", "-c", program), changed.set)
    writer = await asyncio.to_thread(fifo.open, "w")
    for message in ("RTM_ADD: Add Route: len 148\n", "RTM_DELETE: Delete Route: len 148\n"):
        writer.write(message)
        writer.flush()
        await until(changed)
    process = int(pid.read_text())
    stop()
    while Path(f"/proc/{process}").exists():
        await asyncio.sleep(0.01)
    writer.close()


async def test_a_program_that_ends_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "RESTART", 0.01)
    changed = asyncio.Event()
    stop = watch_output(("/bin/echo", "RTM_IFINFO: iface status change"), changed.set)
    await until(changed)
    await until(changed)
    stop()
    await asyncio.sleep(0)
