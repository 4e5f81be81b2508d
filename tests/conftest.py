"""What all tests share."""

from __future__ import annotations

import asyncio

import uvloop
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # that it is busy is not a finding
settings.load_profile("any machine")

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(config, item):
    """Run a module's tests on each event loop that it names in `LOOPS`; on asyncio's when it names none."""
    return {name: LOOPS[name] for name in getattr(item.module, "LOOPS", ("asyncio",))}
