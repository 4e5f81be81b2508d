"""What all tests share."""

from __future__ import annotations

import asyncio

import uvloop

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(config, item):
    """Run a module's tests on each event loop that it names in `LOOPS`; on asyncio's when it names none."""
    return {name: LOOPS[name] for name in getattr(item.module, "LOOPS", ("asyncio",))}
