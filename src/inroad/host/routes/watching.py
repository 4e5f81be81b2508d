"""Hears of route changes where the system tells by a program's output (macOS: `route -n monitor`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from inroad.host import run
from inroad.host.routes.monitor import COALESCE, Cooldown

RESTART = 5.0
"""Seconds after which a program that ended is started again."""


def watch_output(argv: Sequence[str], on_change: Callable[[], None]) -> Callable[[], None]:
    """Call `on_change` after the program printed something; returns what ends it."""
    task = asyncio.get_running_loop().create_task(_follow(argv, on_change))

    def stop() -> None:
        task.cancel()

    return stop


async def _follow(argv: Sequence[str], on_change: Callable[[], None]) -> None:
    tell = Cooldown(on_change, COALESCE)
    while True:
        process = await run.spawn(argv, stdout=asyncio.subprocess.PIPE)
        try:
            while process.stdout is not None and await process.stdout.read(65_536):
                tell()
        finally:
            tell.close()
            if process.returncode is None:
                process.kill()
            await process.wait()
        await asyncio.sleep(RESTART)
